"""Tests of the native kernels under all compilers and sanitizers; see scripts/check_kernels."""

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

from seqmem.kernels.build import DISPATCH, FLAGS, VARIANTS, variants
from seqmem.kernels.loading import Unavailable, load

ROOT = Path(__file__).resolve().parents[1]
COMPILERS = ("g++", "clang++")
SANITIZED = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# No leak detection: Python and torch free much of their memory only at exit. The order of libraries is not ours.
ASAN = "detect_leaks=0:verify_asan_link_order=0:abort_on_error=0:exitcode=99"

# Loaded by pytest under a sanitizer. The buffer pool hands out parts of larger buffers, whose overrun a sanitizer
# cannot see. So allocate every buffer separately here, and fill it with NaN to reveal reads of unwritten numbers;
# likewise the smaller arrays, which no pool lends.
GUARDED = """\
def pytest_configure():  # not earlier: jaxtyping must be active before seqmem is imported
    import torch
    from seqmem.kernels.memory import Memory

    Memory.take = lambda self, numbers, dtype: torch.full((numbers,), float("nan"), dtype=dtype)
    from seqmem.kernels import arrays, associative, functions, modes, scan, selective

    def allocate(memory, like, *sizes):
        return like.new_full(sizes, float("nan"))

    for kernels in (arrays, associative, functions, modes, scan, selective):
        if hasattr(kernels, "allocate"):
            kernels.allocate = allocate
"""
POOL_TESTS = "reuses_buffers or allocates_no_buffers or pool_refuses"  # tests of the pool that GUARDED replaces


class Missing(Exception):
    """A check cannot be made; the message says what to install."""


class Failed(Exception):
    """A check failed; the message is the output."""


def main() -> int:
    names = sys.argv[1:] or COMPILERS
    compilers = [path for name in names if (path := shutil.which(name)) is not None]
    if not compilers or (sys.argv[1:] and len(compilers) < len(names)):
        print(f"scripts/check_kernels: there is no {' or '.join(names)}: apt-get install g++ clang", file=sys.stderr)
        return 2
    bad = []
    with tempfile.TemporaryDirectory(prefix="seqmem-check-") as folder:
        for name, check in checks(compilers, Path(folder)):
            start = time.monotonic()
            try:
                verdict = f"ok, {check()}"
            except Missing as why:
                verdict = f"not checked: {why}"
                bad.append(name)
            except Failed as why:
                verdict = "FAILED"
                bad.append(name)
                print(why, file=sys.stderr)
            print(f"{name:<40} {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"verdict: not all well: {', '.join(bad)}" if bad else "verdict: all well")
    return 1 if bad else 0


def checks(compilers: list[str], folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, check): a check returns a note for its line, or raises Missing or Failed."""
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
    """Run the tests of kernels and cells on a copy of seqmem with kernels compiled by ``compiler``."""
    for part in ("src", "conf", "tests"):
        shutil.copytree(
            ROOT / part, copy / part, ignore=shutil.ignore_patterns("*native.so*", "*native.dylib*", "__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", copy)
    env = {**os.environ, "PYTHONPATH": str(copy / "src"), "CXX": compiler}
    env.pop("SEQMEM_ISA", None)
    options = [
        "tests/test_kernels.py",
        "tests/test_scan.py",
        "tests/test_modes.py",
        "tests/test_associative.py",
        "tests/test_cells.py",
    ]
    runtime: list[Path] = []
    if sanitized:
        flags, runtime = address_sanitizer(compiler)
        env["SEQMEM_CXXFLAGS"] = " ".join((*SANITIZED, *flags))
        (copy / "guarded.py").write_text(GUARDED)
        options = [
            "tests/test_kernels.py",
            "tests/test_scan.py",
            "tests/test_modes.py",
            "tests/test_associative.py",
            "-p",
            "guarded",
            "-p",
            "no:faulthandler",
            "-k",
            f"not ({POOL_TESTS})",
        ]
    else:
        env.pop("SEQMEM_CXXFLAGS", None)
    output = run([sys.executable, "-m", "seqmem.kernels.build"], copy, env)
    if str(copy) not in output:
        raise Failed(f"built another seqmem than the copy: {output}")
    if sanitized:
        env |= {"LD_PRELOAD": " ".join(map(str, runtime)), "ASAN_OPTIONS": ASAN, "UBSAN_OPTIONS": "print_stacktrace=1"}
        env["PYTHONPATH"] += os.pathsep + str(copy)
    # The sanitizers write to the process's stderr, so pytest must not capture it (-s).
    output = run([sys.executable, "-m", "pytest", "-x", "-s", "-p", "no:cacheprovider", *options], copy, env)
    return output.strip().splitlines()[-1]


def address_sanitizer(compiler: str) -> tuple[list[str], list[Path]]:
    """(additional compiler flags, libraries to preload): Python itself is not instrumented, so it needs the sanitizer's
    runtime, and the C++ library, which the runtime needs to intercept exceptions of torch."""
    clang = "clang" in Path(compiler).name
    name = f"libclang_rt.asan-{platform.machine()}.so" if clang else "libasan.so"
    needed = [runtime_library(compiler, name), runtime_library(compiler, "libstdc++.so.6")]
    # By default clang's sanitizer aligns the stack to 32 bytes, but AVX-512 code needs 64.
    return ["-shared-libsan", "-mllvm", "-asan-realign-stack=64"] if clang else [], needed


def runtime_library(compiler: str, name: str) -> Path:
    path = Path(run([compiler, f"-print-file-name={name}"], ROOT, dict(os.environ)).strip())
    if not path.is_absolute():  # a compiler without the library prints its name
        version = run([compiler, "-dumpversion"], ROOT, dict(os.environ)).strip().partition(".")[0]
        package = f"libclang-rt-{version}-dev" if "clang" in Path(compiler).name else f"libgcc-{version}-dev"
        raise Missing(f"{compiler} has no {name}: apt-get install {package}")
    return path


def threads(compiler: str, folder: Path) -> str:
    """Run scripts/check_kernels.cpp, a separate program: this sanitizer does not work with Python and torch."""
    name = f"libclang_rt.tsan-{platform.machine()}.a" if "clang" in Path(compiler).name else "libtsan.so"
    runtime_library(compiler, name)
    library = load()
    isa = list(variants())[-1] if isinstance(library, Unavailable) else library.isa
    program = driver([compiler, *FLAGS, *variants()[isa], "-O1", "-g", "-fsanitize=thread"], folder)
    # Without address space randomization: the shadow memory has fixed addresses, which must be free.
    fixed = [path, platform.machine(), "-R"] if (path := shutil.which("setarch")) else []
    return run([*fixed, str(program)], folder, {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}).strip()


def arm(compiler: str, emulator: str, folder: Path) -> str:
    """Run scripts/check_kernels.cpp on an emulated processor, and compile the kernels that it does not call."""
    command = [compiler, *FLAGS, *VARIANTS["arm64"]["neon"]]
    checked = run([emulator, str(driver([*command, "-static"], folder))], folder, dict(os.environ)).strip()
    sources = [path for path in (ROOT / "src" / "seqmem" / "kernels").glob("*.cpp") if path.name != DISPATCH]
    for source in sources:
        run([*command, "-c", str(source), "-o", f"{source.stem}.o"], folder, dict(os.environ))
    return f"{checked}; {len(sources)} sources compile"


def driver(command: list[str], folder: Path) -> Path:
    folder.mkdir()
    sources = ROOT / "src" / "seqmem" / "kernels"
    program = folder / "check"
    source = ROOT / "scripts" / "check_kernels.cpp"
    run([*command, f"-I{sources}", str(source), "-o", str(program), "-lm"], folder, dict(os.environ))
    return program


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """The standard output of ``command``.

    Raises:
        Failed: its exit code is not 0.
    """
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        output = done.stdout + done.stderr
        report = re.search(
            "ERROR: |WARNING: ThreadSanitizer|runtime error: |CHECK failed", output
        )  # a long stack follows
        from_line = output.rfind("\n", 0, report.start()) + 1 if report else max(0, len(output) - 6000)
        code = f"exit code {done.returncode}"
        raise Failed(f"{' '.join(command)}: {code}\n{output[from_line : from_line + 6000]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
