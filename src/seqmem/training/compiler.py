"""torch.compile for the updates: what it needs of the model and of the file system, and its errors in one line.

On the CPU it writes C++ and calls a compiler. It splits that command as a shell does, but does not quote every path in
it: a space or a quote in the path of its cache, of temporary files or of torch itself breaks the command. So while it
compiles, such paths are replaced by links whose names need no quotes.
"""

import getpass
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from ..cells.base import cells_in
from ..cells.state import State
from ..models.base import Model
from .plan import CannotCompile

CACHE = "TORCHINDUCTOR_CACHE_DIR"
PLACES = ("/tmp", "/var/tmp", "/dev/shm")
"""Where links can be, where the directory for temporary files has such a path itself."""


def compiled(model: Model) -> Callable[..., tuple[Tensor, State]]:
    """``model`` as torch.compile runs it; its cells use torch's layers.

    Raises:
        ValueError: a cell has ``kernel=native``.
    """
    for cell in cells_in(model):
        cell.prepare_for_compiler()
    with quotable_paths():  # torch computes some of its paths when its compiler is imported
        forward = torch.compile(model, dynamic=False)
    # A function, without the model's attributes: update would use the pass of the model that is not compiled.
    return lambda *args, **options: forward(*args, **options)


@contextmanager
def compiling(*, on: bool) -> Iterator[None]:
    """Around a call of a compiled model: the first one of each length compiles.

    Raises:
        CannotCompile: the compiler fails, in one line instead of its many.
    """
    if not on:
        yield
        return
    with quotable_paths():
        from torch import _dynamo  # importing torch's compiler takes seconds
        from torch._dynamo.exc import TorchDynamoException

        try:
            with _dynamo.config.patch(allow_rnn=True):  # by default it does not compile torch's recurrent layers
                yield
        except TorchDynamoException as error:
            reason = _reason(str(error)) or type(error).__name__
            raise CannotCompile(
                f"compile=true: torch cannot compile this model: {reason}; use compile=false"
            ) from error
        except OSError as error:
            where = f"{CACHE}={os.environ[CACHE]}" if CACHE in os.environ else tempfile.gettempdir()
            raise CannotCompile(
                f"compile=true: torch's compiler cannot work in {where}: {error.strerror or error}; set {CACHE}=DIR, "
                "or use compile=false"
            ) from error


def _reason(message: str) -> str:
    """The line that tells what is wrong: the C++ compiler's first error, or the first line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next(filter(re.compile(r"\berror: ").search, lines), next(iter(lines), ""))


@contextmanager
def quotable_paths() -> Iterator[None]:
    """Inside, no path that torch's compiler writes into a command is split there.

    Raises:
        CannotCompile: there is no directory for the links.
    """
    attributes: dict[tuple[object, str], object] = {}
    environment: dict[str, str | None] = {}
    if is_split(os.environ.get(CACHE, "")):
        environment[CACHE] = unsplit(os.environ[CACHE])
    if is_split(temporary := tempfile.gettempdir()):
        attributes[tempfile, "tempdir"] = unsplit(temporary)
    if is_split(package := str(Path(torch.__file__).parent)):
        from torch.utils import cpp_extension  # takes 0.3 s

        attributes[cpp_extension, "_TORCH_PATH"] = unsplit(package)
        attributes[cpp_extension, "TORCH_LIB_PATH"] = f"{unsplit(package)}/lib"
    with suppress(KeyError, OSError, ImportError):  # a user without a name
        if is_split(user := getpass.getuser()):  # torch names its default cache by it
            environment["LOGNAME"] = re.sub(r"[^\w.-]", "_", user)
    before = {(owner, name): getattr(owner, name) for owner, name in attributes}
    environment_before = {name: os.environ.get(name) for name in environment}
    try:
        _set(attributes, environment)
        yield
    finally:
        _set(before, environment_before)


def _set(attributes: Mapping[tuple[object, str], object], environment: Mapping[str, str | None]) -> None:
    for (owner, name), value in attributes.items():
        setattr(owner, name, value)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def unsplit(path: str) -> str:
    """A link to ``path`` whose own path is not split.

    It stays, and its name is a function of ``path``: the next run finds what torch has cached there.

    Raises:
        CannotCompile: there is no directory for it.
    """
    target = Path(path).absolute()
    name = f"seqmem-{os.getuid()}-{blake2b(bytes(target), digest_size=8).hexdigest()}"
    for place in (tempfile.gettempdir(), *PLACES):
        link = Path(place, name)
        if is_split(str(link)):
            continue
        with suppress(OSError):
            with suppress(FileExistsError):
                link.symlink_to(target)
            # In a directory for everyone it may be another user's, who could lead torch to libraries of theirs.
            if link.readlink() == target and link.lstat().st_uid == os.getuid():
                return str(link)
    raise CannotCompile(
        f"compile=true: torch's compiler cannot use {path!r}, as its path has a space or a quote, and no link to it "
        "can be made in /tmp: use a path without, or compile=false"
    )


def is_split(path: str) -> bool:
    """Whether a shell would not read ``path`` as one word; ``""`` is never a path."""
    try:
        return shlex.split(path) != [path] * bool(path)
    except ValueError:  # a quote that is not closed
        return True
