"""Compiles the native kernels into one shared library beside their sources: ``python -m seqmem.kernels.build``; with
``--missing`` only if the library there is not of these sources.

It needs the standard library only, and ``cores.py`` by its path: building a wheel runs this file before seqmem is
installed.
"""

import importlib.util
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

# No -march=native: the library would crash on an older machine. No -ffast-math: it breaks NaN.
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
"""Processor family -> instruction set -> compiler flags of the kernels; the best instruction set first."""
DISPATCH = "dispatch.cpp"
"""The source that is compiled once, for the family's baseline. Every other one is compiled for each instruction set."""


class BuildError(RuntimeError):
    """The kernels cannot be compiled here. The message is one line."""


def variants() -> dict[str, tuple[str, ...]]:
    """Instruction set -> flags, for the processor family of this machine."""
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine)
    return VARIANTS.get(machine, {"baseline": ()})


def source_hash(sources: Path = HERE) -> str:
    """Hash of the C++ files and compiler flags: a library with another hash may compute something else.

    The compiler is not part of it.
    """
    hashed = blake2b(repr((FLAGS, VARIANTS)).encode(), digest_size=16)
    for path in sorted(path for path in sources.iterdir() if path.suffix in (".cpp", ".hpp", ".h")):
        text = path.read_bytes()
        hashed.update(f"{path.name} {len(text)} ".encode() + text)
    return hashed.hexdigest()


def is_built(sources: Path = HERE) -> bool:
    """True if the library beside the sources was built from them."""
    try:
        library = (sources / LIBRARY).read_bytes()
    except OSError:
        return False
    return source_hash(sources).encode() in library


def find_compiler() -> list[str]:
    """$CXX, a path or a command with arguments, or the first of ``COMPILERS`` that is installed.

    Raises:
        BuildError: no compiler is installed, or $CXX is none.
    """
    whole = os.environ.get("CXX", "")
    command = [whole] if whole and shutil.which(whole) else _words("CXX")
    if command:
        if shutil.which(command[0]) is None:
            raise BuildError(f"CXX={command[0]}: there is no such compiler; unset CXX to look for {_either(COMPILERS)}")
        return command
    for name in COMPILERS:
        if (path := shutil.which(name)) is not None:
            return [path]
    raise BuildError(f"no C++ compiler found: install {_either(COMPILERS)}, or set CXX=/path/to/one")


def build(sources: Path = HERE, target: Path | None = None) -> Path:
    """Compile the kernels for each instruction set, and ``dispatch.cpp`` once, into one shared library.

    $CXX selects the compiler; $SEQMEM_CXXFLAGS appends flags, e.g. ``-fsanitize=address``.

    Args:
        sources: the folder of the C++ files.
        target: the folder for the library; None: ``sources``.

    Returns:
        The library's path. It is replaced atomically: a failed build leaves the old library in place.

    Raises:
        BuildError: there is no compiler, or it reports an error; or there is nothing to compile.
    """
    target = sources if target is None else target
    compiler = find_compiler()
    with tempfile.TemporaryDirectory(prefix="seqmem-kernels-") as folder:
        library = Path(folder) / LIBRARY
        link(compiler, compile_objects(compiler, sources, Path(folder)), library)
        partial = target / f".{LIBRARY}.{os.getpid()}"
        try:
            shutil.copy(library, partial)
            partial.replace(target / LIBRARY)
        except OSError as error:
            raise BuildError(f"cannot write {target / LIBRARY}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)
    return target / LIBRARY


def compile_objects(compiler: Sequence[str], sources: Path, folder: Path) -> list[Path]:
    """Compile in parallel to object files in ``folder``: ``NAME.ISA.o`` of each ``NAME.cpp``, and ``dispatch.o``.

    Raises:
        BuildError: the compiler reports an error, or there are no kernels in ``sources``.
    """
    kernels = sorted(path.stem for path in sources.glob("*.cpp") if path.name != DISPATCH)
    if not kernels:
        raise BuildError(f"there is no kernel in {sources}: no *.cpp beside {DISPATCH}")
    jobs = [
        (f"{name}.{isa}", f"{name}.cpp", f" for {isa}", (*flags, f"-DSEQMEM_ISA={isa}"))
        for name in kernels
        for isa, flags in variants().items()
    ]
    jobs.append(("dispatch", DISPATCH, "", (f'-DSEQMEM_SOURCE_HASH="{source_hash(sources)}"',)))

    def compile_one(job: tuple[str, str, str, tuple[str, ...]]) -> Path:
        name, source, isa, flags = job
        path = folder / f"{name}.o"
        own = _words("SEQMEM_CXXFLAGS")
        run_compiler([*compiler, *FLAGS, *flags, *own, "-c", sources / source, "-o", path], f"compile {source}{isa}")
        return path

    with ThreadPoolExecutor(_usable_cores()) as pool:
        return list(pool.map(compile_one, jobs))


def _usable_cores() -> int:
    spec = importlib.util.spec_from_file_location("cores", HERE.parent / "cores.py")
    assert spec is not None
    assert spec.loader is not None
    cores = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cores)
    return cores.usable_cores()


def link(compiler: Sequence[str], objects: Sequence[Path], library: Path) -> None:
    """Link the objects into one shared library.

    Raises:
        BuildError: the linker reports an error.
    """
    # --as-needed: do not depend on the C++ library, which is unused. --no-undefined: report undefined symbols now, not
    # at loading. Both are the default on macOS.
    linker = [] if sys.platform == "darwin" else ["-Wl,--as-needed,--no-undefined"]
    command = [*compiler, "-shared", "-pthread", *linker, "-o", library, *objects, *_words("SEQMEM_CXXFLAGS"), "-lm"]
    run_compiler(command, "link the kernels")


def _words(variable: str) -> list[str]:
    value = os.environ.get(variable, "")
    try:
        return shlex.split(value)
    except ValueError as error:
        raise BuildError(f"{variable}={value}: a quote is not closed in it") from error


def run_compiler(command: Sequence[str | Path], what: str) -> None:
    try:
        process = subprocess.run(
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
    if process.returncode != 0:
        lines = [line.strip() for line in (process.stderr or process.stdout).splitlines() if line.strip()]
        first = next(filter(re.compile("error|undefined").search, lines), lines[0] if lines else "it says nothing")
        raise BuildError(f"{command[0]} cannot {what}: {first}")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def main() -> int:
    if sys.argv[1:] == ["--missing"] and is_built():
        return 0
    try:
        path = build()
    except BuildError as error:
        sys.stderr.write(f"seqmem: no native kernels were built, torch's are used: {error}\n")
        return 1
    sys.stdout.write(f"seqmem: native kernels for {', '.join(variants())} in {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
