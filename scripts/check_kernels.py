"""The native kernels under every compiler and sanitizer that there is: scripts/check_kernels says more."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seqmem.kernels.build import FLAGS, VARIANTS, variants
from seqmem.kernels.loading import Unavailable, load

ROOT = Path(__file__).resolve().parents[1]
COMPILERS = ("g++", "clang++")
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Leaks are not looked for: Python and torch leave memory to the end of the process. The
# order of libraries is none of ours.
ASAN = "detect_leaks=0:verify_asan_link_order=0:abort_on_error=0:exitcode=99"

# Loaded by pytest under a sanitizer. Arrays that are lent come from the operating system in whole pages, and a lent one
# may be part of a larger one: nobody would see a step beyond its end. So each is allocated on its own here, and full of
# NaN, which shows where a number is read that nobody has written.
GUARDED = """\
def pytest_configure():  # by now jaxtyping sees what is imported
    import torch
    from seqmem.kernels.memory import Memory

    Memory.take = lambda self, numbers, dtype: torch.full((numbers,), float("nan"), dtype=dtype)
"""
OF_MEMORY = "reuses_buffers or allocates_no_buffers"  # tests of what GUARDED replaces


class Missing(Exception):
    """A check cannot be made; the message says what to install."""


class Failed(Exception):
    """A check has found something; the message is all that was said."""


def main() -> int:
    wanted = sys.argv[1:] or COMPILERS
    found = [path for name in wanted if (path := shutil.which(name)) is not None]
    if not found or (sys.argv[1:] and len(found) < len(wanted)):
        print(f"scripts/check_kernels: there is no {' or '.join(wanted)}: apt-get install g++ clang", file=sys.stderr)
        return 2
    bad = []
    with tempfile.TemporaryDirectory(prefix="seqmem-check-") as folder:
        for name, check in checks(found, Path(folder)):
            began = time.monotonic()
            try:
                said = f"ok, {check()}"
            except Missing as why:
                said = f"not checked: {why}"
                bad.append(name)
            except Failed as why:
                said = "FAILED"
                bad.append(name)
                print(why, file=sys.stderr)
            print(f"{name:<40} {said} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"verdict: not all well: {', '.join(bad)}" if bad else "verdict: all well")
    return 1 if bad else 0


def checks(compilers: list[str], folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """(what it is called, the check: it returns what to say, or raises Missing or Failed)"""
    for path in compilers:
        name = Path(path).name
        yield f"{name}: tests", lambda path=path, name=name: suite(path, folder / f"{name}-tests")
        yield (
            f"{name}: address, undefined",
            lambda path=path, name=name: suite(path, folder / f"{name}-address", sanitized=True),
        )
        yield f"{name}: threads", lambda path=path, name=name: threads(path, folder / f"{name}-threads")
    cross, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if cross and emulator:
        yield "64-bit ARM under QEMU", lambda: arm(cross, emulator, folder / "arm")
    else:
        print("64-bit ARM: left out; apt-get install g++-aarch64-linux-gnu qemu-user-static to have it checked")


def suite(compiler: str, copy: Path, sanitized: bool = False) -> str:
    """The tests of kernels and cells on a copy of seqmem, whose kernels ``compiler`` makes."""
    for part in ("src", "conf", "tests"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("*native.*", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    env = {**os.environ, "PYTHONPATH": str(copy / "src"), "CXX": compiler}
    env.pop("SEQMEM_ISA", None)
    options = ["tests/test_kernels.py", "tests/test_cells.py"]
    runtime: list[Path] = []
    if sanitized:
        flags, runtime = address_sanitizer(compiler)
        env["SEQMEM_CXXFLAGS"] = " ".join((*SANITIZED, *flags))
        (copy / "guarded.py").write_text(GUARDED)
        options = ["tests/test_kernels.py", "-p", "guarded", "-p", "no:faulthandler", "-k", f"not ({OF_MEMORY})"]
    else:
        env.pop("SEQMEM_CXXFLAGS", None)
    built = run([sys.executable, "-m", "seqmem.kernels.build"], copy, env)
    if str(copy) not in built:
        raise Failed(f"built another seqmem than the copy: {built}")
    if sanitized:
        env |= {"LD_PRELOAD": " ".join(map(str, runtime)), "ASAN_OPTIONS": ASAN, "UBSAN_OPTIONS": "print_stacktrace=1"}
        env["PYTHONPATH"] += os.pathsep + str(copy)
    # The sanitizers' reports go to the process's own stderr, which pytest must leave alone.
    said = run([sys.executable, "-m", "pytest", "-x", "-s", "-p", "no:cacheprovider", *options], copy, env)
    return said.strip().splitlines()[-1]


def address_sanitizer(compiler: str) -> tuple[list[str], list[Path]]:
    """What to compile with besides, and what Python, which is not compiled with it, must be started with: its runtime,
    and the C++ library, without which the runtime would not know how torch throws an exception."""
    clang = "clang" in Path(compiler).name
    name = f"libclang_rt.asan-{platform.machine()}.so" if clang else "libasan.so"
    needed = [runtime_library(compiler, name), runtime_library(compiler, "libstdc++.so.6")]
    # clang's sanitizer aligns the stack to 32 bytes where nothing else is said, and code for AVX-512 relies on 64.
    return ["-shared-libsan", "-mllvm", "-asan-realign-stack=64"] if clang else [], needed


def runtime_library(compiler: str, name: str) -> Path:
    found = Path(run([compiler, f"-print-file-name={name}"], ROOT, dict(os.environ)).strip())
    if not found.is_absolute():  # a compiler that doesn't have it repeats the name
        version = run([compiler, "-dumpversion"], ROOT, dict(os.environ)).strip().partition(".")[0]
        package = f"libclang-rt-{version}-dev" if "clang" in Path(compiler).name else f"libgcc-{version}-dev"
        raise Missing(f"{compiler} has no {name}: apt-get install {package}")
    return found


def threads(compiler: str, folder: Path) -> str:
    """scripts/check_kernels.cpp, a program of its own: Python and torch are not made for this sanitizer."""
    name = f"libclang_rt.tsan-{platform.machine()}.a" if "clang" in Path(compiler).name else "libtsan.so"
    runtime_library(compiler, name)
    library = load()
    isa = list(variants())[-1] if isinstance(library, Unavailable) else library.isa
    program = driver([compiler, *FLAGS, *variants()[isa], "-O1", "-g", "-fsanitize=thread"], folder)
    # It wants its shadow memory at fixed addresses, where an address space laid out at random may have something.
    fixed = [path, platform.machine(), "-R"] if (path := shutil.which("setarch")) else []
    return run([*fixed, str(program)], folder, {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}).strip()


def arm(compiler: str, emulator: str, folder: Path) -> str:
    program = driver([compiler, *FLAGS, *VARIANTS["arm64"]["neon"], "-static"], folder)
    return run([emulator, str(program)], folder, dict(os.environ)).strip()


def driver(command: list[str], folder: Path) -> Path:
    folder.mkdir()
    sources = ROOT / "src" / "seqmem" / "kernels"
    program = folder / "check"
    source = ROOT / "scripts" / "check_kernels.cpp"
    run([*command, f"-I{sources}", str(source), "-o", str(program), "-lm"], folder, dict(os.environ))
    return program


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """What it says on stdout.

    Raises:
        Failed: it ends with an error.
    """
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = done.stdout + done.stderr
        report = re.search("ERROR: |WARNING: ThreadSanitizer|runtime error: |CHECK failed", said)  # then a long stack
        from_line = said.rfind("\n", 0, report.start()) + 1 if report else max(0, len(said) - 6000)
        ended = f"exit code {done.returncode}"
        raise Failed(f"{' '.join(command)}: {ended}\n{said[from_line : from_line + 6000]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
