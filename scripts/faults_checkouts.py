"""Moved and copied checkouts: each runs its own code, with real virtual environments and without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from faults_shared import ROOT, require

WORDS = "see and measure"
"""What the first line of the help has, in every checkout another text."""


def moved_and_copied(folder: Path) -> str:
    """A copy with its environment, beside its original; then the original elsewhere; then a killed set-up."""
    first = _checkout(folder / "first")
    require("the first checkout" in _run(script(first), PIP_NO_INDEX=""), "a checkout does not run its own code")
    copy = folder / "copy"
    shutil.copytree(first, copy, symlinks=True)
    _call_it(copy, "the first checkout", "a copy")
    require("a copy" in _help(copy), "a copied checkout runs the original's code")
    require("the first checkout" in _help(first), "copying a checkout changed what the original runs")
    moved = first.rename(folder / "a folder with blanks")
    require("the first checkout" in _help(moved), "a moved checkout does not run its own code")
    activated = f'. "{moved}/.venv/bin/activate" && cd / && seqmem --help'
    require("the first checkout" in _run("sh", "-c", activated), "activating it runs other code")
    link = folder / "bin" / "sm"
    link.parent.mkdir()
    link.symlink_to(moved / "scripts" / "seqmem")
    require("the first checkout" in _run(str(link)), "a link to scripts/seqmem runs other code")
    other = _run(str(link), PYTHONPATH=str(copy / "src"), PYTHONHOME="/nowhere", PIP_USER="1")
    require("the first checkout" in other, "PYTHONPATH makes it run other code")
    return "a copy, its original and that moved run their own code, also activated, through a link and with PYTHONPATH"


def _checkout(root: Path) -> Path:
    """This one's files, and an environment that sees this one's packages: nothing has to be downloaded."""
    root.mkdir()
    for name in ("src", "conf", "scripts"):
        shutil.copytree(
            ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*native.so*", "*native.dylib*")
        )
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, root)
    venv = root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (home,) = venv.glob("lib/python*/site-packages")
    (home / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _call_it(root, WORDS, "the first checkout")
    return root


def _call_it(root: Path, old: str, new: str) -> None:
    source = root / "src" / "seqmem" / "cli" / "help.py"
    text = source.read_text()
    require(old in text, f"{source} does not say {old!r}")
    source.write_text(text.replace(old, new))


def script(root: Path) -> str:
    return str(root / "scripts" / "seqmem")


def _help(root: Path) -> str:
    return _run(script(root))


def _run(*command: str, **env: str) -> str:
    dropped = ("PYTHONPATH", "SEQMEM_VENV", "SEQMEM_COMMAND")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    done = subprocess.run(
        command, env={**inherited, "PIP_NO_INDEX": "1", "CXX": "/nonexistent/c++", **env},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    require(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout
