"""Mean and spread over seeds for TensorBoard, read back by its own reader; and they are no runs."""

from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from made_up import directories
from seqmem.cli.main import run_verb
from seqmem.record import over_seeds
from seqmem.record.events import EventFile
from seqmem.report import page
from seqmem.report.collect import collect
from seqmem.runs.directory import RunDirectory, find_runs
from seqmem.runs.files import EVENTS


def recorded(run: Path, seed: int) -> None:
    """Three evaluations, and a curve that was drawn twice and ends the later the greater the seed."""
    events = EventFile(run / EVENTS, describe=lambda tag: f"What {tag} is.")
    for step in range(0, 300, 100):
        events.scalar("eval/score", (seed + 1) * step / 100, step)
    events.curve("curve", [5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    events.curve("curve", [0.0, *(-1.0 for _ in range(seed)), *(-inf for _ in range(5 - seed))])
    if seed:
        events.scalar("of some", 1.0, 0)
    events.close()


def points(folder: Path, tag: str) -> list[tuple[int, Any]]:
    events = EventAccumulator(str(folder / EVENTS)).Reload()
    return [(event.step, pytest.approx(event.value, nan_ok=True)) for event in events.Scalars(tag)]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = directories(tmp_path / "outputs", {"a lstm": {10: [1.0, 0.5, 0.3]}, "gru": {10: [1.0]}})
    for run in find_runs(folder):
        recorded(run.path, int(run.path.name[-1]))
    return folder


def test_mean_and_spread_over_the_seeds_and_no_run_more(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "write", lambda _, folder, **__: folder)
    before = len(collect([outputs]).runs), len(find_runs(outputs))
    assert run_verb("report", [str(outputs), "--format", "tensorboard"]) == 0
    seeds = outputs / "report" / "seeds" / "pronoun"
    assert {place.relative_to(seeds).as_posix() for place in seeds.glob("*/*")} == {
        f"a-lstm/len10-{name}" for name in ("mean", "min", "max")
    }  # the gru has one seed
    for name, factor in (("mean", 2), ("min", 1), ("max", 3)):
        place = seeds / "a-lstm" / f"len10-{name}"
        assert points(place, "eval/score") == [(0, 0.0), (100, factor), (200, 2 * factor)]
        # Seed 0 leaves at 1, seed 2 at 3; its triangle at 5 is where all end.
        assert points(place, "curve") == [(0, 0.0), (1, nan), (5, nan)]
        events = EventAccumulator(str(place / EVENTS)).Reload()
        assert events.Tags()["scalars"] == ["eval/score", "curve"]
        described = events.SummaryMetadata("eval/score").summary_description
        assert described == f"**{name.capitalize()} over 3 seeds.** What eval/score is."
    assert (len(collect([outputs]).runs), len(find_runs(outputs))) == before
    # They can be watched alone: that there is no run is not what is wrong here.
    assert run_verb("watch", [str(seeds), "--port", "70000"]) == 2
    assert "--port 70000" in capsys.readouterr().err
    mine = seeds / "mine.txt"
    mine.write_text("")
    (outputs / "a lstm" / "len10-seed0" / EVENTS).write_bytes(b"no events")
    (outputs / "a lstm" / "len10-seed1" / EVENTS).unlink()
    capsys.readouterr()
    assert run_verb("report", [str(outputs), "--format", "tensorboard"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("len10-seed0/events.out.tfevents.0.seqmem is not a file of TensorBoard events")
    assert second.endswith("len10-seed1: No such file or directory")
    assert list(seeds.iterdir()) == [mine]  # one seed is left: earlier curves are gone, and nothing else


def test_curves_are_deleted_whole(outputs: Path) -> None:
    folder = outputs / "seeds"
    over_seeds.write(folder, {"pronoun/lstm/len10": [RunDirectory(run.path) for run in find_runs(outputs)[:3]]})
    assert len(list(folder.rglob(EVENTS))) == 3
    over_seeds.forget(folder)
    assert not folder.exists()
