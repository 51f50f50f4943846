"""A run's directory under kills, stops, edits and new starts in any order ends as the run that nothing disturbed."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import CHECKPOINT, METRICS
from seqmem.training.plan import Interrupted
from test_record import PLAN, Bomb, Killed, Setup, assert_same, finish, setup

PLAN = replace(PLAN, steps=4, checkpoint_every=2, evaluate_lengths=(7,), evaluate_sequences=4)
TOLD = 11
"""As many events as an observer of such a run hears."""


class Disturbances(RuleBasedStateMachine):
    whole: ClassVar[Setup]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=self.whole.run.path.parent))
        self.run = RunDirectory(self.folder)

    def start(self) -> Setup:
        return setup(self.folder, cell="rnn", steps=4)

    @precondition(lambda self: not self.run.finished)
    @rule(at=st.integers(1, TOLD))
    def kill(self, at: int) -> None:
        """Kill it at its ``at``-th event, or let it end if it has fewer left."""
        process = self.start()
        try:
            process.train(PLAN, bomb=Bomb(at))
        except Killed:
            process.die()
        else:
            process.recorder.__exit__(None, None, None)

    @precondition(lambda self: not self.run.finished)
    @rule(steps=st.integers(1, 4))
    def stop(self, steps: int) -> None:
        """Ask it to stop after some steps: it saves, and goes on from there."""
        answers = iter([False] * (steps - 1))
        process = self.start()
        with process.recorder:
            try:
                process.train(PLAN, stop_requested=lambda: next(answers, True))
            except Interrupted:
                assert self.run.file(CHECKPOINT).exists()

    @precondition(lambda self: self.run.file(CHECKPOINT).exists() and not self.run.finished)
    @rule()
    def cut(self) -> None:
        """Leave half a line behind the checkpoint, as a process that is killed while it writes."""
        with self.run.file(METRICS).open("a") as file:
            file.write('{"kind": "train", "st')

    @rule()
    def force(self) -> None:
        """Begin anew."""
        self.run.restart()

    def teardown(self) -> None:
        if not self.run.finished:
            finish(self.folder, PLAN, cell="rnn", steps=4)
        assert_same(self.run, self.whole.run)
        shutil.rmtree(self.folder)


def test_whatever_happens_it_ends_as_the_run_that_nothing_disturbed(tmp_path: Path) -> None:
    never = Bomb(0)
    Disturbances.whole = setup(tmp_path / "whole", cell="rnn", steps=4)
    with Disturbances.whole.recorder:
        Disturbances.whole.train(PLAN, bomb=never)
    assert never.told == TOLD
    few = settings(max_examples=6, stateful_step_count=5, phases=(Phase.generate,))  # shrinking takes minutes
    run_state_machine_as_test(Disturbances, settings=few)
