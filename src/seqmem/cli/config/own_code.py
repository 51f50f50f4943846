"""A user's own classes: which source they are made of, and importing exactly that source.

The first look at a ``target`` in a process takes a snapshot: the source of its module and of the modules beside the
user that it imports. From then on they are imported from the snapshot, not from the disk, so a run is filed under the
code that computes it, whatever is edited meanwhile. ``forget_edited`` is called where a command begins.

A class of ``__main__``, of a notebook or a script, has no source to import again: its code objects are hashed instead,
with the functions, classes and constants of the notebook that they name.
"""

import ast
import dis
import functools
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from .errors import ConfigError

SAFE_PATH = "PYTHONSAFEPATH"
"""If it is set, ``python -m`` and ``python -c`` do not look for libraries in the working directory, where a user's file
may have the name of one."""

SIZE = 8
"""Bytes of a hash in a run's configuration."""

PARTS = ("cell", "task", "model")
"""Settings whose ``target`` is a class; those of probes are in ``probe.NAME``."""


@dataclass(frozen=True)
class Source:
    """One module of a user. ``imports``: names of the user's modules that it imports, those in functions as well."""

    name: str
    path: Path
    text: bytes
    is_package: bool
    imports: tuple[str, ...]


class _Loader(SourceFileLoader):
    """Compiles a module's source as it is in the snapshot; cached bytecode is neither read nor written.

    Python trusts cached bytecode whose source has the same size and the same second: an edit from 0.1 to 0.9 may not be
    noticed.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, str(source.path))
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.source.text, self.path)


class _Finder(MetaPathFinder):
    """Finds the modules of the snapshot before ``sys.path`` does; ``importlib.reload`` reads the disk, as ever."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = self.sources.get(fullname)
        if source is None or target is not None or source.path.suffix != ".py":
            return None
        inside = [str(source.path.parent)] if source.is_package else None
        return importlib.util.spec_from_file_location(
            fullname, source.path, loader=_Loader(source), submodule_search_locations=inside
        )


_finder = _Finder()


def code_of(target: str, size: int = SIZE) -> str | None:
    """A hash of the code that ``target``, a dotted class, is made of; None where there is no such module.

    Of a module that imports no others of the user, it is the hash of the file.
    """
    module = target.rpartition(".")[0]
    if module == "__main__":
        kind = getattr(sys.modules["__main__"], target.rpartition(".")[2], None)
        return None if kind is None else _Hash(size).of(kind)
    sources = _snapshot(module)
    if not sources:
        return None
    sources = [source for source in sources if source.text or source.name == module]
    if len(sources) == 1:
        return blake2b(sources[0].text, digest_size=size).hexdigest()
    whole = blake2b(digest_size=size)
    for source in sorted(sources, key=lambda source: source.name):
        whole.update(f"{source.name} {len(source.text)}\n".encode() + source.text)
    return whole.hexdigest()


def files_of(target: str) -> list[str]:
    """The files that ``code_of`` hashes, as paths from the working directory where they are below it."""
    paths = [source.path for source in _snapshot(target.rpartition(".")[0])]
    here = Path.cwd()
    return [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in paths]


def pinned(part: Any) -> Any:
    """The settings of a cell, task, model or probe. If they name a class, a hash of its code is added once."""
    if not isinstance(part, Mapping) or "target" not in part or "code" in part:
        return part
    code = code_of(str(part["target"]))
    return part if code is None else {**part, "code": code}  # importing it will fail with a better message


def targets(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(the setting's name, the part) of everything in a configuration that names a class: ``cell``, ``probe.NAME``."""
    for name in PARTS:
        yield from _with_target(name, getattr(config, name))
    for name, part in config.probe.items():
        yield from _with_target(f"probe.{name}", part)


def _with_target(name: str, part: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(part, Mapping) and "target" in part:
        yield name, part


def edited(config: Any) -> str | None:
    """What is not the code that the configuration was pinned to, in words; None: all is.

    A process that has an older snapshot, as a worker that serves several sweeps, takes a new one.
    """
    for attempt in (1, 2):
        other = [
            (name, part)
            for name, part in targets(config)
            if part.get("code") not in (None, code_of(str(part["target"])))
        ]
        if not other:
            return None
        if attempt == 1:
            forget_edited()
    name, part = other[0]
    files = ", ".join(files_of(str(part["target"]))) or "which is not found here"
    return f"{name}.target={part['target']}: its code ({files}) is not"


def require(config: Any) -> None:
    """Refuse to train with other code than the configuration is pinned to, and with none.

    Raises:
        ConfigError: it was edited since.
    """
    if why := edited(config):
        raise ConfigError(f"{why} what it was when this run was set up: the same command begins with the code of now")


class _Beside(MetaPathFinder):
    """Finds modules in the working directory, for the user's own code alone and after all other finders.

    In ``sys.path`` the directory would also serve libraries: they would take a file ``random.py`` there for Python's,
    or a ``tqdm.py`` for one that they use where it is installed.
    """

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return _spec_beside(fullname) if path is None and _is_the_users(_importer()) else None


_beside = _Beside()


def _importer() -> Path:
    """The file of the code whose import is being answered: the first frame outside of importlib, which called us."""
    frame, inside = sys._getframe(), False  # noqa: SLF001
    while frame.f_back is not None:
        machinery = frame.f_globals.get("__name__", "").partition(".")[0] in ("importlib", "_frozen_importlib")
        if inside and not machinery:
            break
        inside |= machinery
        frame = frame.f_back
    return Path(frame.f_code.co_filename)


def look_beside_the_user() -> None:
    """Find a user's own modules: those of the snapshot before all others, and those in the working directory."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if _beside not in sys.meta_path:
        sys.meta_path.append(_beside)


def hidden(module: str) -> str | None:
    """A file beside the user that a library of its name hides, in words; None: there is none.

    ``random.py: Python's own random hides it, it needs another name``
    """
    top = module.partition(".")[0]
    spec, beside = _spec(top), _spec_beside(top)
    if spec is None or beside is None or beside.origin == spec.origin:
        return None
    library = "Python's own" if top in sys.stdlib_module_names else "the library"
    return f"{Path(beside.origin or top).name}: {library} {top} hides it, it needs another name"


def import_module(name: str) -> ModuleType:
    """The module of the snapshot. If one that it draws on was imported earlier, and may have been edited since, all are
    imported again."""
    if _outdated(name):
        for source in _snapshot(name):
            if source.path.suffix == ".py":
                sys.modules.pop(source.name, None)
    return importlib.import_module(name)


def imported_again(config: Any, edited: Sequence[Path]) -> list[str]:
    """The names of files of the configuration's classes that are among ``edited``, or that the user imported and may
    have edited since."""
    names = [str(part["target"]).rpartition(".")[0] for _, part in targets(config)]
    known = [source.path for name in names for source in _snapshot(name) if source.path in edited]
    return list(dict.fromkeys(path.name for path in [*known, *(one.path for name in names for one in _outdated(name))]))


def _outdated(name: str) -> list[Source]:
    sources = [source for source in _snapshot(name) if source.path.suffix == ".py"]
    return [source for source in sources if source.name in sys.modules and not _is(sys.modules[source.name], source)]


def _is(module: ModuleType, source: Source) -> bool:
    """Whether a module was made of this source. One that the user imported: if its file is older than this process."""
    loader = getattr(module, "__loader__", None)
    if isinstance(loader, _Loader):
        return loader.source == source
    try:
        stat = source.path.stat()
    except OSError:
        return False
    return max(stat.st_mtime, stat.st_ctime) < _process_start() - 1  # seconds, for coarse clocks of file systems


@functools.cache
def _process_start() -> float:
    """When this process was started, in seconds since the epoch; 0 where the system does not say."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0
    return time.time() - age


def forget_edited() -> list[Path]:
    """Forget the snapshot if a file of it was edited, moved or hidden by another, so that the next look reads the disk.

    Returns:
        The files that differ.
    """
    look_beside_the_user()
    importlib.invalidate_caches()
    sources = _finder.sources.values()
    changed = [source for source in sources if _read(source.name, source.name.partition(".")[0]) != source]
    if changed:
        _forget()
    return [source.path for source in changed]


def forget_elsewhere() -> None:
    """Forget the snapshot if a module of it would now be found elsewhere: the working directory has changed."""
    specs = [(source, _find(source.name)) for source in _finder.sources.values()]
    if any(spec is None or spec.origin != str(source.path) for source, spec in specs):
        _forget()


def _forget() -> None:
    for source in _finder.sources.values():
        if isinstance(getattr(sys.modules.get(source.name), "__loader__", None), _Loader):
            del sys.modules[source.name]
    _finder.sources.clear()


# The snapshot


def _snapshot(module: str) -> list[Source]:
    """The module and the user's modules that it draws on, the module first; empty if it is not found."""
    look_beside_the_user()
    top, waiting, sources = module.partition(".")[0], [module, *_parents(module)], dict[str, Source]()
    while waiting:
        name = waiting.pop(0)
        if name in sources:
            continue
        source = _finder.sources.get(name) or _read(name, top)
        if source is None:
            continue
        sources[name] = _finder.sources.setdefault(name, source)
        waiting += source.imports
    return list(sources.values()) if module in sources else []


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _read(name: str, top: str) -> Source | None:
    """A module's source on the disk; None: it is not found, or neither the user's nor in the package ``top``."""
    spec = _find(name)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    path = Path(spec.origin)
    if not (_is_the_users(path) or name.partition(".")[0] == top):
        return None
    try:
        text = path.read_bytes()
    except OSError:
        return None
    package = spec.submodule_search_locations is not None
    imports = tuple(_imports(text, name, package=package)) if path.suffix == ".py" else ()
    return Source(name, path, text, package, imports)


def _find(name: str) -> ModuleSpec | None:
    """A module's spec, without importing the packages around it, as ``importlib.util.find_spec`` would."""
    path: Sequence[str] | None = None
    spec = None
    for part in [*_parents(name), name]:
        spec = _spec(part, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and part != name:
            return None
    return spec


def _spec(name: str, path: Sequence[str] | None = None) -> ModuleSpec | None:
    """Where the module is. One beside the user comes before installed ones, but for those that seqmem itself needs.

    Args:
        path: of the package around it; None: it is a top-level module.
    """
    others = [finder for finder in sys.meta_path if finder not in (_finder, _beside) and hasattr(finder, "find_spec")]
    try:
        spec = next(filter(None, (finder.find_spec(name, path) for finder in others)), None)
        beside = _spec_beside(name) if path is None else None
    except (ImportError, ValueError, OSError):
        return None
    if beside is None:
        return spec
    if spec is not None and spec.origin == beside.origin:  # the working directory is on sys.path
        here = Path.cwd()
        elsewhere = [entry for entry in sys.path if Path(entry or ".").absolute() != here]
        spec = PathFinder.find_spec(name, elsewhere)
    return spec if spec is not None and _is_needed(name) else beside


def _spec_beside(name: str) -> ModuleSpec | None:
    """The top-level module in the working directory; None: there is no file of it."""
    spec = PathFinder.find_spec(name, [str(Path.cwd())])
    return spec if spec is not None and spec.has_location else None


@functools.cache
def _is_needed(name: str) -> bool:
    """Whether a top-level module is Python's, seqmem's or of a package that seqmem needs, directly or not."""
    if name in sys.stdlib_module_names or name in ("seqmem", "hydra_plugins"):
        return True
    providers = {_normal(provider) for provider in metadata.packages_distributions().get(name, ())}
    needed, waiting = set[str](), ["seqmem"]
    while waiting and not providers & needed:
        project = waiting.pop()
        needed.add(project)
        with suppress(metadata.PackageNotFoundError):
            lines = [line for line in metadata.requires(project) or () if project == "seqmem" or "extra ==" not in line]
            waiting += {_normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines} - needed
    return bool(providers & needed)


def _normal(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()


def _is_the_users(path: Path) -> bool:
    """Whether a file is neither of Python, nor of an installed package, nor of seqmem."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    resolved = path.resolve()
    return not any(resolved.is_relative_to(library) for library in _libraries())


@functools.cache
def _libraries() -> tuple[Path, ...]:
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(__file__).parents[2])}
    return tuple(Path(place).resolve() for place in places if place)


def _imports(text: bytes, module: str, *, package: bool) -> Iterator[str]:
    """The modules that may be meant by a source's import statements, and the packages that they are in."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return  # importing it will fail with a better message
    around = module if package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = around.split(".")[: len(around.split(".")) - node.level + 1] if around else []
                base = ".".join(filter(None, [*outer, base]))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
        else:
            continue
        for name in names:
            yield from (*_parents(name), name)


# Classes without a file


class _Hash:
    """A hash of an object of ``__main__`` and all that its code names there. The same for the same code and constants;
    line numbers, comments and addresses do not count."""

    def __init__(self, size: int) -> None:
        self._whole = blake2b(digest_size=size)
        self._seen: dict[int, int] = {}

    def of(self, thing: Any) -> str:
        self._add(thing)
        return self._whole.hexdigest()

    def _text(self, *words: object) -> None:
        for word in words:
            text = word if isinstance(word, bytes) else str(word).encode()
            self._whole.update(f"{len(text)}:".encode() + text)

    def _add(self, thing: Any) -> None:
        if thing is None or isinstance(thing, bool | int | float | complex | str | bytes | type(Ellipsis)):
            self._text(type(thing).__name__, repr(thing))
        elif id(thing) in self._seen:
            self._text("again", self._seen[id(thing)])
        else:
            self._seen[id(thing)] = len(self._seen)
            self._add_object(thing)

    def _add_object(self, thing: Any) -> None:
        if isinstance(thing, CodeType):
            self._text("code", thing.co_code, thing.co_names, thing.co_varnames, thing.co_freevars, thing.co_flags)
            self._all(thing.co_consts)
        elif isinstance(thing, tuple | list):
            self._text(type(thing).__name__, len(thing))
            self._all(thing)
        elif isinstance(thing, Mapping):
            self._text("mapping", len(thing))
            self._all(entry for pair in thing.items() for entry in pair)
        elif isinstance(thing, set | frozenset):
            self._text("set", sorted(map(repr, thing)))
        elif isinstance(thing, ModuleType):
            self._text("module", thing.__name__, code_of(f"{thing.__name__}.x") or "" if _own_module(thing) else "")
        elif isinstance(thing, staticmethod | classmethod):
            self._text(type(thing).__name__)
            self._add(thing.__func__)
        elif isinstance(thing, property):
            self._text("property")
            self._all((thing.fget, thing.fset, thing.fdel))
        elif isinstance(thing, type | FunctionType | BuiltinFunctionType):
            self._named(thing)
        else:
            self._value(thing)

    def _all(self, things: Any) -> None:
        for thing in things:
            self._add(thing)

    def _named(self, thing: Any) -> None:
        self._text(type(thing).__name__, thing.__module__, thing.__qualname__)
        if thing.__module__ != "__main__":
            module = sys.modules.get(str(thing.__module__))
            if module is not None and _own_module(module):
                self._text(code_of(f"{thing.__module__}.x"))
        elif isinstance(thing, type):
            self._all(thing.__bases__)
            for name, value in sorted(vars(thing).items()):
                if name not in _BOOKKEEPING:
                    self._text(name)
                    self._add(value)
        elif isinstance(thing, FunctionType):
            self._add(thing.__code__)
            self._all((thing.__defaults__, thing.__kwdefaults__))
            for cell in thing.__closure__ or ():
                try:
                    self._add(cell.cell_contents)
                except ValueError:  # not assigned yet
                    self._text("empty")
            for name in sorted(set(_global_names(thing.__code__))):
                if name in thing.__globals__:
                    self._text(name)
                    self._add(thing.__globals__[name])

    def _value(self, thing: Any) -> None:
        self._text("value", type(thing).__module__, type(thing).__qualname__)
        if hasattr(thing, "detach"):  # a tensor
            thing = thing.detach().cpu().numpy()
        if hasattr(thing, "tobytes"):
            self._text(getattr(thing, "dtype", ""), getattr(thing, "shape", ""), thing.tobytes())
        elif hasattr(thing, "__wrapped__"):
            self._add(thing.__wrapped__)
        elif type(thing).__module__ == "__main__":
            self._add(type(thing))
            self._add(getattr(thing, "__dict__", None))
        elif " at 0x" not in (text := repr(thing)):
            self._text(text)


_BOOKKEEPING = (
    "__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__",
    "__abstractmethods__", "_abc_impl",
)  # fmt: skip
"""Attributes that Python itself gives a class."""


def _global_names(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _own_module(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return module.__name__ != "__main__" and file is not None and _is_the_users(Path(file))
