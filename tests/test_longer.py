"""Training a finished run for longer, and starting from another run's weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from commandline import LSTM, TINY, Completed, assert_same_numbers, only_run, runs_below
from seqmem.cli.config.compose import compose_run
from seqmem.cli.launch import longer
from seqmem.cli.launch.longer import shorter
from seqmem.cli.launch.one_run import run_path
from seqmem.record.recorder import load_checkpoint
from seqmem.runs.directory import RunDirectory

Typed = Callable[..., Completed]

RUN = ("train", *(word for word in TINY if not word.startswith("steps=")), "device=cpu", "quiet=true")


def run_of(steps: int, outputs: str = "outputs") -> Path:
    settings = {run: json.loads((run / "config.json").read_text()) for run in runs_below(Path(outputs))}
    (run,) = (run for run, config in settings.items() if config["steps"] == steps)
    return run


# For longer


@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (6, ("cell=lstm",)),  # its last evaluation and its last trace are not those of a longer run
        (6, ("cell=gru", "task=text", "trace.every=1", "task.lengths=uniform")),  # passages of several batches
    ],
)
def test_a_longer_run_goes_on_bitwise(steps: int, settings: tuple[str, ...], tmp_path: Path, typed: Typed) -> None:
    command = (*RUN, *settings)
    assert typed(*command, f"steps={steps}").code == 0
    short = run_of(steps)
    before = {path.name: path.read_bytes() for path in short.iterdir()}
    done = typed(*command, "steps=20", "quiet=false")
    assert (done.code, done.err) == (0, "")
    assert f"on from step {steps} of {short}, which is finished" in done.out
    assert {path.name: path.read_bytes() for path in short.iterdir()} == before
    assert typed(*command, "steps=20", "outputs=whole").code == 0
    assert_same_numbers(run_of(20), only_run(Path("whole")))
    assert RunDirectory(run_of(20)).environment()["goes_on_from"] == str(short)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (Path.exists, ""),
        (lambda run: (run / "checkpoint.pt").unlink(), "it lacks its checkpoint.pt"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "it is not what it wrote"),
        (lambda run: (run / "environment.json").write_text('{"seqmem": "0.1.0"}'), "seqmem 0.1.0 made it"),
        (lambda run: (run / "environment.json").write_text("{"), "environment.json cannot be read"),
    ],
)
def test_a_run_that_cannot_be_gone_on_from(spoil: Callable[[Path], object], why: str, run: Path) -> None:
    spoil(run)
    one = shorter(compose_run([*LSTM, "steps=12"]), run_path)
    assert one is not None
    assert (why in one.obstacle, bool(one.obstacle)) == (True, bool(why))
    assert shorter(compose_run([*LSTM, "steps=12", "optimizer.lr=1"]), run_path) is None
    assert shorter(compose_run([*LSTM, "steps=5"]), run_path) is None


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("train.patience=3", "with train.patience it has the weights of its best evaluation"),
        ("train.until_solved=true", "with train.until_solved it ends where it solved its task"),
        ("train.schedule=cosine", "train.schedule=cosine has other learning rates in a longer run"),
        ("train.warmup=2", ""),
    ],
)
def test_how_a_run_was_trained_may_rule_out_a_longer_one(setting: str, why: str, run: Path) -> None:
    assert longer._obstacle(RunDirectory(run), 6, compose_run([*LSTM, "steps=12", setting])) == why


def test_a_last_log_line_of_its_own_begins_anew_in_one_line(run: Path, typed: Typed) -> None:
    command = ("train", *LSTM, "log_every=4", "quiet=false")
    assert typed(*command, "steps=6").code == 0
    done = typed(*command, "steps=8")
    (line,) = (line for line in done.out.splitlines() if line.startswith("begun anew"))
    assert "log_every=4 does not divide its steps" in line
    rows = RunDirectory(run_of(8)).metrics()
    assert [row["step"] for row in rows if row["kind"] == "train"] == [4, 8]


# From another run's weights


BARELY = ("optimizer=sgd", "optimizer.lr=1e-30", "steps=1", "seed=7")
"""Settings with which the weights at the end are those at the start."""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoint.pt")["model"]


def started_from(place: str) -> list[Path]:
    runs = {run: json.loads((run / "config.json").read_text()) for run in runs_below(Path("outputs"))}
    return [run for run, config in runs.items() if config.get("init_from") == place]


def test_training_starts_from_the_weights_of_a_run(run: Path, typed: Typed) -> None:
    place = str(run.relative_to(Path.cwd()))
    shutil.copytree(run, "moved")
    command = (*LSTM, *BARELY)
    assert typed("train", *command, f"init_from={place}").code == 0
    (new,) = started_from(place)
    torch.testing.assert_close(weights(new), weights(run), rtol=0, atol=1e-20)
    shown = typed("show", str(new)).out
    assert f"answer  from {run.name[-8:]}\n" in shown
    assert "untrained" not in shown
    assert "answer  untrained\n" in typed("show", str(run)).out
    assert "already finished" in typed("train", *command, "init_from=moved", "quiet=false").out  # the same weights
    assert typed("train", *command, "steps=2", "optimizer.lr=0.1", "init_from=moved").code == 0
    (trained,) = started_from("moved")
    assert typed("train", *command, f"init_from={trained}").code == 0
    (other,) = started_from(str(trained))
    assert other.name != new.name  # other weights, another run
    assert typed("reproduce", str(new), "--out", "again").code == 0
    shutil.rmtree(run)
    assert typed("eval", str(new), "seq_len=8", "sequences=2").code == 0  # by its own weights
    typed("reproduce", str(new), "--out", "once_more").refuses(f"init_from={place}: ", code=2, verb="reproduce")


def test_weights_that_do_not_fit_are_one_line(run: Path, typed: Typed) -> None:
    place = str(run.relative_to(Path.cwd()))
    command = ("train", *LSTM, f"init_from={place}")
    typed(*command, "cell.hidden_size=5").refuses("bias_hh_l0 is [16] there and is [20] here", code=2)
    typed(*command, "cell=gru").refuses(" there and ", code=2)
    swept = typed(*command, "-m", "cell.hidden_size=4,5")
    assert swept.code == 2
    assert "1 of 2 jobs cannot run, so none was started" in swept.err
    typed("train", *LSTM, "init_from=nowhere").refuses("init_from=nowhere: no run there", code=2)
    typed("train", *LSTM, "init_weights=12").refuses("init_weights=12: says which weights init_from=RUN has", code=2)
    (run / "result.json").unlink()
    typed(*command).refuses(f"init_from={place}: is not finished", code=2)
    assert len(runs_below(Path("outputs"))) == 1


def test_weights_of_a_stranger_execute_none_of_its_code(run: Path, typed: Typed) -> None:
    Path("sent.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    config = json.loads((run / "config.json").read_text())
    own = {"name": "custom", "target": "sent.Sent", "hidden_size": 4, "layers": 1, "params": None, "args": {}}
    (run / "config.json").write_text(json.dumps({**config, "cell": own}))
    shutil.move(run, "theirs")
    assert typed("train", *LSTM, *BARELY, "init_from=theirs").code == 0
    torch.testing.assert_close(weights(started_from("theirs")[0]), weights(Path("theirs")), rtol=0, atol=1e-20)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("made_with", "installed", "same"),
    [
        ("2.13.0+cpu", "2.13.0+cpu", True),
        ("2.13.0+cu130", "2.13.0", True),  # PyPI's builds for CUDA
        ("2.13.0", "2.13.0", True),
        ("2.13.0+cu130", "2.13.0+cpu", False),
        ("2.12.0+cu130", "2.13.0", False),
        ("2.13.0", "2.13.0+cpu", False),
    ],
)
def test_the_torch_that_made_a_run_is_the_installed_one(
    made_with: str, installed: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longer, "version", {"torch": installed}.get)
    assert longer._is_installed(made_with) is same
