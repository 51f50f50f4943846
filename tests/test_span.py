"""The memory span: the search against brute force, and the command on ordinary runs."""

import json
import math
import signal
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import pytest
from omegaconf import OmegaConf
from scipy.special import betaincinv

from commandline import SIGNALLED, TINY, Completed, runs_below
from made_up import stored_result
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import write_json
from seqmem.solved import Solved, decided, luck, search_bounds, still_needed
from seqmem.span import Span, search

Typed = Callable[..., Completed]

LIGHT = tuple(word for word in TINY if not word.startswith("seq_len"))


# The search


def _answer(length: int, *, border: int, budget: int, tried: list[int]) -> bool | None:
    if len(tried) == budget:
        return None
    tried.append(length)
    return length <= border


@pytest.mark.parametrize("resolution", [0.0, 0.05, 0.3])
def test_bisection_agrees_with_trying_every_length(resolution: float) -> None:
    random = Random(4)
    for _ in range(200):
        shortest = random.randint(1, 30)
        start = random.randint(shortest, 30 * shortest)
        longest = random.randint(start, 30 * start)
        border = random.choice([random.randint(0, longest + 3), random.randint(shortest, start)])
        budget = random.choice([1000, random.randint(0, 8)])
        tried: list[int] = []
        ask = partial(_answer, border=border, budget=budget, tried=tried)
        span = search(ask, start=start, shortest=shortest, longest=longest, resolution=resolution)
        assert span.asked == tuple((length, length <= border) for length in tried)
        assert len(set(tried)) == len(tried)
        assert all(shortest <= length <= longest for length in tried)
        assert span.solved == max((length for length in tried if length <= border), default=None)
        assert span.failed == min((length for length in tried if length > border), default=None)
        truth = max((length for length in range(shortest, longest + 1) if length <= border), default=None)
        if truth is None and len(tried) < budget:
            assert span.ended == "shortest"
            assert span.failed == shortest
        elif truth == longest and len(tried) < budget:
            assert (span.ended, span.solved) == ("longest", longest)
        elif span.ended == "found":
            assert span.solved is not None
            assert span.failed is not None
            assert truth is not None
            assert span.solved <= truth < span.failed
            assert span.failed - span.solved <= max(1, resolution * span.solved)
        else:
            assert span.ended in ("budget", "longest", "shortest")
            assert span.ended != "budget" or len(tried) == budget
        doublings = math.log2(max(longest / start, start / shortest))
        # Bisection starts with an interval that is at most one longer than its lower end.
        width = 1 + max(span.solved or 1, 1) if not resolution else min(longest, 1 / resolution)
        assert len(tried) <= 3 + doublings + 1 + math.log2(width) + 1


def test_without_monotonicity_a_border_is_still_a_border() -> None:
    """The result is a solved length and, within the resolution, a longer one that is not."""
    random = Random(5)
    for _ in range(100):
        solved = [False, *(random.random() < 0.5 for _ in range(300))]
        span = search(lambda length, solved=solved: solved[length], start=10, shortest=5, longest=300)
        if span.ended == "found":
            assert span.solved is not None
            assert span.failed is not None
            assert solved[span.solved]
            assert not solved[span.failed]
            assert 0 < span.failed - span.solved <= max(1, 0.05 * span.solved)


def test_the_order_of_lengths() -> None:
    span = search(lambda length: length <= 96, start=10, shortest=7, longest=1000)
    lengths = [10, 20, 40, 80, 160, 120, 100, 90, 95, 97]
    assert span == Span(95, 97, "found", tuple((length, length <= 96) for length in lengths))


@pytest.mark.parametrize("limits", [(6, 7, 20), (21, 7, 20), (5, 0, 20)])
def test_a_start_outside_the_limits_is_an_error(limits: tuple[int, int, int]) -> None:
    start, shortest, longest = limits
    with pytest.raises(ValueError, match=f"cannot start at {start}"):
        search(lambda _: True, start=start, shortest=shortest, longest=longest)


def test_no_more_seeds_run_than_the_decision_needs() -> None:
    """For every outcome of up to seven seeds: no run is wasted, and the runs decide."""
    for seeds in range(1, 8):
        for outcomes in range(2**seeds):
            solves = [bool(outcomes >> seed & 1) for seed in range(seeds)]
            run = 0
            while needed := still_needed(seeds, sum(solves[:run]), run - sum(solves[:run])):
                for further in range(1, needed):  # undecided before the last of them
                    known = solves[: run + further]
                    least, most = sum(known), sum(known) + seeds - len(known)
                    assert 2 * least <= seeds < 2 * most
                run += needed
                assert run <= seeds
            assert decided(seeds, sum(solves[:run]), run - sum(solves[:run])) is (2 * sum(solves) > seeds)


@pytest.mark.parametrize("seeds", [9, 16, 31])
@pytest.mark.parametrize(("steep", "shift"), [(0.02, 0.5), (0.5, 0.5), (0.5, 0.0)], ids=["flat", "steep", "at a half"])
def test_the_interval_of_a_searched_span_is_wrong_as_rarely_as_it_says(seeds: int, steep: float, shift: float) -> None:
    """The share of seeds that solve a length falls from 1 to 0, and is a half near 60; seeds that suffice are drawn."""
    random, searches, wrong, doubt = Random(seeds), 400, 0, 0.0

    def share(length: int) -> float:
        return 0.5 - 0.5 * math.tanh(steep * (length - 60 - shift))

    truth = max(length for length in range(1, 1001) if share(length) > 0.5)
    for _ in range(searches):
        tried: dict[int, Solved] = {}

        def ask(length: int, tried: dict[int, Solved] = tried) -> bool:
            solved = failed = 0
            while needed := still_needed(seeds, solved, failed):
                more = sum(random.random() < share(length) for _ in range(needed))
                solved, failed = solved + more, failed + needed - more
            tried[length] = Solved(solved, solved + failed)
            return decided(seeds, solved, failed) is True

        search(ask, start=10, shortest=1, longest=1000)
        bounds = search_bounds(tried, seeds)
        wrong += (bounds.low or 0) > truth or (bounds.high or 1001) <= truth
        doubt += 1 - bounds.level
    assert wrong <= doubt
    assert doubt < searches * (0.5 if seeds == 9 else 0.06)


@pytest.mark.parametrize("seeds", [1, 2, 5, 8])
def test_luck_is_that_of_drawing_until_a_majority_agree(seeds: int) -> None:
    """Against every outcome of as many fair coins."""
    for majority in (seeds // 2 + 1, (seeds + 1) // 2):
        for others in range(majority):
            lucky = sum(
                sum(outcome >> i & 1 for i in range(majority + others)) >= majority
                for outcome in range(2 ** (majority + others))
            )
            assert luck(majority, others) == lucky / 2 ** (majority + others)


# The command, with simulated runs


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, int]], list[tuple[int, int]]]:
    """Replaces training: a seed solves every length up to a given one. Returns the list of (length, seed) that ran."""
    from seqmem.cli.launch import local
    from seqmem.cli.launch.jobs import Job, Outcome

    ran: list[tuple[int, int]] = []

    def simulate(longest: Mapping[int, int]) -> list[tuple[int, int]]:
        def run_jobs(jobs: Iterable[Job], *, workers: int | str = "auto") -> list[Outcome]:
            outcomes = []
            for job in jobs:
                length, seed = job.settings["seq_len"], job.settings["seed"]
                ran.append((length, seed))
                job.run.path.mkdir(parents=True)
                if longest[seed] < 0:
                    job.run.set_status("failed", step=3, error="Diverged: the loss became nan at step 3")
                    outcomes.append(Outcome(job.number, "failed", error="the loss became nan at step 3"))
                    continue
                score = 1.0 if length <= longest[seed] else 0.25
                solved_after = {"steps_to_solve": 150 if score == 1 else None}
                write_json(job.run.file("result.json"), stored_result(job.settings, score) | solved_after)
                outcomes.append(Outcome(job.number, "finished", score=score))
            return outcomes

        monkeypatch.setattr(local, "run_jobs", run_jobs)
        return ran

    return simulate


def test_a_span_of_three_seeds(
    typed: Typed, tmp_path: Path, simulated: Callable[[Mapping[int, int]], list[tuple[int, int]]]
) -> None:
    ran = simulated({0: 12, 1: 200, 2: 7})  # the median seed decides: 12
    completed = typed("span", "cell=rnn", "--max", "100", *LIGHT)
    assert (completed.code, completed.err) == (0, "")
    lines = completed.out.splitlines()
    assert lines[0] == "rnn on pronoun: solved is 99.0 % accuracy by at least 2 of 3 seeds after 6 steps"
    lengths = [10, 20, 15, 12, 13]
    for line, length in zip(lines[2:-3], lengths, strict=True):
        seeds = "2 of 2" if length <= 12 else "1 of 3"
        assert line.split()[:2] == [str(length), "yes" if length <= 12 else "no"]
        assert f"  {seeds}  " in line
        # Clopper and Pearson, whatever the seeds would do that were not needed.
        fewest, most = (2, 3) if length <= 12 else (1, 1)  # of 3
        low = betaincinv(fewest, 4 - fewest, 0.025)
        high = betaincinv(most + 1, 3 - most, 0.975) if most < 3 else 1
        assert f"  {100 * low:.0f}-{100 * high:.0f} %  " in line
    assert lines[-3] == "memory span: 12 (fails at 13)"
    assert lines[-2] == "interval: none: too few seeds to say how sure that is; --seeds 13 would give one"
    assert max(map(len, lines[:-1])) <= 80
    # The third seed runs only if the first two disagree. The file has the results of each.
    third = {length for length, seed in ran if seed == 2}
    assert third == {length for length in lengths if length > 12}
    (file,) = (tmp_path / "outputs" / "spans").iterdir()
    assert str(file.relative_to(tmp_path)) in lines[-1]
    span = json.loads(file.read_text())
    assert (span["span"], span["fails_at"], span["ended"]) == (12, 13, "found")
    assert [question["seq_len"] for question in span["questions"]] == lengths
    assert span["questions"][1]["scores"] == [0.25, 1.0, 0.25]
    assert span["steps"] == 6 * len(ran)
    assert all((tmp_path / path / "result.json").exists() for q in span["questions"] for path in q["runs"])

    count = len(ran)
    again = typed("span", "cell=rnn", "--max", "100", "--json", *LIGHT)
    assert json.loads(again.out) == span
    assert len(ran) == count  # finished runs are not repeated


@pytest.mark.parametrize(
    ("longest", "options", "last_line"),
    [
        ((400, 400, 0), ("--max", "20"), "memory span: >= 20 (the longest tried)"),
        ((6, 5, 400), (), "memory span: < 7 (the shortest that the task has)"),
        ((9, -1, 8), (), "memory span: 8 (fails at 9)"),
        ((400, 9, 300), ("--budget", "40"), "memory span: >= 20; the budget of 40 steps is spent: --budget gives more"),
        ((400, 400, 9), ("--seeds", "1", "--from", "7", "--max", "7"), "memory span: >= 7 (the longest tried)"),
        ((400, 400, 9), ("--threshold", "0.2", "--max", "12"), "memory span: >= 12 (the longest tried)"),
    ],
    ids=["longest", "shortest", "diverged", "budget", "one length", "threshold"],
)
def test_how_a_search_ends(
    typed: Typed,
    simulated: Callable[[Mapping[int, int]], list[tuple[int, int]]],
    longest: tuple[int, ...],
    options: tuple[str, ...],
    last_line: str,
) -> None:
    ran = simulated(dict(enumerate(longest)))
    completed = typed("span", *options, *LIGHT)
    assert completed.code == 0, completed
    assert completed.out.splitlines()[-3] == last_line
    if "--budget" in options:
        assert 6 * len(ran) <= 40
    if -1 in longest:
        assert "1 diverged" in completed.out


def test_any_other_failure_ends_the_search(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmem.cli.launch import local
    from seqmem.cli.launch.jobs import Outcome

    def full(jobs: Iterable[object], *, workers: int | str = "auto") -> list[Outcome]:
        return [Outcome(number, "failed", error="No space left on device") for number, _ in enumerate(jobs)]

    monkeypatch.setattr(local, "run_jobs", full)
    completed = typed("span", "--max", "20", *LIGHT)
    completed.refuses("No space left on device (outputs/pronoun/lstm/len10-seed0-", code=1, verb="span")
    assert not (tmp_path / "outputs" / "spans").exists()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("seq_len=20",), "seq_len= is what is searched for: --from and --max limit it"),
        (("seed=1",), "seed=: the seeds are 0 to N-1 by --seeds N"),
        (("cell=rnn,lstm",), "cell=: a span is of one value of every setting, not of several"),
        (("cell=lstn",), "no cell is called 'lstn'. Did you mean 'lstm'?"),
        (("cell.hiden_size=3",), "there is no setting 'cell.hiden_size'. Did you mean 'cell.hidden_size'?"),
        (("--max", "6"), "--max 6: the shortest length of task=pronoun is 7"),
        (("--from", "30", "--max", "20"), "--from 30: must be from 7, the shortest of task=pronoun, to 20"),
        (("task=text",), "task=text has no score at which it counts as solved: --threshold sets one"),
        (("--budget", "100"), "--budget 100: one length takes up to 3000 steps, 3 seeds of 1000"),
        (("--seeds", "0"), "--seeds 0: must be at least 1"),
        (("--workers", "many"), "--workers many: must be auto or a whole number from 1 on"),
        (("--depth", "3"), "unrecognized arguments: --depth"),
    ],
)
def test_invalid_arguments_are_errors(typed: Typed, args: tuple[str, ...], line: str) -> None:
    typed("span", *args).refuses(line, code=2, verb="span")


def test_usual_lstm_is_the_lstm_with_a_forget_bias_of_1() -> None:
    """A sweep can run it beside an rnn, and its runs have the same identity as with cell.forget_bias=1."""
    from seqmem.cli.config.compose import compose_run
    from seqmem.cli.launch.one_run import run_path

    cells = (["cell=usual/lstm"], ["cell=lstm", "cell.forget_bias=1"], ["cell=lstm"])
    settings = ["experiment=subject_study", "seq_len=7", "seed=3"]
    paths = [run_path(compose_run([*settings, *cell])) for cell in cells]
    assert paths[0] == paths[1] != paths[2]
    assert paths[0].parent == Path("outputs/subject/lstm")


def test_an_optuna_search_prints_its_best_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from seqmem.cli.launch.tuning import BestCallback

    folder = tmp_path / "sweeps" / "one"
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "sweeper": {"n_trials": 16}}})
    BestCallback().on_multirun_start(config)
    BestCallback().on_multirun_end(config)  # the search was stopped before it had results
    assert capsys.readouterr().out == ""
    file = folder / "optimization_results.yaml"
    OmegaConf.save({"name": "optuna", "best_params": {"optimizer.lr": 0.0123456789}, "best_value": 0.75}, file)
    BestCallback().on_multirun_end(config)
    assert capsys.readouterr().out == f"best of 16: optimizer.lr=0.0123457 with a score of 0.75 ({file})\n"


def test_a_stopped_search_resumes_and_shares_its_runs(typed: Typed, tmp_path: Path) -> None:
    """With real training: after Ctrl-C the run resumes, and `seqmem train` finds it finished."""
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    (tmp_path / "signal").write_text(f"3 {int(signal.SIGINT)}")
    small = (
        *LIGHT, "cell=custom", "cell.target=signalled.Signalled", "task=subject", "task.lengths=fixed",
        "task.shortest=null", "evaluate.lengths=[4]", "trace.every=0",
    )  # fmt: skip
    limits = ("--from", "4", "--max", "4", "--seeds", "1", "--workers", "1", "--threshold", "0")
    search_of = ("span", *small, *limits)
    stopped = typed(*search_of)
    assert stopped.code == 130
    assert stopped.err == "seqmem span: stopped after 0 lengths: the same command goes on from there\n"
    (run,) = map(RunDirectory, runs_below(tmp_path))
    status = run.status()
    assert status is not None
    assert (status.state, status.step) == ("interrupted", 3)
    (tmp_path / "signal").unlink()
    completed = typed(*search_of, "--json")
    assert completed.code == 0, completed
    (question,) = json.loads(completed.out)["questions"]
    assert tmp_path / question["runs"][0] == run.path
    result = run.result()
    assert result is not None
    assert question["scores"] == [result["score"]]
    assert "already finished" in typed("train", *small, "seq_len=4").out
