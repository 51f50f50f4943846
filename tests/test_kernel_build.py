"""The native kernels are compiled, found, and refused where they must be; without them everything works."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from commandline import OWN_CELLS, TINY, environment, in_a_process, only_run
from compilers import COMPILERS, needs_compiler
from seqmem.cli.config.build import Backend
from seqmem.cli.config.build import build as configured
from seqmem.cli.config.compose import compose_run
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.verbs import list as listing
from seqmem.kernels import build as builder
from seqmem.kernels import loading
from seqmem.kernels.build import BuildError, build, compile_objects, link, source_hash, variants
from seqmem.kernels.loading import Library, Unavailable

loaded = loading.load.__wrapped__  # the tests of kernels in this process keep theirs

# Small and quick to compile, with what the real one has: a function for each type, and templates behind them.
KERNEL = """\
#define JOINED(a, b) a##_##b
#define NAMED(a, b) JOINED(a, b)
namespace {
template <class T> void add(T* out, const T* in, long n, T times) {
  for (long i = 0; i < n; ++i) out[i] += times * in[i];
}
}
#define API extern "C" __attribute__((visibility("default")))
API void NAMED(add_f32, SEQMEM_ISA)(float* out, const float* in, long n, float times) { add(out, in, n, times); }
API void NAMED(add_f64, SEQMEM_ISA)(double* out, const double* in, long n, double times) { add(out, in, n, times); }
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """To be compiled by the first compiler that there is, whatever the environment asks for."""
    monkeypatch.delenv("SEQMEM_CXXFLAGS", raising=False)
    monkeypatch.delenv("SEQMEM_ISA", raising=False)
    if COMPILERS:
        monkeypatch.setenv("CXX", COMPILERS[0])
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "recurrence.cpp").write_text(KERNEL)
    shutil.copy(builder.HERE / "dispatch.cpp", folder)
    return folder


@pytest.mark.parametrize("path", COMPILERS, ids=[Path(path).name for path in COMPILERS])
def test_every_compiler_there_is(path: str, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it makes computes, for both types and each instruction set of this machine."""
    monkeypatch.setenv("CXX", path)
    assert build(sources) == sources / builder.LIBRARY
    assert {file.name for file in sources.iterdir()} == {"recurrence.cpp", "dispatch.cpp", builder.LIBRARY}
    found = loaded(sources)
    assert isinstance(found, Library)
    assert found.isa == found.isas[0]
    assert set(found.isas) <= set(variants())
    assert found.isas[-1] == list(variants())[-1]  # which every machine of the family runs
    for isa in found.isas:
        chosen = Library(found.path, isa, found.isas, found.native)
        for dtype, kind, number in (("f32", np.float32, ctypes.c_float), ("f64", np.float64, ctypes.c_double)):
            out, given = np.ones(37, kind), np.arange(37, dtype=kind)
            function = chosen.function("add", dtype)
            function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, number)
            function(out.ctypes.data, given.ctypes.data, 37, 2.0)
            assert out.tolist() == [1 + 2 * i for i in range(37)]
            assert chosen.function("add", dtype) is function  # so that argtypes are set once
    with pytest.raises(AttributeError, match="subtract_f32"):
        found.function("subtract", "f32")


def test_the_compiler_is_one_that_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", f"{sys.executable} -m wrapped")
    assert builder.find_compiler() == [sys.executable, "-m", "wrapped"]
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(BuildError, match=r"^CXX=/nonexistent/c\+\+: there is no such compiler; unset CXX"):
        build(tmp_path)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"^no C\+\+ compiler found: install c\+\+, g\+\+ or clang\+\+, or set CXX="):
        build(tmp_path)
    (tmp_path / "g++").write_text("no program\n")
    (tmp_path / "g++").chmod(0o755)
    with pytest.raises(BuildError, match=r"g\+\+ cannot be run: "):
        builder._run([str(tmp_path / "g++")], "compile")


@needs_compiler
def test_a_failed_build_leaves_the_old_library(sources: Path) -> None:
    built = build(sources)
    old = built.read_bytes()
    (sources / "recurrence.cpp").write_text(KERNEL + "void f() { wrong; }\n")
    why = r"cannot compile recurrence.cpp for \w+: .*recurrence.cpp:.*error: .*wrong"
    with pytest.raises(BuildError, match=why) as said:
        build(sources)
    assert "\n" not in str(said.value)
    (sources / "recurrence.cpp").unlink()
    with pytest.raises(BuildError, match=r"cannot compile recurrence.cpp for \w+: "):
        build(sources)
    (sources / "recurrence.cpp").write_text(KERNEL)
    (sources / "dispatch.cpp").write_text('extern "C" int missing(); int f() { return missing(); }\n')
    with pytest.raises(BuildError, match=r"cannot link the kernels: .*missing"):
        build(sources)
    shutil.copy(builder.HERE / "dispatch.cpp", sources)
    nowhere = sources / "nowhere"
    with pytest.raises(BuildError, match=f"cannot write {nowhere / builder.LIBRARY}: "):
        build(sources, nowhere)
    assert built.read_bytes() == old
    assert {file.name for file in sources.iterdir()} == {"recurrence.cpp", "dispatch.cpp", builder.LIBRARY}


def test_a_build_that_is_killed_leaves_the_old_library(sources: Path, tmp_path: Path) -> None:
    """Killed while the compiler runs, which has said that it does."""
    old = b"what was there"
    (sources / builder.LIBRARY).write_bytes(old)
    slow, begun = tmp_path / "slow", tmp_path / "begun"
    slow.write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 60\n")
    slow.chmod(0o755)
    code = f"from pathlib import Path; from seqmem.kernels.build import build; build(Path({str(sources)!r}))"
    env = environment(CXX=str(slow), TMPDIR=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # and the compilers that it has started
        process.wait()
    assert (sources / builder.LIBRARY).read_bytes() == old
    assert {file.name for file in sources.iterdir()} == {"recurrence.cpp", "dispatch.cpp", builder.LIBRARY}


@needs_compiler
def test_a_stale_library_is_never_used(sources: Path) -> None:
    assert loaded(sources / "..") == Unavailable("not built, python -m seqmem.kernels.build builds them")
    built = build(sources)
    first = source_hash(sources)
    (sources / "recurrence.cpp").write_text(KERNEL + "\n")
    assert source_hash(sources) != first
    assert loaded(sources) == Unavailable(
        "built from other sources than these, python -m seqmem.kernels.build builds them anew"
    )
    (sources / "recurrence.cpp").write_text(KERNEL)
    assert isinstance(loaded(sources), Library)
    (sources / "more.h").write_text("")
    assert source_hash(sources) != first
    (sources / "more.h").unlink()
    (sources / "notes.txt").write_text("")
    assert source_hash(sources) == first

    broken = sources / "broken"
    broken.mkdir()
    (broken / builder.LIBRARY).write_bytes(built.read_bytes()[:100])
    found = loaded(broken)
    assert isinstance(found, Unavailable)
    assert found.reason.startswith("cannot be loaded: ")
    assert found.reason.endswith("; python -m seqmem.kernels.build builds them anew")
    assert "\n" not in found.reason


@needs_compiler
def test_the_instruction_set_can_be_chosen(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(sources)
    best = loaded(sources)
    assert isinstance(best, Library)
    assert loading.load(sources) is loading.load(sources)
    for isa in best.isas:
        monkeypatch.setenv("SEQMEM_ISA", isa)
        found = loaded(sources)
        assert isinstance(found, Library)
        assert (found.isa, found.isas) == (isa, best.isas)
        monkeypatch.setattr(loading, "load", lambda found=found: found)
        assert loading.describe() == f"native ({isa})"
    monkeypatch.setenv("SEQMEM_ISA", "mmx")
    choices = ", ".join(best.isas)
    with pytest.raises(ValueError, match=f"^SEQMEM_ISA=mmx: this machine has native kernels for {choices}$"):
        loaded(sources)
    monkeypatch.setattr(loading, "load", lambda: Unavailable("for a reason"))
    assert loading.describe() == "torch (no native kernels: for a reason)"


def symbols(path: Path, *options: str) -> list[tuple[str, str]]:
    """(nm's letter, name)"""
    done = subprocess.run(["nm", *options, str(path)], capture_output=True, text=True, check=True)
    return [(line.split()[-2], line.split()[-1]) for line in done.stdout.splitlines() if len(line.split()) > 1]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real kernels' objects and library. Not optimized: done in seconds, and nothing vanishes by inlining."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("SEQMEM_CXXFLAGS", "-O0")
        link([COMPILERS[0]], compile_objects([COMPILERS[0]], builder.HERE, folder), folder / builder.LIBRARY)
    return folder


@needs_compiler
def test_the_library_stands_alone(real: Path) -> None:
    """It needs nothing of torch, Python or the C++ library, and shows nothing but its own names."""
    shared = symbols(real / builder.LIBRARY, "-D")
    needed = {name.partition("@")[0] for letter, name in shared if letter in "Uw"}
    assert needed
    for name in needed:
        assert not any(word in name for word in ("torch", "c10", "2at", "Py", "_ZN", "_ZSt", "omp", "GOMP")), name
    offered = {name for letter, name in shared if letter not in "Uw"}
    assert {"seqmem_isas", "seqmem_source_hash"} < offered
    assert all(name.startswith("seqmem_") or name.endswith(tuple(variants())) for name in offered), offered
    by_isa = {isa: {name.removesuffix(isa) for name in offered if name.endswith(isa)} for isa in variants()}
    for isa, names in by_isa.items():
        assert names == next(iter(by_isa.values())), isa
        double = {name for name in names if "_f64_" in name}
        assert double
        assert double == {name.replace("_f32_", "_f64_") for name in names}


@needs_compiler
def test_instruction_sets_share_no_code(real: Path) -> None:
    """A function that two variants define under one name is merged by the linker, perhaps to the one that this
    processor cannot run. So whatever a variant defines for others to see carries the name of its instruction set."""
    for isa in variants():
        defined = {name for letter, name in symbols(real / f"{isa}.o") if letter in "TWVuDBRGSC"}
        assert defined
        assert {name for name in defined if not name.endswith(f"_{isa}")} == set()
        assert [name for letter, name in symbols(real / f"{isa}.o") if letter in "WVu"] == []


@needs_compiler
def test_that_check_would_see_it(sources: Path, tmp_path: Path) -> None:
    """An inline function outside any unnamed namespace is just such a symbol."""
    shared = "template <class T> T twice(T x) { return x + x; }\ntemplate float twice(float);\n"
    (sources / "recurrence.cpp").write_text(KERNEL + shared)
    for path in compile_objects([COMPILERS[0]], sources, tmp_path):
        weak = [name for letter, name in symbols(path) if letter in "WVu"]
        assert bool(weak) == (path.name != "dispatch.o")


def test_importing_needs_neither_torch_nor_a_compiler(tmp_path: Path) -> None:
    code = "import sys, seqmem.kernels.loading as found; found.load(); assert 'torch' not in sys.modules"
    env = environment(PATH=str(tmp_path), CXX="/nonexistent")
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_the_command_says_why_it_cannot(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "seqmem.kernels.build"],
        env=environment(CXX="/nonexistent/c++"), capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("seqmem: no native kernels were built, torch's are used: CXX=/nonexistent/c++: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose kernels nobody has built."""
    package = Path(builder.HERE).parent
    folder = tmp_path_factory.mktemp("unbuilt")
    shutil.copytree(package, folder / "src" / "seqmem", ignore=shutil.ignore_patterns("*native.*"))
    shutil.copytree(package.parents[1] / "conf", folder / "conf")
    return folder


def test_everything_works_without_them(elsewhere: Path, tmp_path: Path) -> None:
    """No library, no compiler: torch's kernels are used, and it is said."""
    env = {"PYTHONPATH": str(elsewhere / "src"), "CXX": "/nonexistent"}
    why = "not built, python -m seqmem.kernels.build builds them"
    said = in_a_process("train", *TINY, "outputs=here", "device=cpu", cwd=tmp_path, **env)
    assert said.code == 0, said
    assert said.out.splitlines()[0] == "lstm pronoun len8 seed0, torch kernel: 6 steps"
    kept = json.loads((only_run(tmp_path) / "environment.json").read_text())
    assert kept["kernel"] == f"torch (no native kernels: {why})"
    assert kept["threads"] == 1


def test_the_list_says_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loading, "load", lambda: Unavailable("for a reason"))
    assert listing.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "kernels  torch (no native kernels: for a reason)"

    def refused() -> None:
        raise ValueError("SEQMEM_ISA=mmx: it is not there")

    monkeypatch.setattr(loading, "load", refused)
    assert listing.main([]) == 1
    assert capsys.readouterr().err == "seqmem list: SEQMEM_ISA=mmx: it is not there\n"


def backend(*overrides: str, alone: bool = True) -> Backend:
    return configured(compose_run([*TINY, "device=cpu", *overrides]), alone=alone).backend


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores with native kernels. Nothing here computes with them."""
    found = Library(Path("native.so"), "avx2", ("avx2", "baseline"), ctypes.CDLL(None))
    monkeypatch.setattr("seqmem.cli.config.build.load", lambda: found)
    monkeypatch.setattr("seqmem.cli.config.build.usable_cores", lambda: 8)


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqmem.cli.config.build.load", lambda: Unavailable("for a reason"))
    monkeypatch.setattr("seqmem.cli.config.build.usable_cores", lambda: 8)


@pytest.mark.usefixtures("built")
def test_who_gets_which_threads_where_they_are_built() -> None:
    """Native kernels give the same bits on any number of threads and may have all; torch must be told to."""
    auto = "threads=auto"
    assert backend(auto) == Backend("native", "avx2", 8)
    assert backend(auto, alone=False) == Backend("native", "avx2", 1)
    assert backend("threads=3", "kernel=native", alone=False) == Backend("native", "avx2", 3)
    assert backend("threads=3").torch_threads == backend(auto).torch_threads == 1
    assert backend(auto, "kernel=torch") == Backend("torch", "", 1)
    assert backend("threads=3", "kernel=torch") == Backend("torch", "", 3)
    assert backend("threads=3", "kernel=step").torch_threads == 3
    assert backend(auto, "cell=gru", "cell.layers=2", "dtype=float64").name == "native"


@pytest.mark.usefixtures("unbuilt")
def test_who_gets_which_threads_where_they_are_not() -> None:
    assert backend("threads=auto") == Backend("torch", "no native kernels: for a reason", 1)
    assert backend("threads=3").torch_threads == 3
    assert backend("kernel=step", "threads=auto") == Backend("step", "", 1)
    with pytest.raises(ConfigError, match=r"^kernel=native: no native kernels: for a reason; or use kernel=auto$"):
        backend("kernel=native")


@pytest.mark.usefixtures("built")
def test_native_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "cells_without_kernels.py").write_text(OWN_CELLS)
    mine = ("cell=custom", "cell.target=cells_without_kernels.Leaky")
    assert backend(*mine, "threads=auto") == Backend("torch", "cell=custom has no native kernel", 1)
    with pytest.raises(ConfigError, match=r"^kernel=native: cell=custom has no native kernel; or use kernel=auto$"):
        backend(*mine, "kernel=native")
    # A device that computes nothing stands for the one that this machine may not have.
    monkeypatch.setattr("seqmem.cli.config.build.find_device", lambda _: torch.device("meta"))
    assert backend("threads=auto") == Backend("torch", "device=meta: native kernels are for the CPU", 1)
    with pytest.raises(ConfigError, match=r"^kernel=native: device=meta: native kernels are for the CPU; or use"):
        backend("kernel=native")


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "null", "true", "all", "[1]"])
def test_what_is_no_number_of_threads(given: str) -> None:
    with pytest.raises(ConfigError, match=f"^threads={re.escape(given)}: must be "):
        backend(f"threads={given}")
