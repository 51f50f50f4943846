"""``seqmem card``: its numbers against the runs' files, its page, and verifying it."""

import json
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest

from browser import Visit
from browser import chromium as chromium
from browser import visit as visit
from commandline import Completed
from made_up import collection, run
from seqmem.cards.content import CardError, Subject, _hash, checked, content, differences
from seqmem.cards.page import page, table
from seqmem.cards.sortable import sortable
from seqmem.report.collect import Collection
from seqmem.runs.files import plain_json

CARDS = Path(__file__).parents[1] / "docs" / "cards"

SUBJECT = Subject("lstm", {"name": "lstm"}, ["cell=lstm"], "128", {"forward": True, "causal": False})
AROUND = {"seqmem": "0.3", "torch": "2", "platform": "Linux"}


def made(**scores: dict[int, list[float]]) -> dict[str, Any]:
    """The card of lstm with these scores by task and length, as it is read again."""
    runs = [
        run("lstm", length, seed, score, task=task)
        for task, by_length in scores.items()
        for length, seeds in by_length.items()
        for seed, score in enumerate(seeds)
    ]
    return json.loads(json.dumps(plain_json(content(SUBJECT, Collection([], runs), AROUND))))


def example(last: float = 1.0) -> dict[str, Any]:
    return made(copy={10: [1.0, 1.0, 1.0], 20: [1.0, 0.5, nan]}, recall={10: [1.0] * 3, 20: [1.0, 1.0, last]})


def test_a_card_has_the_scores_of_its_runs_and_the_spans_they_give() -> None:
    card = checked(example(), "lstm.json")["card"]
    copy, recall = card["tasks"]
    assert (copy["task"], copy["span"], copy["span_text"]) == ("copy", 10, "10")
    assert (recall["span"], recall["span_text"]) == (20, ">= 20")
    assert copy["span_interval"] == {"low": 10, "high": None, "level": 0.75}  # three seeds agree with 1 - 2 / 2^3
    last = copy["lengths"][-1]
    assert [one["score"] for one in last["seeds"]] == [1.0, 0.5, None]
    assert (last["solved"], last["of"], last["chance"]) == (1, 3, 0.25)
    assert copy["start"]["half_life"]["median"] == pytest.approx(2.0)
    assert (card["lengths"], card["seeds"], card["parameters"]) == ([10, 20], [0, 1, 2], [10, 10])
    # Copy: seeds 1, (1 + 1/3) / 2 and 1/2; recall: 1, 1, 1. From 1.5 to 4.5 of the six in order: half of 2/3, then 1.
    assert card["across"]["value"] == pytest.approx((0.5 * (2 / 3) + 2.5 * 1) / 3)


def test_a_page_says_it_in_words() -> None:
    text = page(example(), "seqmem card lstm", "seqmem card --verify lstm.json")
    assert "Solves 1 of 2 tasks up to the longest length, 20 timesteps" in text
    assert "| copy | 10 | ≥ 10 (75 %) | 100.0 % (3/3) | 50.0 % (1/3) | 2.0 |" in text
    assert "| recall | ≥ 20 |" in text
    assert "1 of 2 hold; broken: causal (`seqmem check cell=lstm`)" in text
    assert f"`{example()['hash']}`" in text


def test_no_name_breaks_a_page() -> None:
    hard = made(**{"a|b<script>\n# no`": {10: [1.0]}})
    hard["card"]["name"] = "x`|\n<b>"
    for text in (page(hard, "seqmem card x", "seqmem card --verify x.json"), table([("x.md", hard)], "seqmem card x")):
        assert "<" not in text.replace("< 10", "").replace("<: not", "")
        assert "\n# no" not in text
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_the_table_has_the_best_cell_first() -> None:
    worse = made(copy={10: [1.0, 0.5]}, recall={10: [0.25, 0.25]})
    worse["card"]["name"] = "rnn"
    lines = table([("rnn.md", worse), ("lstm.md", example())], "seqmem card CELL").splitlines()
    rows = [line for line in lines if line.startswith("| [")]
    assert [row.split("]")[0] for row in rows] == ["| [lstm", "| [rnn"]
    assert rows[0].startswith("| [lstm](lstm.md) | 0.94 [")
    assert "| 10 | ≥ 20 | 2.0 | 10 | 128 | 1/2 |" in rows[0]


def test_a_page_of_cards_sorts(tmp_path: Path, visit: Callable[..., Visit]) -> None:
    """By the numbers, not their texts, and by names; no name breaks it, and nothing else is loaded."""
    cards = [("javascript:alert(1).md", example())]
    for name, score in (("a<b>&'", 0.625), ("rnn", 0.25)):
        cards.append((f"{len(cards)}.md", made(copy={10: [1.0, 1.0]}, recall={10: [score] * 2})))
        cards[-1][1]["card"]["name"] = name
    cards[1][1]["around"]["updates_per_second"] = 1000.0
    cards[0][1]["around"]["updates_per_second"] = 200.0
    cards[2][1]["around"]["updates_per_second"] = None
    (tmp_path / "index.html").write_text(sortable(cards))
    page = visit(tmp_path / "index.html")

    def names() -> list[str]:
        return page.page.locator("tbody th").all_inner_texts()

    assert names() == ["lstm", "a<b>&'", "rnn"]
    assert page.page.locator("tbody a").first.get_attribute("href") == "javascript%3Aalert%281%29.md"
    page.page.get_by_role("button", name="updates/s").click()
    assert names() == ["a<b>&'", "lstm", "rnn"]
    page.page.get_by_role("button", name="updates/s").click()
    assert names() == ["rnn", "lstm", "a<b>&'"]
    page.page.get_by_role("button", name="recall").click()  # >= 20, then two that solve not even 10
    assert names()[0] == "lstm"
    page.page.get_by_role("button", name="cell").click()
    assert names() == ["a<b>&'", "lstm", "rnn"]
    assert (page.messages, page.requests) == ([], [])


def test_two_cards_are_compared_value_by_value() -> None:
    compared, unlike = differences(example(), example())
    assert (compared > 100, unlike) == (True, [])
    assert example()["hash"] == example()["hash"] != example(1 - 1e-16)["hash"]
    _, unlike = differences(example(), example(0.75))
    places = [one.where for one in unlike]
    assert "tasks/recall/lengths/20/seeds/seed 2/score" in places
    assert all(place.startswith(("tasks/recall/", "across/")) for place in places)
    faster = example()
    faster["around"] |= {"updates_per_second": 1e6, "seqmem": "9"}
    assert differences(example(), faster)[1] == []
    without = example()
    del without["card"]["tasks"][0]
    assert {one.where.split("/")[1] for one in differences(example(), without)[1]} == {"copy"}


def test_a_file_that_is_no_card_is_named() -> None:
    edited = example()
    edited["card"]["tasks"][0]["lengths"][0]["seeds"][0]["score"] = 0.9
    for value, words in (
        ([], "is no memory card"),
        ({"card": 3, "hash": ""}, "is no memory card"),
        ({"format": 1, "card": {"settings": "cell=lstm"}, "hash": ""}, "has no list of settings"),
        ({"format": 1, "card": {"settings": ["hydra.searchpath=[x]"]}, "hash": ""}, "which no card is made with"),
        (example() | {"format": 2}, "has format 2"),
        (edited, "it was changed"),
    ):
        with pytest.raises(CardError, match=words):
            checked(value, "lstm.json")


def test_a_card_of_one_task_has_no_mean_over_tasks() -> None:
    one = content(SUBJECT, collection({"lstm": {10: [1.0, 1.0]}}), AROUND)
    assert one["card"]["across"] is None
    assert "interquartile" not in page(one, "seqmem card lstm", "seqmem card --verify lstm.json")


def test_our_cards_are_what_their_numbers_say() -> None:
    """And as many as docs/cards.md promises: ten cells on eight tasks."""
    files = sorted(CARDS.glob("*.json"))
    cards = [(file.with_suffix(".md").name, checked(json.loads(file.read_text()), file.name)) for file in files]
    assert len(cards) >= 10
    for name, one in cards:
        assert len(one["card"]["tasks"]) >= 8
        cell = name.removesuffix(".md")
        text = page(one, f"seqmem card {cell}", f"seqmem card --verify {cell}.json")
        assert (CARDS / name).read_text() == text, f"seqmem card {cell} --out docs/cards writes it again"
    assert (CARDS / "README.md").read_text() == table(cards, "seqmem card CELL")
    assert (CARDS / "index.html").read_text() == sortable(cards)


# ---- The command -----------------------------------------------------------------------------------------------------

SMALL = (
    *("task=pronoun,adding", "seq_len=7", "seed=0", "steps=2", "batch_size=2", "cell.hidden_size=4"),
    *("evaluate.sequences=20", "trace.every=2", "trace.sequences=2"),
)
WORKER = "hydra.launcher.workers=1"


def test_a_card_from_the_first_run_to_its_verification(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    done = typed("card", "rnn", *SMALL, WORKER, "--out", "cards")
    assert (done.code, done.err) == (0, "")
    (file,) = (tmp_path / "cards").glob("*.json")
    stored = json.loads(file.read_text())
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("outputs/**/result.json")]
    assert len(results) == 2
    for task in stored["card"]["tasks"]:
        for length in task["lengths"]:
            scores = {
                one["seed"]: one["score"]
                for one in results
                if (one["task"], one["seq_len"]) == (task["task"], length["seq_len"])
            }
            assert {one["seed"]: one["score"] for one in length["seeds"]} == scores
    assert stored["card"]["state"] == "4"
    assert all(stored["card"]["laws"].values())
    assert file.with_suffix(".md").read_text().startswith("# Memory card: rnn task=pronoun,adding")
    assert f"]({file.stem}.md)" in (tmp_path / "cards" / "README.md").read_text()

    again = typed("card", "--verify", f"cards/{file.stem}.md", WORKER)  # its numbers are beside it
    assert (again.code, again.err) == (0, "")
    assert "bitwise the same" in again.out
    assert len([*tmp_path.rglob("outputs-verified/*/*/*/*/result.json")]) == 2

    # A number that another machine would have got: the card is sound, and not the same.
    stored["card"]["tasks"][0]["lengths"][0]["seeds"][0]["score"] += 1e-12
    file.write_text(json.dumps(stored | {"hash": _hash(stored["card"])}))
    next(tmp_path.rglob("outputs-verified/*/*/*/*/result.json")).unlink()  # a verification that was stopped goes on
    other = typed("card", "--verify", str(file), WORKER, "--json")
    assert other.code == 1
    compared = json.loads(other.out)
    assert [one["where"] for one in compared["differences"]] == ["tasks/adding/lengths/7/seeds/seed 0/score"]


def test_a_strangers_card_executes_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: Callable[..., Completed]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "strange.py").write_text("open('executed', 'w').close()\nclass Cell: pass\n")
    card = {**example()["card"], "settings": ["cell=strange.Cell", *SMALL]}
    (tmp_path / "card.json").write_text(json.dumps({"format": 1, "hash": _hash(card), "card": card, "around": {}}))
    done = typed("card", "--verify", "card.json")
    assert (done.code, done.out) == (2, "")
    assert "strange.py would be executed: add --trust" in done.err
    assert not {"executed", "outputs-verified"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ((), "name a cell"),
        (("cell=lstm",), "cell=lstm: the cell comes first"),
        (("lsmt",), "no cell is called 'lsmt'. Did you mean 'lstm'?"),
        (("lstm", "steps"), "'steps' is no setting: key=value"),
        (("lstm", "cell=gru"), "cell=gru: the cell is named without cell=, and once"),
        (("lstm,gru",), "cell=: a card is of one cell"),
        (("lstm", "optimizer.lr=1e-2,1e-3"), "optimizer.lr=: a card is of one cell"),
        (("lstm", "cell.hidden=3"), "there is no setting 'cell.hidden'"),
        (("--verify", "none.json"), "none.json: there is no such file"),
        (("--verify", "none.json", "steps=3"), "steps=3: --verify takes the settings of the card"),
    ],
    ids=str,
)
def test_a_wrong_word_is_one_line(args: tuple[str, ...], line: str, typed: Callable[..., Completed]) -> None:
    done = typed("card", *args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"seqmem card: {line}")
    assert done.err.count("\n") == 1
