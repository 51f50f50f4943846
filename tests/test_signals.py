"""Ctrl-C: the first is answered within a second, the second leaves runs that go on; in real processes."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commandline import TINY, Completed, end, only_run, runs_below, started, until
from seqmem.cli.launch.one_run import StopSignals
from seqmem.runs.directory import RunDirectory
from seqmem.training.plan import Interrupted

SLOW = '''\
import time
from collections.abc import Callable
from pathlib import Path
from seqmem.cells import LSTM

class Slow(LSTM):
    """An lstm whose evaluation at 30 timesteps lasts a minute, in small pieces."""
    def forward(self, xs, state=None):
        if not self.training and len(xs) == 30:
            Path(__file__).with_name("evaluating").touch()
            for _ in range(6000):
                time.sleep(0.01)
        return super().forward(xs, state)
'''


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1", "hydra.launcher.workers=2")], ids=["run", "sweep"])
def test_the_first_ctrl_c_in_the_final_evaluation_is_answered_at_once(sweep: tuple[str, ...], tmp_path: Path) -> None:
    """In the middle of one length, not after it; the run goes on from its last step."""
    (tmp_path / "slow.py").write_text(SLOW)
    small = [word for word in TINY if not word.startswith("evaluate.lengths")]
    command = ("train", *sweep, "cell=custom", "cell.target=slow.Slow", *small, "evaluate.lengths=[8,30]")
    with started(*command, cwd=tmp_path) as process:
        until((tmp_path / "evaluating").exists, of=process)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        done = end(process)
        assert time.monotonic() - asked < 20  # of 60; on a quiet machine a tenth of a second
    assert done.code == 130, done
    assert "Traceback" not in done.err
    states = {json.loads((run / "status.json").read_text())["state"] for run in runs_below(tmp_path)}
    assert states == {"interrupted"}


def test_a_second_ctrl_c_leaves_an_interrupted_run(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("not self.training and len(xs) == 30", "self.training"))
    command = ("train", "cell=custom", "cell.target=slow.Slow", *TINY)
    with started(*command, cwd=tmp_path) as process:
        until((tmp_path / "evaluating").exists, of=process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        done = end(process)
    assert (done.code, "stopped at once" in done.err) == (130, True), done
    assert RunDirectory(only_run(tmp_path)).state == "interrupted"


SLOW_STATUS = '''\
import time
from collections.abc import Callable
from pathlib import Path
import slow
from seqmem.runs.directory import RunDirectory

set_status = RunDirectory.set_status

def slowly(self, state, **values):
    """Wait for the second Ctrl-C where the first one's end is recorded."""
    if state == "interrupted":
        place = Path(__file__).with_name("recording")
        if not place.exists():
            place.touch()
            time.sleep(60)
    set_status(self, state, **values)

RunDirectory.set_status = slowly
Slow = slow.Slow
'''


def test_a_second_ctrl_c_while_the_first_is_recorded_leaves_an_interrupted_run(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "late.py").write_text(SLOW_STATUS)
    small = [word for word in TINY if not word.startswith("evaluate.lengths")]
    command = ("train", "cell=custom", "cell.target=late.Slow", *small, "evaluate.lengths=[8,30]")
    with started(*command, cwd=tmp_path) as process:
        for sign in ("evaluating", "recording"):
            until((tmp_path / sign).exists, of=process)
            process.send_signal(signal.SIGINT)
        done = end(process)
    assert (done.code, "stopped at once" in done.err, "Traceback" in done.err) == (130, True, False), done
    assert RunDirectory(only_run(tmp_path)).state == "interrupted"


def test_requests_are_ignored_while_an_end_is_recorded() -> None:
    stop = StopSignals()
    with stop.caught():
        os.kill(os.getpid(), signal.SIGINT)
        with stop.ignored():
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_request_that_comes_as_an_evaluation_begins_is_not_missed() -> None:
    """Another thread that finds nothing to raise leaves it to the last look at ``received``: that one comes later."""
    interruptible_then: list[bool] = []

    class Watched(StopSignals):
        def __getattribute__(self, name: str) -> Any:
            if name == "received":
                interruptible_then.append(super().__getattribute__("at_once") is not None)
            return super().__getattribute__(name)

    with Watched().interruptible(3):
        pass
    assert interruptible_then[-1]
    stop = StopSignals(received=signal.SIGTERM)
    with pytest.raises(Interrupted), stop.interruptible(3):
        pytest.fail("it goes on")
    assert stop.at_once is None


def test_a_second_ctrl_c_leaves_interrupted_jobs(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("not self.training and len(xs) == 30", "self.training"))
    command = ("train", "-m", "seed=0,1", "cell=custom", "cell.target=slow.Slow", *TINY, "hydra.launcher.workers=2")
    with started(*command, cwd=tmp_path) as process:
        until(lambda: len(list(tmp_path.rglob("status.json"))) == 2, of=process)
        until((tmp_path / "evaluating").exists, of=process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        done = end(process)
    assert done.code == 130, done
    assert {RunDirectory(run).state for run in runs_below(tmp_path)} == {"interrupted"}


def test_a_process_that_was_started_with_ctrl_c_ignored_answers_it(
    typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `seqmem train -m ... &` in a script: outside of the training, too, where no handler of ours is installed."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr("seqmem.cli.verbs.train.forget_edited", lambda: os.kill(os.getpid(), signal.SIGINT))
        done = typed("train", "-m", "seed=0,1")
        assert (done.code, done.out, done.err) == (130, "", "seqmem train: stopped\n")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
