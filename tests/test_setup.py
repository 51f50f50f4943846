"""scripts/setup.sh: what is set up, when it is set up again, and whose code runs then. A Python that only writes down
what it is asked for stands in for the real one, which takes a minute.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from commandline import environment

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
case "$1 $2 $3" in
  "-m venv "*)
    echo venv >>{log}; mkdir -p "$3/bin" "$3/lib"; : >"$3/pyvenv.cfg"
    cp "$0" "$3/bin/real"; ln -s real "$3/bin/python" ;;
  "-m pip --version") [ -d "${{0%/bin/*}}/lib" ] ;;
  "-m pip install")
    for last; do case $last in /*) from=$last ;; esac; done
    case $* in *--no-deps*) alone=" alone" ;; esac
    echo "pip ${{from##*/}}${{alone:-}}${{PIP_USER:-}}${{PIP_TARGET:-}}${{PYTHONPATH:-}}" >>{log}
    : >"${{0%/*}}/seqmem" ;;
  *"/kernels/build.py --missing "*) echo compiled >>{log}.kernels ;;
  "-m seqmem.kernels.build "*) echo kernels >>{log}; exit 1 ;;  # there is no compiler
  "-c "*old*new*) echo relocated >>{log} ;;
  "-c "*) ;;
  *) echo "$1 $2, $SEQMEM_COMMAND, ${{PYTHONPATH:-}}, ${{PYTHONHOME:-}}" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    root: Path
    log: Path

    @property
    def compiled(self) -> Path:
        """A line for each time that the kernels were compiled while pip worked."""
        return self.log.with_name(f"{self.log.name}.kernels")

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def run(self, script: str | Path = "", *, name: str = "seqmem", code: int = 0, **env: str) -> tuple[str, list[str]]:
        """(what the script printed, what was set up for it)"""
        self.log.write_text("")
        self.compiled.write_text("")
        done = subprocess.run(
            [script or self.root / "scripts" / name, "list"], cwd=self.root.parent,
            env=environment(PYTHON=str(self.log.with_name("python")), **env),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done
        return done.stderr + done.stdout, self.log.read_text().splitlines()

    def at(self, root: Path) -> "Checkout":
        return Checkout(root, self.log)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    one = Checkout(tmp_path / "checkout", tmp_path / "tools" / "log")
    kernels = Path("src", "seqmem", "kernels")
    for folder in ("scripts", kernels):
        (one.root / folder).mkdir(parents=True)
    for name in ("scripts/setup.sh", "scripts/seqmem", "scripts/hatch_build.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, one.root / name)
    for name in ("recurrence.cpp", "simd.hpp", "dispatch.cpp", "build.py"):
        (one.root / kernels / name).write_text(name)
    # What a script that needs the tests' packages does.
    (one.root / "scripts" / "dev").write_text(
        '#!/bin/sh\nset -eu\n. "$(dirname "$0")/setup.sh"\nsetup dev\necho ready\n'
    )
    (one.root / "scripts" / "dev").chmod(0o755)
    one.log.parent.mkdir()
    python = one.log.with_name("python")
    python.write_text(PYTHON.format(log=one.log))
    python.chmod(0o755)
    return one


INSTALLED = ["pip checkout"]
FIRST = ["venv", *INSTALLED]


def test_what_is_set_up_again(checkout: Checkout) -> None:
    """Everything when the packages change, the kernels alone when their sources do; whether they can be or not."""
    assert checkout.run()[1] == FIRST
    for name in ("recurrence.cpp", "simd.hpp", "dispatch.cpp", "build.py"):
        with (checkout.root / "src" / "seqmem" / "kernels" / name).open("a") as source:
            source.write("\n")
        assert checkout.run()[1] == ["kernels"], name
    assert checkout.run()[1] == []
    for name in ("pyproject.toml", "constraints.txt", "scripts/hatch_build.py"):
        with (checkout.root / name).open("a") as source:
            source.write("\n")
        assert checkout.run()[1] == INSTALLED, name
        assert checkout.compiled.read_text() == "compiled\n"


def test_what_tests_need_is_installed_for_them(checkout: Checkout) -> None:
    """Once, and it stays when the packages change."""
    assert checkout.run()[1] == FIRST
    assert checkout.run(name="dev")[1] == ["pip checkout[dev]"]
    assert checkout.run(name="dev")[1] == checkout.run()[1] == []
    with (checkout.root / "constraints.txt").open("a") as source:
        source.write("\n")
    assert checkout.run()[1] == ["pip checkout[dev]"]


@pytest.mark.parametrize("copied", [True, False])
def test_a_checkout_somewhere_else_runs_its_own_code(copied: bool, checkout: Checkout, tmp_path: Path) -> None:
    """Copied or moved with its environment; the original, if there is one, stays as it is."""
    checkout.run()
    other = checkout.at(tmp_path / "other")
    if copied:
        shutil.copytree(checkout.root, other.root, symlinks=True)
    else:
        checkout.root.rename(other.root)
    printed, done = other.run()
    assert done == ["relocated", "pip other alone"]
    assert printed.splitlines()[-1] == f"{other.venv}/bin/seqmem list, {other.root}/scripts/seqmem, {other.root}/src, "
    assert other.run()[1] == []
    assert not copied or checkout.run()[1] == []


def test_set_up_anew_where_it_was_killed_or_its_python_is_gone(checkout: Checkout) -> None:
    checkout.run()
    (checkout.venv / "bin" / "real").unlink()
    (checkout.venv / "theirs").write_text("a file of the user's own")
    assert checkout.run()[1] == FIRST
    (checkout.venv / "bin" / "real").rename(checkout.venv / "bin" / "python3.12")  # as an upgrade of the system does
    (checkout.venv / "bin" / "python").unlink()
    (checkout.venv / "bin" / "python").symlink_to("python3.12")
    shutil.rmtree(checkout.venv / "lib")
    printed, done = checkout.run()
    assert done == FIRST
    assert "bin/real, is gone or another" in printed
    ended = subprocess.Popen(["true"])
    ended.wait()
    (checkout.venv / "seqmem-setting-up").write_text(f"{ended.pid}\n")
    (checkout.venv / "seqmem-ready").unlink()
    printed, done = checkout.run()
    assert done == FIRST
    assert "was stopped: it begins anew" in printed
    shutil.rmtree(checkout.venv / "lib")  # half-made, and by an earlier version that left no mark
    (checkout.venv / "seqmem-ready").unlink()
    assert checkout.run()[1] == FIRST
    assert (checkout.venv / "theirs").exists()
    assert not (checkout.venv / "seqmem-setting-up").exists()


def test_settings_of_the_user_do_not_lead_astray(checkout: Checkout) -> None:
    """Neither pip nor Python is led out of the environment; the user's modules are found, after this seqmem."""
    printed, done = checkout.run(PIP_USER="1", PIP_TARGET="/there", PYTHONPATH="/theirs", PYTHONHOME="/nowhere")
    assert done == FIRST
    assert printed.splitlines()[-1].endswith(f"{checkout.root}/src:/theirs, ")


def test_through_a_link(checkout: Checkout, tmp_path: Path) -> None:
    """From a folder of commands, directly or by another link, and through a linked folder."""
    checkout.run()
    for link, target in {"one": checkout.root / "scripts" / "seqmem", "two": tmp_path / "one"}.items():
        (tmp_path / link).symlink_to(target)
        printed, done = checkout.run(tmp_path / link)
        assert (done, printed) == ([], f"{checkout.venv}/bin/seqmem list, {tmp_path / link}, {checkout.root}/src, \n")
    (tmp_path / "linked").symlink_to(checkout.root)
    assert checkout.at(tmp_path / "linked").run()[1] == []


def test_where_the_checkout_cannot_be_written_to(checkout: Checkout, tmp_path: Path) -> None:
    """The environment goes into the user's cache; a directory that was asked for and cannot be used is an error."""
    checkout.venv.write_text("no folder can be made here")
    for expected in (FIRST, []):
        printed, done = checkout.run(XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done == expected
        (venv,) = (tmp_path / "cache" / "seqmem").iterdir()
        assert printed.splitlines()[-1].startswith(f"{venv}/bin/seqmem list")
    printed, done = checkout.run(SEQMEM_VENV=f"{checkout.venv}/venv", code=1)
    assert (done, printed.count("\n")) == ([], 1)
    assert "set SEQMEM_VENV=DIR to a directory of your own" in printed


def test_a_python_that_does_not_suit(checkout: Checkout, tmp_path: Path) -> None:
    assert "there is no /nowhere/python: install Python" in _refused(checkout, "/nowhere/python")
    old = tmp_path / "old python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.1 || exit 1\n')
    old.chmod(0o755)
    assert f"{old} is Python 3.10.1, seqmem needs" in _refused(checkout, str(old))


def _refused(checkout: Checkout, python: str) -> str:
    done = subprocess.run(
        [checkout.root / "scripts" / "seqmem"],
        env=environment(PYTHON=python),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_every_script_says_what_it_does() -> None:
    """Asked for help it does nothing else: not even the environment is set up."""
    paths = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    ours = [path for path in paths if path.name not in ("seqmem", "test")]
    for path in ours:
        text, program = path.read_text(), path.with_suffix(".py")
        if program.exists() and "argparse" in program.read_text():
            continue
        assert 'show_help "$@"\n' in text, path.name
        asked = subprocess.run(
            [path, "--help"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
        )
        assert asked.stdout.startswith(f"scripts/{path.name} "), path.name
        assert asked.stderr == ""
        assert len(asked.stdout.splitlines()) == text.partition("\nset -eu\n")[0].count("\n"), path.name
    assert len(ours) > 10
