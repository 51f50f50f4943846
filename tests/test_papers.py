"""``seqmem paper``: what its files may say, the comparison of two figures, and a whole paper in small."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import StringIO
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from commandline import Completed
from seqmem.cli.config.build import check
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.launch.paper_runs import planned
from seqmem.cli.terminal.console import Console
from seqmem.cli.verbs.paper import show_orders
from seqmem.papers import Paper, Published, Row, compared, ordered, paper_of
from seqmem.papers.comparison import Figure, best, student
from seqmem.papers.definition import DefinitionError, Order
from seqmem.papers.table import markdown, order_rows, rows
from seqmem.solved import share_interval

CONF = Path(__file__).parents[1] / "conf" / "paper"

SMALL: dict[str, Any] = {
    "source": "Someone 1999, A paper",
    "where": "Table 1",
    "claim": "Small cells learn.",
    "cost": "a second",
    "measure": "error",
    "margin": 0.05,
    "seeds": 2,
    "settings": "task=pronoun seq_len=7 steps=2 batch_size=2 cell.hidden_size=4 evaluate.sequences=20 trace.every=0",
    "rows": {"rnn": {"settings": "cell=rnn", "published": 0.8}, "as before": {"settings": "cell=rnn"}},
    "departures": ["Everything."],
    "quick": {"seeds": 1, "settings": "steps=1", "shows": "nothing at all."},
}


def small(**changes: Any) -> Paper:
    return paper_of("small", {**SMALL, **changes})


# ---- Files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_papers_say_all_they_must(path: Path) -> None:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(content, Mapping)
    paper = paper_of(path.stem, {str(key): value for key, value in content.items()})
    assert paper.departures
    assert paper.seeds >= 2
    for row in paper.rows:
        for settings in (paper.settings, row.settings):
            names = [one.partition("=")[0] for one in settings]
            assert "seed" not in names
            assert len({*names}) == len(names), "a setting stands twice"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_runs_of_our_papers_can_be(path: Path) -> None:
    """Their settings exist and fit each other, of the whole paper and of its quick form."""
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(content, Mapping)
    paper = paper_of(path.stem, {str(key): value for key, value in content.items()})
    assert paper.quick is not None
    short = replace(paper, seeds=1, best_of="", quick=replace(paper.quick, seeds=1))
    for quick in (False, True):
        # Two rows of one configuration would be one row, unless they measure other lengths.
        told = [str((paper.lengths_of(row), paper.settings_of(row, "", quick=quick))) for row in paper.rows]
        assert len({*told}) == len(told)
    candidate = [*paper.candidates()[:1]] if paper.best_of else []
    first = replace(short, rows=paper.rows[:1])
    for one in [*planned(short, candidate, quick=False), *planned(first, candidate, quick=True)]:
        check(one.config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": "solved", "lengths": [7]}, "measure=solved: is told of the training length, not of others"),
        (
            {"rows": {"a": {"settings": "cell=rnn", "published": "high"}}},
            "published: high: must be a number, or a bound such as '> 0.99'",
        ),
        ({"measure": "luck"}, "measure=luck: must be one of score, error, loss, solved, sequences"),
        ({"margin": 0}, "it needs a seed, a positive margin and a row"),
        ({"orders": ["rnn beats gru"]}, "orders: rnn beats gru: must be 'ROW > ROW', the better one first"),
        ({"orders": ["rnn > rnn"]}, "orders: rnn > rnn: must be of two rows"),
        ({"orders": ["rnn > as before"] * 2}, "orders: one of them stands there twice"),
        ({"quick": {**SMALL["quick"], "not much": None}}, "quick has 'not much', which means nothing there"),
        ({"orders": "rnn"}, "orders: rnn: must be 'ROW > ROW', the better one first"),
        ({"orders": ["rnn > gru"]}, "orders: rnn > gru: no row is called 'gru'"),
        ({"colour": "red"}, "its file has 'colour', which means nothing there"),
        ({"rows": {"a": {"settings": "cell=rnn", "publshed": 1}}}, "row 'a' has 'publshed', which means nothing there"),
    ],
    ids=str,
)
def test_a_file_that_says_something_else(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError) as error:
        small(**changes)
    assert str(error.value) == f"paper=small: {message}"


def test_a_row_may_have_any_name() -> None:
    rows = {name: {"settings": f"cell.hidden_size={at + 4}"} for at, name in enumerate((4, "a > b", "c|d"))}
    paper = small(rows=rows, orders=["a > b > 4", "4 > c|d"])
    assert paper.orders == [Order("a > b", "4"), Order("4", "c|d")]
    figures = [compared(paper, row, Figure([0.5, 0.6])) for row in paper.rows]
    table = markdown(paper, figures, [], "seqmem paper", quick=False)
    assert r"| c\|d | " in table
    assert small(orders=None).orders == []


def test_a_score_that_is_an_error_is_refused() -> None:
    """Its worst row, the one of the greatest error, would be the best."""
    paper = small(measure="score", rows={"a": {"settings": "task=adding cell=rnn"}})
    with pytest.raises(
        ConfigError, match=r"^paper=small: measure=score: row 'a' has a task whose score is mean squared"
    ):
        planned(paper, [], quick=False)


def test_a_small_published_figure_keeps_its_digits() -> None:
    row = Row("a", [], Published(0.000035))
    assert rows(small(), [compared(small(), row, Figure([0.1, 0.1]))])[0][1] == "3.5e-05"


def test_a_missing_key_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"^paper=small: its file has no 'claim'$"):
        paper_of("small", {key: value for key, value in SMALL.items() if key != "claim"})


def test_the_page_has_every_paper_and_every_departure() -> None:
    """docs/papers.md, which has the departures word by word; cogscale_copy has a page of its own."""
    page = (CONF.parents[1] / "docs" / "papers.md").read_text()
    words = " ".join(page.split())
    for path in CONF.glob("*.yaml"):
        assert f"`{path.stem}`" in page
        if path.stem != "cogscale_copy":
            content: Any = OmegaConf.to_container(OmegaConf.load(path))
            for one in content["departures"]:
                assert " ".join(one.split()) in words, path.stem


def test_later_settings_hold() -> None:
    paper = small(best_of="optimizer.lr=1e-2,1e-3", rows={"a": {"settings": "cell=rnn steps=7"}})
    assert paper.candidates() == ["optimizer.lr=1e-2", "optimizer.lr=1e-3"]
    whole = paper.settings_of(paper.rows[0], "optimizer.lr=1e-3", quick=False)
    assert "steps=7" in whole
    assert "steps=2" not in whole
    assert "steps=1" in paper.settings_of(paper.rows[0], "optimizer.lr=1e-3", quick=True)


def test_a_bound_is_read_with_its_sign() -> None:
    given = {
        "a": {"settings": "cell=rnn", "published": "> 0.9"},
        "b": {"settings": "cell=rnn", "published": {"value": "<0.2", "seeds": 5}},
    }
    published = [row.published for row in small(rows=given, rounding=0.05).rows]
    assert published == [Published(0.9, rounding=0.05, bound=">"), Published(0.2, seeds=5, rounding=0.05, bound="<")]


def test_lengths_of_a_row_come_before_those_of_the_paper() -> None:
    given = {"a": {"settings": "cell=rnn"}, "b": {"settings": "cell=rnn", "lengths": 9}}
    paper = small(rows=given, lengths=[7, 8])
    assert [paper.lengths_of(row) for row in paper.rows] == [[7, 8], [9]]
    with pytest.raises(ConfigError, match=r"^paper=small: row 'a' measures length 8: not in evaluate.lengths$"):
        planned(paper, [], quick=False)


# ---- Comparison ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "quantile"),
    [(1, 12.70620), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (10, 2.228139), (30, 2.042272)],
)
def test_the_quantile_is_students(free: int, quantile: float) -> None:
    """As in printed tables, e.g. NIST's Engineering Statistics Handbook, 1.3.6.7.2."""
    assert student(free) == pytest.approx(quantile, rel=1e-6)


def test_the_interval_of_a_difference_is_welchs() -> None:
    values = [0.61, 0.7, 0.66, 0.58, 0.72]
    one = compared(small(), Row("a", [], Published(0.52, 0.05, 10)), Figure(values))
    ours, theirs = np.var(values, ddof=1) / 5, 0.05**2 / 10
    free = (ours + theirs) ** 2 / (ours**2 / 4 + theirs**2 / 9)
    assert int(free) == 6
    half = 2.446912 * np.sqrt(ours + theirs)  # Student's quantile for 6, from the same table
    assert one.difference == pytest.approx(np.mean(values) - 0.52)
    assert (one.low, one.high) == pytest.approx((one.difference - half, one.difference + half), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "published", "verdict"),
    [
        ([0.80, 0.81, 0.79, 0.80], Published(0.80), "agrees"),
        ([0.50, 0.51, 0.49, 0.50], Published(0.80), "differs"),
        ([0.20, 0.90, 0.99, 0.80], Published(0.80), "cannot tell"),
        ([0.80], Published(0.80), "cannot tell"),
        ([0.80, nan, 0.80], Published(0.80), "cannot tell"),
        ([0.83, 0.83, 0.83], Published(0.80), "agrees"),  # another figure, within the margin
        ([0.80, 0.80], None, "cannot be compared"),
    ],
    ids=str,
)
def test_verdicts(values: list[float], published: Published | None, verdict: str) -> None:
    assert compared(small(), Row("a", [], published), Figure(values)).verdict == verdict


@pytest.mark.parametrize(
    ("bound", "values", "verdict"),
    [
        (">", [0.97, 0.98, 0.99], "agrees"),
        (">", [0.70, 0.72, 0.71], "differs"),
        (">", [0.80, 0.99, 0.99], "cannot tell"),
        ("<", [0.70, 0.72, 0.71], "agrees"),
        ("<", [0.97, 0.98, 0.99], "differs"),
    ],
    ids=str,
)
def test_verdicts_on_a_bound(bound: str, values: list[float], verdict: str) -> None:
    one = compared(small(), Row("a", [], Published(0.9, bound=bound)), Figure(values))
    assert one.verdict == verdict
    assert rows(small(), [one])[0][1] == f"{bound} 0.900"


def test_an_obstacle_forbids_a_comparison() -> None:
    one = compared(small(), Row("a", [], Published(0.8), "another score"), Figure([0.8, 0.8]))
    assert (one.verdict, one.why) == ("cannot be compared", "another score")


def test_shares_are_compared_by_their_exact_intervals() -> None:
    solved = small(measure="solved", margin=0.3)
    ten = Figure([1.0] * 9 + [0.0])
    one = compared(solved, Row("a", [], Published(0.9)), ten)
    low, high = share_interval(9, 10)
    assert (one.low, one.high) == pytest.approx((low - 0.9, high - 0.9))
    assert one.verdict == "cannot tell"
    assert compared(solved, Row("a", [], Published(0.0)), ten).verdict == "differs"
    # With what confidence? Of two shares of ten, whatever they are, it holds the difference nearly always.
    rng = np.random.default_rng(0)
    for first, second in ((0.8, 0.5), (0.95, 0.9), (0.5, 0.5)):
        drawn = rng.binomial(10, [[first, second]] * 300)
        inside = 0
        for k, m in drawn.tolist():
            values = Figure([1.0] * k + [0.0] * (10 - k))
            other = compared(solved, Row("a", [], Published(m / 10, seeds=10)), values)
            inside += other.low <= first - second <= other.high
        assert inside >= 0.93 * 300


def test_a_seed_that_never_solves_stays_in_the_denominator() -> None:
    paper = small(measure="sequences", margin=1000.0)
    one = compared(paper, Row("a", [], Published(5000.0)), Figure([4000.0, inf, 6000.0]))
    assert (one.verdict, one.why) == ("cannot tell", "1 of 3 seeds did not solve the task")


def test_the_best_candidate_is_that_of_the_best_mean() -> None:
    figures = [Figure([0.5, 0.5], "a"), Figure([0.1, 0.7], "b"), Figure([0.0, nan], "c")]
    assert best(figures, lower=True).candidate == "b"
    assert best(figures, lower=False).candidate == "a"


ORDER = Order("a", "b")


@pytest.mark.parametrize(
    ("measure", "better", "worse", "verdict"),
    [
        ("score", [0.9, 0.92, 0.91], [0.5, 0.52, 0.48], "agrees"),
        ("score", [0.5, 0.52, 0.48], [0.9, 0.92, 0.91], "differs"),
        ("score", [0.9, 0.2, 0.5], [0.5, 0.52, 0.48], "cannot tell"),
        ("score", [0.9], [0.5], "cannot tell"),
        ("score", [0.9, nan, 0.9], [0.5, 0.5, 0.5], "cannot tell"),
        ("loss", [0.1, 0.11, 0.1], [0.5, 0.52, 0.48], "agrees"),
        ("error", [0.5, 0.52, 0.48], [0.1, 0.11, 0.1], "differs"),
        ("sequences", [1000.0, 1100.0, 1000.0], [5000.0, 5100.0, 5200.0], "agrees"),
        ("sequences", [1000.0] * 5, [inf] * 5, "agrees"),
        ("sequences", [inf] * 5, [1000.0] * 5, "differs"),
        ("sequences", [1000.0] * 3, [1000.0, inf, 2000.0], "cannot tell"),
        ("sequences", [inf] * 5, [inf] * 5, "cannot tell"),
        ("loss", [0.1] * 5, [inf] * 5, "cannot tell"),  # it diverged
        ("solved", [1.0] * 5, [0.0] * 5, "agrees"),
        ("solved", [1.0] * 3, [0.0] * 3, "cannot tell"),  # the exact interval of 3 of 3 begins at 0.29
        ("score", [0.501, 0.502, 0.501], [0.5, 0.5, 0.5], "cannot tell"),  # surely better, by less than the margin
    ],
    ids=str,
)
def test_verdicts_on_an_order(measure: str, better: list[float], worse: list[float], verdict: str) -> None:
    paper = small(measure=measure)
    one = ordered(paper, ORDER, Figure(better), Figure(worse))
    assert one.verdict == verdict
    assert order_rows(paper, [one])[0][0] == "a > b"


@pytest.mark.parametrize(
    ("better", "worse", "by", "why"),
    [
        ([1000.0] * 5, [inf] * 5, "5 of 5 solve it, 0 of 5", ""),
        ([inf] * 2, [inf] * 3, "0 of 2 solve it, 0 of 3", "no seed of either solves the task"),
        ([3000.0, 3000.0, 3100.0], [3100.0, 3000.0, 3000.0], "0 (-131 to +131)", "the difference is within the margin"),
    ],
    ids=str,
)
def test_an_order_says_what_its_verdict_rests_on(better: list[float], worse: list[float], by: str, why: str) -> None:
    paper = small(measure="sequences", margin=1000)
    one = ordered(paper, ORDER, Figure(better), Figure(worse))
    assert (order_rows(paper, [one])[0][1], one.why) == (by, why)


def test_the_difference_of_an_order_is_by_how_much_the_first_is_better() -> None:
    """Welch's interval, by hand: variances of 0.01 over 4, six degrees of freedom."""
    low, high = [0.1, 0.3, 0.1, 0.3], [0.7, 0.9, 0.7, 0.9]
    half = 2.446912 * np.sqrt(2 * (0.04 / 3) / 4)
    for measure, better, worse in (("score", high, low), ("loss", low, high)):
        one = ordered(small(measure=measure), ORDER, Figure(better), Figure(worse))
        assert (one.difference, one.low, one.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half))


def test_an_order_wider_than_the_terminal_has_its_verdict_below() -> None:
    paper, names = small(), ["a recurrent network of the plain kind", "a gated recurrent unit with few units"]
    one = ordered(paper, Order(*names), Figure([0.1, 0.11, 0.1]), Figure([0.9, 0.92, 0.9]))
    printed = {}
    for width in (80, 200):
        file = StringIO()
        show_orders(Console(file=file, width=width, force_terminal=True, color_system=None), paper, [one])
        printed[width] = [line.rstrip() for line in file.getvalue().splitlines()]
    by = "+0.803 (+0.771 to +0.835)"
    assert printed[80] == ["claimed: better > worse", " > ".join(names), f"  agrees, {by}"]
    assert printed[200][1] == f"{' > '.join(names)}  {by}  agrees"


# ---- The command -----------------------------------------------------------------------------------------------------


def test_a_paper_from_the_first_run_to_its_table(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL | {"orders": ["rnn > as before"]}))
    command = ("paper", "small.yaml", "hydra.launcher.workers=1")
    done = typed(*command)
    assert (done.code, done.err) == (0, "")
    assert len([*tmp_path.rglob("result.json")]) == 2  # the two rows have the same runs
    assert "[2/2" in done.out
    assert "already finished" not in done.out  # none is given to a launcher twice
    content = json.loads((tmp_path / "outputs/papers/small.json").read_text())
    errors = [1 - json.loads(path.read_text())["score"] for path in sorted(tmp_path.rglob("rnn/*/result.json"))]
    assert sorted(content["rows"][0]["values"]) == sorted(errors)
    assert content["rows"][0]["difference"][0] == pytest.approx(np.mean(errors) - 0.8)
    assert content["rows"][1]["verdict"] == "cannot be compared"
    assert [one["verdict"] for one in content["orders"]] == ["cannot tell"]  # they are the same
    table = (tmp_path / "outputs/papers/small.md").read_text()
    assert "| rnn | 0.80 |" in table.replace("0.800", "0.80")
    assert "| rnn > as before | " in table
    assert "Everything." in table
    # A mean over two lengths, of the same runs.
    longer = {**SMALL, "settings": f"{SMALL['settings']} evaluate.lengths=[7,9]", "lengths": [7, 9], "seeds": 1}
    (tmp_path / "longer.yaml").write_text(json.dumps(longer))
    means = json.loads(typed("paper", "longer.yaml", "hydra.launcher.workers=1", "--json").out)["rows"][0]["values"]
    results = [json.loads(path.read_text())["by_length"] for path in tmp_path.rglob("rnn/*/result.json")]
    both = [1 - (one[0]["score"] + one[1]["score"]) / 2 for one in results if len(one) == 2]
    assert sorted(means) == pytest.approx(sorted(both))
    # Once more: nothing is trained, and the numbers are the same.
    again = typed(*command, "--json")
    assert json.loads(again.out) == content


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("small.yml",), "small.yml: there is no such file"),
        (("forget_bia",), "there is no paper 'forget_bia'. Did you mean 'forget_bias'?"),
        (("forget_bias", "seed=3"), "seed=3: the seeds are those of the paper's file"),
        (("forget_bias", "steps"), "'steps' is no setting: key=value"),
        (("forget_bias", "cell.hidden=3"), "there is no setting 'cell.hidden'"),
    ],
    ids=str,
)
def test_a_wrong_word_is_one_line(args: tuple[str, ...], line: str, typed: Callable[..., Completed]) -> None:
    done = typed("paper", *args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith(f"seqmem paper: {line}")
    assert done.err.count("\n") == 1


def test_the_list_names_every_paper(typed: Callable[..., Completed]) -> None:
    done = typed("paper")
    assert done.code == 0
    lines = done.out.splitlines()
    for path in CONF.glob("*.yaml"):
        assert any(line.startswith(f"{path.stem}  ") for line in lines)
    assert "hs97_2c  Hochreiter & Schmidhuber 1997" in lines
