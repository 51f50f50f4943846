"""Compiles the native kernels into one shared library beside their sources: ``python -m seqmem.kernels.build``.

The standard library alone: whoever builds a wheel runs this file by its path, where seqmem is not installed yet.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARY = "native.dylib" if sys.platform == "darwin" else "native.so"
COMPILERS = ("c++", "g++", "clang++")

# Neither -march=native, with which a library dies on the next machine, nor -ffast-math, with which NaN is a number.
FLAGS = (
    "-std=c++17", "-O3", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden",
)  # fmt: skip
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512": (
            "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mprefer-vector-width=512",
        ),
        "avx2": ("-mavx2", "-mfma"),
        "baseline": (),
    },
    "arm64": {"neon": ()},
}  # fmt: skip
"""Processor family -> instruction set -> the flags that recurrence.cpp is compiled with for it; the best first."""


class BuildError(RuntimeError):
    """The kernels cannot be compiled here. The message is one line."""


def variants() -> dict[str, tuple[str, ...]]:
    """Instruction set -> flags, for the processor family of this machine."""
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    return VARIANTS.get(machine, {"baseline": ()})


def source_hash(sources: Path = HERE) -> str:
    """Of all that a library is made from, but the compiler: a library with another hash computes something else."""
    found = blake2b(repr((FLAGS, VARIANTS)).encode(), digest_size=16)
    for path in sorted(path for path in sources.iterdir() if path.suffix in (".cpp", ".hpp", ".h")):
        text = path.read_bytes()
        found.update(f"{path.name} {len(text)} ".encode() + text)
    return found.hexdigest()


def find_compiler() -> list[str]:
    """$CXX, which may have arguments, or the first of ``COMPILERS`` there is.

    Raises:
        BuildError: there is none.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise BuildError(f"CXX={chosen[0]}: there is no such compiler; unset CXX to look for {_either(COMPILERS)}")
        return chosen
    for name in COMPILERS:
        if (path := shutil.which(name)) is not None:
            return [path]
    raise BuildError(f"no C++ compiler found: install {_either(COMPILERS)}, or set CXX=/path/to/one")


def build(sources: Path = HERE, target: Path | None = None) -> Path:
    """Compile ``recurrence.cpp`` once for each instruction set and ``dispatch.cpp`` once, into one shared library.

    $CXX chooses the compiler, $SEQMEM_CXXFLAGS adds flags behind all others, e.g. ``-fsanitize=address``.

    Args:
        sources: the folder of the C++ files.
        target: the folder that the library is put into; None: ``sources``.

    Returns:
        The library. It is renamed into place when it is whole: until then, and after a failure, the old one stands.

    Raises:
        BuildError: no compiler, or one that refuses.
    """
    target = sources if target is None else target
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="seqmem-kernels-") as folder:
        linked = Path(folder) / LIBRARY
        link(compiler, compile_objects(compiler, sources, Path(folder)), linked)
        partial = target / f".{LIBRARY}.{os.getpid()}"
        try:
            shutil.copy(linked, partial)
            partial.replace(target / LIBRARY)
        except OSError as error:
            raise BuildError(f"cannot write {target / LIBRARY}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)
    return target / LIBRARY


def compile_objects(compiler: Sequence[str], sources: Path, folder: Path) -> list[Path]:
    """The object files, in ``folder``: ``ISA.o`` for each instruction set and ``dispatch.o``.

    Raises:
        BuildError: the compiler refuses one.
    """
    dispatch = (f'-DSEQMEM_SOURCE_HASH="{source_hash(sources)}"',)
    jobs = [(isa, "recurrence.cpp", (*flags, f"-DSEQMEM_ISA={isa}")) for isa, flags in variants().items()]
    jobs.append(("dispatch", "dispatch.cpp", dispatch))

    def compiled(job: tuple[str, str, tuple[str, ...]]) -> Path:
        name, source, flags = job
        path = folder / f"{name}.o"
        what = f"compile {source}" + (f" for {name}" if name != "dispatch" else "")
        _run([*compiler, *FLAGS, *flags, *_extra(), "-c", sources / source, "-o", path], what)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, jobs))


def link(compiler: Sequence[str], objects: Sequence[Path], library: Path) -> None:
    """The objects as one shared library.

    Raises:
        BuildError: they cannot be linked.
    """
    # It shall not load what it doesn't use, all of the C++ library; and what nobody defines is to be found out now.
    # On macOS both are so anyway.
    linker = [] if sys.platform == "darwin" else ["-Wl,--as-needed,--no-undefined"]
    _run([*compiler, "-shared", "-pthread", *linker, "-o", library, *objects, *_extra(), "-lm"], "link the kernels")


def _extra() -> list[str]:
    return shlex.split(os.environ.get("SEQMEM_CXXFLAGS", ""))


def _run(command: Sequence[str | Path], what: str) -> None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        first = next(filter(re.compile("error|undefined").search, lines), lines[0] if lines else "it says nothing")
        raise BuildError(f"{command[0]} cannot {what}: {first}")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def main() -> int:
    try:
        path = build()
    except BuildError as error:
        sys.stderr.write(f"seqmem: no native kernels were built, torch's are used: {error}\n")
        return 1
    sys.stdout.write(f"seqmem: native kernels for {', '.join(variants())} in {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
