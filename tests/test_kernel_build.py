"""Compiling and loading the native kernels, their fallback to torch, and the choice of threads."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from commandline import OWN_CELLS, TINY, Completed, environment, only_run
from compilers import COMPILERS, needs_compiler, needs_kernels
from seqmem.cli.config.build import Backend
from seqmem.cli.config.build import build as configured
from seqmem.cli.config.compose import compose_settings
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.hydra_errors import explained
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.verbs import list as listing
from seqmem.kernels import build as builder
from seqmem.kernels import loading
from seqmem.kernels.build import BuildError, build, compile_objects, link, source_hash, variants
from seqmem.kernels.loading import Library, Unavailable

uncached_load = loading.load.__wrapped__  # so that other tests of this process keep their library

# Quick to compile, with the structure of the real source: one exported function per type, on top of templates.
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
    """A folder with sources, to be compiled by the first installed compiler, independent of the environment."""
    monkeypatch.delenv("SEQMEM_CXXFLAGS", raising=False)
    monkeypatch.delenv("SEQMEM_ISA", raising=False)
    if COMPILERS:
        monkeypatch.setenv("CXX", COMPILERS[0])
    folder = tmp_path / 'the "kernels" aren\'t $here, é'
    folder.mkdir()
    (folder / "recurrence.cpp").write_text(KERNEL)
    shutil.copy(builder.HERE / "dispatch.cpp", folder)
    return folder


@pytest.mark.parametrize("path", COMPILERS, ids=[Path(path).name for path in COMPILERS])
def test_every_installed_compiler(path: str, sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library computes correctly, for both types and each instruction set of this machine."""
    monkeypatch.setenv("CXX", path)
    assert build(sources) == sources / builder.LIBRARY
    assert {file.name for file in sources.iterdir()} == {"recurrence.cpp", "dispatch.cpp", builder.LIBRARY}
    best = uncached_load(sources)
    assert isinstance(best, Library)
    assert best.isa == best.isas[0]
    assert set(best.isas) <= set(variants())
    assert best.isas[-1] == list(variants())[-1]  # every machine of the family supports the last
    for isa in best.isas:
        library = Library(best.path, isa, best.isas, best.native)
        for dtype, kind, number in (("f32", np.float32, ctypes.c_float), ("f64", np.float64, ctypes.c_double)):
            out, terms = np.ones(37, kind), np.arange(37, dtype=kind)
            function = library.function("add", dtype)
            function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, number)
            function(out.ctypes.data, terms.ctypes.data, 37, 2.0)
            assert out.tolist() == [1 + 2 * i for i in range(37)]
            assert library.function("add", dtype) is function  # cached, so argtypes are set once
    with pytest.raises(AttributeError, match="subtract_f32"):
        best.function("subtract", "f32")


def test_the_choice_of_a_compiler_and_its_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", f"{sys.executable} -m wrapped")
    assert builder.find_compiler() == [sys.executable, "-m", "wrapped"]
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    with pytest.raises(BuildError, match=r"^CXX=/nonexistent/c\+\+: there is no such compiler; unset CXX"):
        build(tmp_path)
    spaced = tmp_path / "my c++"
    spaced.symlink_to(sys.executable)
    monkeypatch.setenv("CXX", str(spaced))
    assert builder.find_compiler() == [str(spaced)]
    monkeypatch.setenv("CXX", "c++ '-g")
    with pytest.raises(BuildError, match=r"^CXX=c\+\+ '-g: a quote is not closed in it$"):
        build(tmp_path)
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"^no C\+\+ compiler found: install c\+\+, g\+\+ or clang\+\+, or set CXX="):
        build(tmp_path)
    (tmp_path / "g++").write_text("no program\n")
    (tmp_path / "g++").chmod(0o755)
    with pytest.raises(BuildError, match=r"g\+\+ cannot be run: "):
        builder.run_compiler([str(tmp_path / "g++")], "compile")


@needs_compiler
def test_where_there_is_a_compiler_there_are_kernels() -> None:
    """Otherwise their laws would be skipped in silence: scripts/test compiles them before it tests."""
    assert isinstance(loading.load(), Library), loading.load()


@needs_compiler
def test_a_failed_build_leaves_the_old_library(sources: Path) -> None:
    built = build(sources)
    old = built.read_bytes()
    (sources / "recurrence.cpp").write_text(KERNEL + "void f() { wrong; }\n")
    why = r"cannot compile recurrence.cpp for \w+: .*recurrence.cpp:.*error: .*wrong"
    with pytest.raises(BuildError, match=why) as error:
        build(sources)
    assert "\n" not in str(error.value)
    (sources / "recurrence.cpp").unlink()
    with pytest.raises(BuildError, match=r"^there is no kernel in .*: no \*\.cpp beside dispatch\.cpp$"):
        build(sources)
    (sources / "recurrence.cpp").write_text(KERNEL)
    (sources / "dispatch.cpp").write_text('extern "C" int missing(); int f() { return missing(); }\n')
    with pytest.raises(BuildError, match=r"cannot link the kernels: .*missing"):
        build(sources)
    shutil.copy(builder.HERE / "dispatch.cpp", sources)
    nowhere = sources / "nowhere"
    with pytest.raises(BuildError, match=f"cannot write {re.escape(str(nowhere / builder.LIBRARY))}: "):
        build(sources, nowhere)
    assert built.read_bytes() == old
    assert {file.name for file in sources.iterdir()} == {"recurrence.cpp", "dispatch.cpp", builder.LIBRARY}


def test_a_killed_build_leaves_the_old_library(sources: Path, tmp_path: Path) -> None:
    """It is killed while a compiler runs, which signals its start by a file."""
    old = b"the old library"
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
        os.killpg(process.pid, signal.SIGKILL)  # the compilers are in the same process group
        process.wait()
    assert (sources / builder.LIBRARY).read_bytes() == old
    assert {file.name for file in sources.iterdir()} == {"recurrence.cpp", "dispatch.cpp", builder.LIBRARY}


@needs_compiler
def test_a_stale_library_is_never_used(sources: Path) -> None:
    assert uncached_load(sources / "..") == Unavailable("not built, python -m seqmem.kernels.build builds them")
    built = build(sources)
    first = source_hash(sources)
    (sources / "recurrence.cpp").write_text(KERNEL + "\n")
    assert source_hash(sources) != first
    assert uncached_load(sources) == Unavailable(
        "built from other sources than these, python -m seqmem.kernels.build builds them anew"
    )
    (sources / "recurrence.cpp").write_text(KERNEL)
    assert isinstance(uncached_load(sources), Library)
    (sources / "more.h").write_text("")
    assert source_hash(sources) != first
    (sources / "more.h").unlink()
    (sources / "notes.txt").write_text("")
    assert source_hash(sources) == first

    broken = sources / "broken"
    broken.mkdir()
    (broken / builder.LIBRARY).write_bytes(built.read_bytes()[:100])
    unavailable = uncached_load(broken)
    assert isinstance(unavailable, Unavailable)
    assert unavailable.reason.startswith("cannot be loaded: ")
    assert unavailable.reason.endswith("; python -m seqmem.kernels.build builds them anew")
    assert "\n" not in unavailable.reason


@needs_compiler
def test_the_instruction_set_can_be_chosen(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(sources)
    best = uncached_load(sources)
    assert isinstance(best, Library)
    assert loading.load(sources) is loading.load(sources)
    for isa in best.isas:
        monkeypatch.setenv("SEQMEM_ISA", isa)
        library = uncached_load(sources)
        assert isinstance(library, Library)
        assert (library.isa, library.isas) == (isa, best.isas)
        monkeypatch.setattr(loading, "load", lambda library=library: library)
        assert loading.describe() == f"native ({isa})"
    monkeypatch.setenv("SEQMEM_ISA", "mmx")
    choices = ", ".join(best.isas)
    with pytest.raises(ValueError, match=f"^SEQMEM_ISA=mmx: this machine has native kernels for {choices}$"):
        uncached_load(sources)
    monkeypatch.setattr(loading, "load", lambda: Unavailable("for a reason"))
    assert loading.describe() == "torch (no native kernels: for a reason)"


def symbols(path: Path, *options: str) -> list[tuple[str, str]]:
    """(type letter, name) of each symbol, from nm."""
    nm = subprocess.run(["nm", *options, str(path)], capture_output=True, text=True, check=True)
    return [(line.split()[-2], line.split()[-1]) for line in nm.stdout.splitlines() if len(line.split()) > 1]


@needs_kernels
def test_the_library_stands_alone() -> None:
    """It links neither torch nor Python nor the C++ library, and exports only its own names."""
    library = loading.load()
    assert isinstance(library, Library)
    shared = symbols(library.path, "-D")
    needed = {name.partition("@")[0] for letter, name in shared if letter in "Uw"}
    assert needed
    for name in needed:
        assert not any(word in name for word in ("torch", "c10", "2at", "Py", "_ZN", "_ZSt", "omp", "GOMP")), name
    exported = {name for letter, name in shared if letter not in "Uw"}
    assert {"seqmem_isas", "seqmem_source_hash"} < exported
    assert all(name.startswith("seqmem_") or name.endswith(tuple(variants())) for name in exported), exported
    by_isa = {isa: {name.removesuffix(isa) for name in exported if name.endswith(isa)} for isa in variants()}
    for isa, names in by_isa.items():
        assert names == next(iter(by_isa.values())), isa
        double = {name for name in names if "_f64_" in name}
        assert double
        assert double == {name.replace("_f32_", "_f64_") for name in names}


def shared_code(library: Path) -> list[str]:
    """C++ functions and variables that the linker may have merged: not in an unnamed namespace, nor static.

    It merges what has one name in several objects, possibly into what this processor cannot run. Names of C that it
    would have to merge are an error of its own.
    """
    names = [name for letter, name in symbols(library) if letter not in "Uw" and "_Z" in name]
    return [name for name in names if "_GLOBAL__N_" not in name and not name.lstrip("_").startswith("ZL")]


@needs_kernels
def test_instruction_sets_share_no_code() -> None:
    """In the library that all other tests run. (scripts/check_kernels builds it with other compilers.)"""
    library = loading.load()
    assert isinstance(library, Library)
    assert any("_GLOBAL__N_" in name for _, name in symbols(library.path))  # it has not lost its symbols
    assert shared_code(library.path) == []


@needs_compiler
def test_shared_code_would_be_detected(sources: Path, tmp_path: Path) -> None:
    """A template outside the unnamed namespace has one name in the objects of all instruction sets."""
    shared = "template <class T> T twice(T x) { return x + x; }\ntemplate float twice(float);\n"
    for more, merged in (("", 0), (shared, 1)):
        (sources / "recurrence.cpp").write_text(KERNEL + more)
        library = tmp_path / "some.so"
        link([COMPILERS[0]], compile_objects([COMPILERS[0]], sources, tmp_path), library)
        assert len(shared_code(library)) == merged


def test_importing_needs_neither_torch_nor_a_compiler(tmp_path: Path) -> None:
    code = "import sys, seqmem.kernels.loading as loading; loading.load(); assert 'torch' not in sys.modules"
    env = environment(PATH=str(tmp_path), CXX="/nonexistent")
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def test_a_failed_build_command_prints_one_line(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "seqmem.kernels.build"],
        env=environment(CXX="/nonexistent/c++"), capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert completed.returncode == 1
    assert completed.stdout == ""
    assert completed.stderr.startswith("seqmem: no native kernels were built, torch's are used: CXX=/nonexistent/c++: ")
    assert completed.stderr.count("\n") == 1


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a package without the kernels' library, on a machine without a compiler."""
    monkeypatch.setenv("CXX", "/nonexistent")
    with monkeypatch.context() as patch:
        patch.setattr(loading, "LIBRARY", "absent.so")
        loading.load.cache_clear()
        yield
    loading.load.cache_clear()


@pytest.mark.usefixtures("no_library")
def test_training_works_without_a_library(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Without library and compiler, torch's kernels are used, and the run records the reason."""
    why = "not built, python -m seqmem.kernels.build builds them"
    completed = typed("train", *TINY, "device=cpu")
    assert (completed.code, completed.err) == (0, "")
    assert completed.out.splitlines()[0] == "lstm pronoun len8 seed0, torch kernel: 6 steps"
    recorded = json.loads((only_run(tmp_path) / "environment.json").read_text())
    assert recorded["kernel"] == f"torch (no native kernels: {why})"
    assert recorded["threads"] == 1


def test_list_prints_the_kernels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(loading, "load", lambda: Unavailable("for a reason"))
    assert listing.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "kernels  torch (no native kernels: for a reason)"

    def refused() -> None:
        raise ValueError("SEQMEM_ISA=mmx: it is not there")

    monkeypatch.setattr(loading, "load", refused)
    assert listing.main([]) == 1
    assert capsys.readouterr().err == "seqmem list: SEQMEM_ISA=mmx: it is not there\n"


@cache
def composed(*cell: str) -> dict[str, Any]:
    """The settings of a run with this cell. Hydra takes a tenth of a second to compose them."""
    settings = OmegaConf.to_container(compose_settings([*TINY, "device=cpu", *cell]), resolve=True, enum_to_str=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def backend(*overrides: str, alone: bool = True) -> Backend:
    cell = [override for override in overrides if override.startswith("cell")]
    others = (override.partition("=") for override in overrides if override not in cell)
    with explained(overrides):
        config = from_mapping({**composed(*cell), **{name: yaml.safe_load(value) for name, _, value in others}})
    return configured(config, alone=alone).backend


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight cores and native kernels, which these tests do not run."""
    library = Library(Path("native.so"), "avx2", ("avx2", "baseline"), ctypes.CDLL(None))
    monkeypatch.setattr("seqmem.cli.config.build.load", lambda: library)
    monkeypatch.setattr("seqmem.cli.config.build.usable_cores", lambda: 8)


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqmem.cli.config.build.load", lambda: Unavailable("for a reason"))
    monkeypatch.setattr("seqmem.cli.config.build.usable_cores", lambda: 8)


@pytest.mark.usefixtures("built")
def test_kernel_and_threads_with_native_kernels() -> None:
    """Native kernels use all cores by default, as threads change no bit; torch uses one unless it is told otherwise."""
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
def test_kernel_and_threads_without_native_kernels() -> None:
    assert backend("threads=auto") == Backend("torch", "no native kernels: for a reason", 1)
    assert backend("threads=3").torch_threads == 3
    assert backend("kernel=step", "threads=auto") == Backend("step", "", 1)
    with pytest.raises(ConfigError, match=r"^kernel=native: no native kernels: for a reason; or use kernel=auto$"):
        backend("kernel=native")


@pytest.mark.usefixtures("built")
def test_native_for_custom_cells_and_other_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells_without_kernels.py").write_text(OWN_CELLS)
    mine = ("cell=custom", "cell.target=cells_without_kernels.Leaky")
    assert backend(*mine, "threads=auto") == Backend("torch", "cell=custom has no native kernel", 1)
    with pytest.raises(ConfigError, match=r"^kernel=native: cell=custom has no native kernel; or use kernel=auto$"):
        backend(*mine, "kernel=native")
    # The meta device stands in for a GPU.
    monkeypatch.setattr("seqmem.cli.config.build.find_device", lambda _: torch.device("meta"))
    assert backend("threads=auto") == Backend("torch", "device=meta: native kernels are for the CPU", 1)
    with pytest.raises(ConfigError, match=r"^kernel=native: device=meta: native kernels are for the CPU; or use"):
        backend("kernel=native")


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "null", "true", "all", "[1]"])
def test_an_invalid_number_of_threads_is_an_error(value: str) -> None:
    with pytest.raises(ConfigError, match=f"^threads={re.escape(value)}: must be "):
        backend(f"threads={value}")
