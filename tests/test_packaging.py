"""The wheel, installed somewhere else, finds its configuration from any directory."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

from commandline import environment

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment(PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1"),
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel(tmp_path: Path) -> None:
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path, ROOT,
        cwd=tmp_path,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("seqmem-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    settings = {f"seqmem/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert "seqmem/conf/train.yaml" in settings
    assert held == sources | settings

    # An environment of its own, which sees what seqmem needs where this one has it, and seqmem not.
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    home = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=tmp_path)
    (home / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = run(python, "-c", "import seqmem; print(seqmem.__file__)", cwd=elsewhere).strip()
    assert Path(found) == home / "seqmem" / "__init__.py"
    said = run(python, "-m", "seqmem", "train", "--cfg", "job", "cell=gru", "task=adding", cwd=elsewhere)
    assert "name: gru" in said
    assert "variant: le2015" in said
    said = run(tmp_path / "venv" / "bin" / "seqmem", "train", "--info", "searchpath", cwd=elsewhere)
    assert str(home / "seqmem" / "conf") in said
    assert str(ROOT) not in said
    assert run(tmp_path / "venv" / "bin" / "seqmem", "--version", cwd=elsewhere) == "seqmem 0.1.0\n"
    assert list(elsewhere.iterdir()) == []


def test_every_name_has_its_file_and_its_class() -> None:
    """What can be typed, and what it stands for, are the same list."""
    from seqmem.cells import CELLS
    from seqmem.optimizers import OPTIMIZERS
    from seqmem.tasks import TASKS

    for group, known in {"cell": CELLS, "task": TASKS, "optimizer": OPTIMIZERS}.items():
        files = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        assert files - {"custom"} == set(known), group
