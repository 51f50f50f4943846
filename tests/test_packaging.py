"""The wheel, installed somewhere else, finds its configuration from any directory. With a C++ compiler there are
native kernels in it; without one it is for any machine, and can build them where it is installed.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from commandline import environment
from compilers import needs_compiler
from seqmem.cli.config.version import VERSION
from seqmem.kernels.build import DISPATCH, LIBRARY
from seqmem.kernels.loading import Library, Unavailable, load
from test_kernel_build import KERNEL

ROOT = Path(__file__).parents[1]
NATIVE = f"seqmem/kernels/{LIBRARY}"
OLD = b"what stood there before"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment(PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1", **env),
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def checked_out(copy: Path) -> Path:
    """What packaging reads, with kernels that are compiled at once, and a library of who knows when."""
    for folder in ("src", "conf", "scripts", "tests"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*native.so*", "*native.dylib*")
        )
    for name in (
        "pyproject.toml",
        ".gitignore",
        "README.md",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "constraints.txt",
    ):
        shutil.copy(ROOT / name, copy)
    kernels = copy / "src" / "seqmem" / "kernels"
    for source in kernels.glob("*.cpp"):
        if source.name != DISPATCH:
            source.write_text(KERNEL.replace("add_", f"add_{source.stem}_"))
    (copy / "src" / NATIVE).write_bytes(OLD)
    return copy


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return checked_out(tmp_path / "checkout")


def files(checkout: Path) -> set[str]:
    """What is in every wheel."""
    sources = {str(path.relative_to(checkout / "src")) for path in (checkout / "src").rglob("*.py")}
    kernels = {f"seqmem/kernels/{path.name}" for path in (checkout / "src/seqmem/kernels").glob("*.[ch]pp")}
    assert kernels > {f"seqmem/kernels/{name}" for name in ("recurrence.cpp", "simd.hpp")}
    page = {f"seqmem/report/{name}" for name in ("page.html", "style.css")}
    page |= {f"seqmem/cards/{name}" for name in ("sortable.html", "sortable.js")}
    scripts = ("app", "cells", "charts", "dom", "engine", "story", "tape", "views", "writing")
    page |= {f"seqmem/playground/{name}" for name in ("page.html", "style.css", *(f"{name}.js" for name in scripts))}
    settings = {f"seqmem/conf/{path.relative_to(checkout / 'conf')}" for path in (checkout / "conf").rglob("*.yaml")}
    assert "seqmem/conf/train.yaml" in settings
    others = {"seqmem/py.typed", "seqmem/tasks/digits.npz", "seqmem/tasks/digits-LICENSE.txt"}
    return sources | kernels | page | settings | others


def held(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@needs_compiler
def test_the_wheel(tmp_path: Path, checkout: Path) -> None:
    """Made of the source distribution, as pip does where it finds no wheel."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=checkout)
    (sdist,) = tmp_path.glob("seqmem-*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert packed >= {"scripts/hatch_build.py", "src/seqmem/kernels/simd.hpp", "src/seqmem/kernels/build.py"}
    assert f"src/{NATIVE}" not in packed

    # An environment of its own, which sees what seqmem needs where this one has it, and seqmem not.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    home = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (home / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--no-compile", sdist, cwd=tmp_path,
    )  # fmt: skip
    info = home / "seqmem-0.2.0.dist-info"
    installed = {line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()}
    (script,) = (name for name in installed if name.endswith("bin/seqmem"))
    assert {name for name in installed - {script} if ".dist-info/" not in name} == files(checkout) | {NATIVE}
    about = (info / "WHEEL").read_text()
    assert "Root-Is-Purelib: false" in about
    (tag,) = (line for line in about.splitlines() if line.startswith("Tag: "))  # of which the wheel's name is made
    assert tag.startswith("Tag: py3-none-")
    assert not tag.endswith("-any")
    assert "linux" not in sys.platform or tag.endswith(f"-linux_{os.uname().machine}")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    actual = run(python, "-c", "import seqmem; print(seqmem.__file__)", cwd=elsewhere).strip()
    assert Path(actual) == home / "seqmem" / "__init__.py"
    completed = run(python, "-m", "seqmem", "train", "--info", "all", "cell=gru", "task=adding", cwd=elsewhere)
    assert "name: gru" in completed
    assert "variant: le2015" in completed
    assert str(home / "seqmem" / "conf") in completed
    assert str(ROOT) not in completed
    assert run(tmp_path / "venv" / "bin" / "seqmem", "--version", cwd=elsewhere) == "seqmem 0.2.0\n"
    code = "from seqmem.kernels.loading import describe; print(describe())"
    assert run(python, "-c", code, cwd=elsewhere).startswith("native (")
    assert list(elsewhere.iterdir()) == []


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, set[str]]:
    """A wheel made without a compiler: what was printed, the wheel, and the files that it must hold."""
    checkout = checked_out(tmp_path_factory.mktemp("portable") / "checkout")
    printed = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", cwd=checkout, CXX="/nonexistent/c++")
    (wheel,) = (checkout / "dist").glob("*.whl")
    return printed, wheel, files(checkout)


def test_a_wheel_without_a_compiler(portable: tuple[str, Path, set[str]]) -> None:
    """One line of warning and a wheel for any machine; who has a compiler there builds them then."""
    printed, wheel, expected = portable
    assert printed.count("native kernels") == 1
    assert "seqmem: no native kernels, torch's will be used: CXX=/nonexistent/c++: there is no such compiler" in printed
    assert wheel.name == "seqmem-0.2.0-py3-none-any.whl"
    assert held(wheel) == expected


@needs_compiler
def test_a_wheel_for_any_machine_builds_them_later(tmp_path: Path, portable: tuple[str, Path, set[str]]) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(portable[1]) as archive:
        archive.extractall(installed)
    unbuilt = load.__wrapped__(installed / "seqmem" / "kernels")  # not cached
    assert unbuilt == Unavailable("not built, python -m seqmem.kernels.build builds them")
    completed = run(sys.executable, "-m", "seqmem.kernels.build", cwd=tmp_path, PYTHONPATH=str(installed))
    assert completed.startswith("seqmem: native kernels for ")
    assert completed.endswith(f" in {installed / NATIVE}\n")
    assert isinstance(load(installed / "seqmem" / "kernels"), Library)


@needs_compiler
def test_an_editable_install_builds_them_in_place(checkout: Path) -> None:
    make = "from hatchling.build import build_editable; print(build_editable('.'))"
    wheel = checkout / run(sys.executable, "-c", make, cwd=checkout).split()[-1]
    assert NATIVE not in held(wheel)
    assert isinstance(load(checkout / "src" / "seqmem" / "kernels"), Library)
    (checkout / "src" / NATIVE).unlink()
    (checkout / "src" / NATIVE).write_bytes(OLD)
    assert "no native kernels" in run(sys.executable, "-c", make, cwd=checkout, CXX="/nonexistent")
    assert (checkout / "src" / NATIVE).read_bytes() == OLD


def test_the_version_is_the_same_everywhere() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    cited = dict(re.findall(r"^(version|date-released): (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    newest = re.findall(r"^## (\d\S*) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert (version, cited["version"], cited["date-released"]) == (newest[0], *newest)
    assert version == VERSION


def test_every_name_has_its_file_and_its_class() -> None:
    """What can be typed, and what it stands for, are the same list."""
    from seqmem.cells import CELLS
    from seqmem.optimizers import OPTIMIZERS
    from seqmem.tasks import TASKS

    for group, known in {"cell": CELLS, "task": TASKS, "optimizer": OPTIMIZERS}.items():
        folder = ROOT / "conf" / group
        own = [path for path in folder.rglob("*.yaml") if not re.search("^defaults:", path.read_text(), re.MULTILINE)]
        files = {"_".join(path.relative_to(folder).with_suffix("").parts) for path in own}
        assert files - {"custom"} == set(known), group
