"""The playground's page in a real browser, operated by mouse and keyboard: it shows what Python's Reading contains."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from math import floor
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect
from torch import Tensor, nn

from browser import Visit, visiting
from browser import chromium as chromium
from seqmem.cells import GRU, LSTM, RNN, Cell, State
from seqmem.evaluate import Evaluation
from seqmem.lookback import mean_over
from seqmem.models.encoder_decoder import EncoderDecoder
from seqmem.models.recurrent import SequenceModel
from seqmem.playground.bundle import Playable, bundle
from seqmem.playground.page import SOURCES, build
from seqmem.randomness import ambient
from seqmem.reading import Reading, read, sentence, typed
from seqmem.tasks.pronoun import Pronoun
from seqmem.tasks.reverse import Reverse
from seqmem.tasks.subject import Subject

TASK = Pronoun()


class Drifting(Cell):
    """A cell that the page cannot run."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.inner = nn.Linear(input_size + hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        return {"slow": self.inner.weight.new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        new = 0.5 * state["slow"] + self.inner(torch.cat([x, state["slow"]], -1)).tanh()
        return new, {"slow": new}


def small(cell: Callable[[int], Cell], seed: int) -> SequenceModel:
    """A model with random weights, large enough that its answer changes from word to word."""
    with ambient(seed, "page"):
        model = SequenceModel.for_task(TASK, cell, embed_size=4, layers=1)
        with torch.no_grad():
            for name, parameter in model.cell.named_parameters():
                if "weight" in name:
                    parameter.mul_(2)
            for parameter in model.readout.parameters():
                parameter.mul_(5)
    return model.eval()


KINDS: dict[str, tuple[Callable[[int], Cell], int, int]] = {
    "rnn": (partial(RNN, hidden_size=6), 20, 2),
    "lstm": (partial(LSTM, hidden_size=6, seq_len=20), 20, 2),
    "short": (partial(RNN, hidden_size=6), 8, 1),
    "drifting": (partial(Drifting, hidden_size=6), 20, 1),
}
"""Name -> (cell, nominal trained length, number of seeds)."""

MODELS = {
    (cell, seed): small(make, seed + 10 * at)
    for at, (cell, (make, _, seeds)) in enumerate(KINDS.items())
    for seed in range(seeds)
}


def playable(cell: str, seed: int) -> Playable:
    seq_len = KINDS[cell][1]
    scores = [Evaluation(length, 1 / (1 + seed + length / seq_len), 1.0, 1000) for length in (20, 8, 40, 80)]
    return Playable(MODELS[cell, seed], TASK, cell, seq_len, seed, score=scores[0].score, lengths=scores)


def key(cell: str, seed: int) -> str:
    return f"{cell}-{KINDS[cell][1]}-{seed}"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("playground") / "index.html"
    path.write_text(build(bundle([playable(cell, seed) for cell, seed in MODELS])), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def visit(chromium: Browser, file: Path) -> Iterator[Visit]:
    with visiting(chromium, file) as visit:
        yield visit


@pytest.fixture
def look(visit: Visit) -> Iterator[Callable[[str], Page]]:
    """Opens a view of the page by its address; afterwards the page must have made no request and logged no error."""

    def open_view(fragment: str) -> Page:
        visit.page.evaluate(
            "to => new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {once: true});"
            " location.hash = to === location.hash.slice(1) ? '' : to })",
            fragment,
        )
        return visit.page

    yield open_view
    assert (visit.messages, visit.requests) == ([], [])


def view(a: tuple[str, int], b: tuple[str, int], **more: object) -> str:
    return urlencode({"a": key(*a), "b": key(*b), **more})


def percent(share: float) -> str:
    """The page's text for a share."""
    whole = floor(100 * share + 0.5)
    if whole == 100 and share < 0.9995:
        return f"{floor(1000 * share) / 10:.1f}\u00a0%"
    return "<\u00a01\u00a0%" if whole == 0 else f"{whole}\u00a0%"


def reading_of(which: tuple[str, int], text: str) -> tuple[Reading, str | None]:
    batch, why = typed(TASK, text)
    return read(MODELS[which], TASK, batch, gradient=False, known=why is None), why


PANEL = """letter => {
  const spans = [...document.querySelectorAll(`#words-${letter} .w`)];
  const places = (test) => spans.flatMap((span, t) => (test(span) ? [t] : []));
  return {
    words: spans.map((span) => span.textContent),
    bars: [...document.querySelectorAll(`#bars-${letter} li`)].map((row) => [
      row.querySelector(".name").textContent, row.querySelector(".num").textContent, row.className]),
    turns: places((span) => span.classList.contains("turn")),
    flags: places((span) => span.nextElementSibling?.className === "flag"),
    flag: document.querySelector(`#words-${letter} .flag`)?.textContent,
    verdict: document.querySelector(`#verdict-${letter}`).innerText,
  };
}"""


def panel(page: Page, letter: str) -> dict[str, Any]:
    """The content of a model's panel. Bars: (an answer's name, its confidence, its classes)."""
    return page.evaluate(PANEL, letter)


def words(page: Page, letter: str) -> list[str]:
    return panel(page, letter)["words"]


def check(page: Page, letter: str, reading: Reading, t: int) -> None:
    """A model's panel at word t equals Python's reading."""
    content = panel(page, letter)
    assert content["words"] == list(reading.words)
    assert reading.answers is not None
    top, right = int(reading.top[t]), None if reading.right is None else int(reading.right[-1])
    for k, (name, sure, classes) in enumerate(content["bars"]):
        assert name == reading.answers[k]
        # A value halfway between two percentages may be rounded either way.
        assert sure in {percent(float(reading.outputs[t, k]) + off) for off in (-1e-5, 0, 1e-5)}
        assert classes.split() == ["top"] * (k == top) + ["right"] * (k == right)
    turns = [i for i in range(1, t + 1) if reading.top[i] != reading.top[i - 1]]
    assert (content["turns"], content["flags"]) == (turns, turns[-1:])
    settled = bool(turns) and turns[-1] == reading.changed_at and reading.top[turns[-1]] == right
    assert content["flag"] == (None if not turns else "makes up its mind" if settled else "changes its mind")
    verdict = content["verdict"]
    if t < reading.answered_at:
        start = "So far" if reading.asked_with is None else "If asked now"
        assert verdict.startswith(f"… {start}: {reading.answer_text(t)}, ")
        assert f"After word {t + 1}, “{reading.words[t]}”" in verdict
        return
    start = {True: "✓ Right:", False: "✗ Wrong:", None: "? Says:"}[reading.is_right]
    assert verdict.startswith(f"{start} {reading.answer_text(t)}, ")
    if reading.is_right is False:
        assert f"Right is {reading.target_text(t)}, " in verdict
        times = {0: "It says so from", 1: "It changes its mind once, at word"}
        assert times.get(len(turns), f"It changes its mind {len(turns)} times, last at word") in verdict
    if reading.changed_at is not None and not (reading.is_right and reading.changed_at == t):
        assert f"word {reading.changed_at + 1}, “{reading.words[reading.changed_at]}”" in verdict


def drawn(page: Page, selector: str, **more: Any) -> Locator:
    """An element below the fold, after its delayed drawing."""
    expect(page.locator("[aria-busy]")).to_have_count(0)
    return page.locator(selector, **more)


def text(page: Page) -> str:
    return page.locator("#text").input_value()


def test_arrow_keys_show_every_word_of_two_models(look: Callable[[str], Page]) -> None:
    a, b = ("lstm", 0), ("rnn", 1)
    page = look(view(a, b, n=9, s=2))
    batch = sentence(TASK, 9, number=2)
    both = {"a": read(MODELS[a], TASK, batch), "b": read(MODELS[b], TASK, batch)}
    assert text(page) == " ".join(both["a"].words)
    assert sum(len(np.flatnonzero(np.diff(reading.top))) for reading in both.values()) > 2
    for t in range(8, -1, -1):
        for letter, reading in both.items():
            check(page, letter, reading, t)
        assert page.locator("#at-says").inner_text() == f"{t + 1} of 9: {both['a'].words[t]}"
        assert page.locator("#words-a .w.ahead").count() == 8 - t
        page.keyboard.press("ArrowLeft")
    assert page.locator("#back").is_disabled()
    page.keyboard.press("ArrowRight")
    check(page, "a", both["a"], 1)
    page.locator("#words-b .w").nth(7).click()
    check(page, "b", both["b"], 7)
    page.locator("#at").focus()
    page.keyboard.press("End")
    check(page, "b", both["b"], 8)


def test_the_table_equals_the_reading(look: Callable[[str], Page]) -> None:
    a, b = ("lstm", 1), ("rnn", 0)
    page = look(view(a, b, n=15))
    batch = sentence(TASK, 15)
    both = {"A": read(MODELS[a], TASK, batch), "B": read(MODELS[b], TASK, batch)}
    page.locator("#table summary").press("Enter")  # a click is lost if the page still grows above it
    table = page.locator("#table table")
    table.locator("thead th").first.wait_for()  # filled after it opens, not on the click
    names = table.locator("thead th").all_inner_texts()
    rows = table.locator("tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(c => c.textContent))")
    column = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    assert column["word"] == list(both["A"].words)
    for letter, reading in both.items():
        assert column[f"{letter} says"] == [reading.answer_text(t) for t in range(15)]
        gradient = [float(value.replace("−", "-")) for value in column[f"{letter} log10 gradient"]]
        np.testing.assert_allclose(gradient, np.log10(reading.gradient["state"]), atol=0.006)
        for name, values in reading.gates.items():
            np.testing.assert_allclose(list(map(float, column[f"{letter} {name} gate"])), values.mean(1), atol=0.0051)
        for name, values in reading.states.items():
            cells = list(map(float, column[f"{letter} {name} norm"]))
            np.testing.assert_allclose(cells, np.linalg.norm(values, axis=1), atol=0.0051)
    shares = mean_over(both["A"].attention["cell"], 14)
    assert column["A cell from the last word"] == [percent(share) for share in shares]
    assert {"A forget gate", "A input gate", "A output gate", "A cell norm", "B hidden norm"} <= set(names)
    assert "B forget gate" not in names


def test_heat_maps_show_every_unit_or_the_shares_open_and_closed(look: Callable[[str], Page]) -> None:
    page = look(view(("lstm", 0), ("rnn", 0), n=12))
    reading = read(MODELS["lstm", 0], TASK, sentence(TASK, 12))
    maps = drawn(page, "#tracks .plot.map canvas")
    assert [maps.nth(i).get_attribute("width") for i in range(6)] == ["12"] * 6  # 3 gates, 2 states; the rnn's state
    sizes = maps.evaluate_all("all => all.map((c) => [c.clientHeight, c.parentElement.clientHeight])")
    assert all(canvas == box > 0 for canvas, box in sizes)
    pixels = maps.nth(0).evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"
    )
    red = np.array(pixels).reshape(6, 12)  # in light colours: the more open, the less red
    forget = reading.gates["forget"].T
    rows = forget[np.argsort(-forget.mean(1), kind="stable")]
    apart = np.abs(rows.ravel()[:, None] - rows.ravel()[None]) > 0.02
    assert ((red.ravel()[:, None] < red.ravel()[None]) == (rows.ravel()[:, None] > rows.ravel()[None]))[apart].all()
    # What the cell is made of: from the last word, and from the word under the pointer.
    made = drawn(page, "#tracks .row", has=page.locator(".plot.looks"))
    assert made.count() == 1  # an rnn looks back at nothing
    for t in (11, 4):
        if t < 11:
            wide = maps.nth(0).evaluate("map => map.getBoundingClientRect().width")
            maps.nth(0).hover(position={"x": (t + 0.5) * wide / 12, "y": 5})
        shares = mean_over(reading.attention["cell"], t)
        most = f"most: {percent(float(shares.max()))} “{reading.words[int(shares.argmax())]}”"
        expect(made).to_have_text(re.compile(f"cell: made of.*from “{reading.words[t]}”.*{most}", re.DOTALL))
    high = made.locator("canvas").evaluate(
        """c => {
            const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
            const at = (x, i) => i % 4 === 3 && (i >> 2) % c.width === x;
            const filled = (x) => data.filter((value, i) => at(x, i) && value > 127).length;
            return Array.from({length: 12}, (_, t) => filled(Math.floor((t + 0.5) * c.width / 12)) / c.height);
        }"""
    )
    np.testing.assert_allclose(high, shares / shares.max(), atol=0.08)
    page.mouse.move(0, 0)
    page.get_by_role("radio", name="share open and closed").check()
    assert drawn(page, "#tracks .plot.shares").count() == 3
    tag = page.locator("#tracks .row", has_text="forget gate").first.inner_text()
    last = reading.gates["forget"][-1]
    assert f"keeps {percent(float(last.mean()))}" in tag
    assert f"{percent_or_none(last > 0.9)} open" in tag
    assert f"{percent_or_none(last < 0.1)} closed" in tag
    expect(page).to_have_url(re.compile("gates=shares"))


def test_a_pointer_leaves_tracks_that_are_not_drawn_again_yet(look: Callable[[str], Page]) -> None:
    page = look(view(("short", 0), ("lstm", 0), n=8))
    drawn(page, "#tracks .plot.looks")
    # Out of view, a longer sentence is drawn a moment later; until then the tracks are those of 8 words.
    waiting = page.evaluate(
        "([longer]) => new Promise(done => {"
        "  document.querySelector('#tracks').style.marginTop = '9999px';"
        "  setTimeout(() => {"
        "    location.hash = longer;"
        "    addEventListener('hashchange', () => setTimeout(() => {"
        "      const box = document.querySelector('#tracks');"
        "      box.dispatchEvent(new PointerEvent('pointerleave', {pointerType: 'mouse'}));"
        "      done(box.getAttribute('aria-busy'));"
        "      box.style.marginTop = '';"
        "    }), {once: true});"
        "  }, 100);"
        "})",
        [view(("short", 0), ("lstm", 0), n=24)],
    )
    assert waiting == "true"
    assert drawn(page, "#tracks .plot.looks").count() == 1


def percent_or_none(which: np.ndarray) -> str:
    return percent(float(which.mean())) if which.any() else "0\u00a0%"


def test_type_a_sentence_and_take_a_suggestion(look: Callable[[str], Page]) -> None:
    a, b = ("rnn", 0), ("lstm", 1)
    page = look(view(a, b, n=20))
    before = words(page, "a")
    page.locator("#text").fill("my brother told his ant that the dog slept and he")
    problem = page.locator("#problem")
    expect(problem).to_contain_text("do not know “ant”")
    assert words(page, "a") == before  # the last readable sentence stays
    problem.get_by_role("button", name="Replace ant with aunt").click()
    whole = "my brother told his aunt that the dog slept and he"
    assert (text(page), problem.inner_text()) == (whole, "")
    for letter, which in (("a", a), ("b", b)):
        reading, why = reading_of(which, whole)
        assert why is None
        assert reading.target_text(10) == "my brother"
        check(page, letter, reading, 10)
    # Arrow keys in the text field do not move the current word.
    page.locator("#text").press("ArrowLeft")
    assert page.locator("#at-says").inner_text().startswith("11 of 11")
    page.locator("#text").fill("my brother told her uncle that the dog slept and he")
    reading, why = reading_of(a, text(page))
    assert why is not None
    assert reading.is_right is None
    check(page, "a", reading, 10)
    expect(page.locator("#verdict-a")).to_contain_text("Not judged: 2 of the answers that “he” may mean are named")
    # A sentence that the task does not have is read and not judged; a click puts a word there that it has.
    page.locator("#text").fill("my mother told his aunt that the dog slept and she")
    reading, why = reading_of(a, text(page))
    assert why == "word 2 is 'mother': there task=pronoun has brother or sister"
    check(page, "a", reading, 10)
    expect(problem).to_contain_text("word 2 is “mother”, where there can be “brother” or “sister”")
    assert page.locator("#words-a .odd").all_inner_texts() == ["mother"]
    problem.get_by_role("button", name="Put brother there").click()
    assert (text(page), problem.inner_text()) == ("my brother told his aunt that the dog slept and she", "")
    check(page, "a", reading_of(a, text(page))[0], 10)
    page.locator("#text").fill("my brother told")
    expect(problem).to_contain_text("not finished. The next word can be “his”, “my”, “our” or “your”")
    page.locator("#text").fill("my grandson told")  # a word of the task with more people
    expect(problem).to_contain_text("do not know “grandson”")
    # The words that they know.
    page.get_by_role("button", name="words they know").click()
    known = set(TASK.words(torch.tensor(sorted(TASK.automaton().tokens))))
    listed = " ".join(page.locator("#vocabulary dd").all_inner_texts()).replace(",", "").split()
    assert set(listed) == known
    page.get_by_role("button", name="words they know").click()
    expect(page.locator("#vocabulary")).to_be_hidden()
    page.locator("#text").fill("  ")
    expect(problem).to_contain_text("empty")
    page.locator("#text").fill("qqqqqqqq he")
    expect(problem).to_contain_text("No word they know is like it")
    page.locator("#another").click()
    assert problem.inner_text() == ""
    assert len(words(page, "a")) == TASK.min_seq_len


def test_the_slider_and_other_sentences(look: Callable[[str], Page]) -> None:
    page = look(view(("rnn", 0), ("lstm", 0), n=20))
    slider = page.locator("#length")
    slider.focus()
    for key_name, length in (("ArrowLeft", 19), ("ArrowLeft", 18), ("Home", TASK.min_seq_len), ("End", 80)):
        page.keyboard.press(key_name)
        expect(page.locator("#length-says")).to_have_text(f"{length} words")
        assert words(page, "b") == TASK.words(sentence(TASK, length).inputs[:, 0])
    seen = []
    for number in range(1, 4):
        page.locator("#another").click()
        reading = read(MODELS["lstm", 0], TASK, sentence(TASK, 80, number=number))
        check(page, "b", reading, 79)
        seen.append(text(page))
    assert len(set(seen)) == 3
    # Hidden charts are drawn later, but before the page is printed.
    page.evaluate("document.querySelector('#length').focus({preventScroll: true})")
    page.keyboard.press("Home")
    expect(page.locator("#length-says")).to_have_text("7 words")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#tracks .heads").first.locator(".plot span").count() == 7
    page.keyboard.press("End")
    expect(page.locator("#length-says")).to_have_text("80 words")
    box = drawn(page, "#tracks")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth")  # 80 words are wide: the box scrolls, not the page
    assert page.evaluate("document.documentElement.scrollWidth === innerWidth")


def test_play_and_pause(look: Callable[[str], Page]) -> None:
    page = look(view(("rnn", 0), ("lstm", 0), n=8))
    page.locator("#speed").select_option("2")  # four seconds in which to pause
    page.locator("h1").click()
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_text("Pause")
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_text("Play")
    paused = page.locator("#at-says").inner_text()
    assert not paused.startswith("8 of 8")
    page.locator("#speed").select_option("25")
    page.wait_for_timeout(120)
    assert page.locator("#at-says").inner_text() == paused
    page.locator("#play").click()
    expect(page.locator("#at-says")).to_contain_text("8 of 8")
    expect(page.locator("#play")).to_have_text("Play")
    reading = read(MODELS["rnn", 0], TASK, sentence(TASK, 8))
    check(page, "a", reading, 7)
    # A screen reader hears the two verdicts once playback has stopped.
    expect(page.locator("#live")).to_contain_text(f"{reading.answer_text(7)}")
    expect(page.locator("#live")).to_contain_text("Model B: ")


def test_other_seeds_other_models_and_the_address(look: Callable[[str], Page], chromium: Browser, file: Path) -> None:
    page = look(view(("short", 0), ("rnn", 0), n=9))
    page.locator("#model-a").select_option(label="rnn, trained at 20 words")
    page.locator("#seeds-a").get_by_label("1").check()
    page.locator("#model-b").select_option(label="lstm, trained at 20 words")
    page.get_by_role("radio", name="share open and closed").check()
    page.locator("#text").fill("my sister told your nephew that the dog slept and she")
    page.locator("#words-a .w").nth(5).click()
    for letter, which in (("a", ("rnn", 1)), ("b", ("lstm", 0))):
        check(page, letter, reading_of(which, text(page))[0], 5)
    caption = drawn(page, "#lengths figcaption").inner_text()
    assert "A (solid) is the rnn, trained at 20 words, seed 1" in caption
    expect(page).to_have_url(re.compile("a=rnn-20-1.*at=6"))
    with visiting(chromium, file, fragment=page.url.partition("#")[2]) as again:
        assert again.page.get_by_role("radio", name="share open and closed").is_checked()
        assert text(again.page) == text(page)
        for letter in "ab":
            assert panel(again.page, letter) == panel(page, letter)
            inside = "all => all.map(w => [w.className, w.textContent, w.getAttribute('style'), w.title])"
            spans = [one.locator(f"#words-{letter} .w").evaluate_all(inside) for one in (page, again.page)]
            assert spans[0] == spans[1]
            assert len(spans[0]) == 11
        assert (again.messages, again.requests) == ([], [])
    # An invalid address opens the default view.
    look("a=nobody&b=%00&n=-3&s=1e9&at=x&text=xyzzy%20he&gates=1")
    assert len(words(page, "a")) == TASK.min_seq_len
    assert "xyzzy" in page.locator("#problem").inner_text()


def test_words_are_coloured_by_confidence(look: Callable[[str], Page]) -> None:
    page = look(view(("rnn", 0), ("lstm", 0), n=30))
    reading = read(MODELS["rnn", 0], TASK, sentence(TASK, 30))
    assert reading.confidence is not None
    styles = page.locator("#words-a .w").evaluate_all(
        "all => all.map(w => { const s = getComputedStyle(w); return [s.backgroundColor, s.color,"
        " Number(w.style.getPropertyValue('--p'))] })"
    )
    np.testing.assert_allclose([p for _, _, p in styles], reading.confidence, atol=1e-4)
    assert reading.answers is not None
    line = " ".join(reading.words)
    marks = page.locator("#bars-a .mark").all_inner_texts()
    assert [k for k, mark in enumerate(marks) if mark] == [k for k, name in enumerate(reading.answers) if name in line]
    assert sorted(marks)[-2:] == sorted("✓○")
    light = np.array([luminance(fill) for fill, _, _ in styles])
    order = np.argsort(reading.confidence)
    assert (np.diff(light[order]) <= 0.004).all()  # the surer, the darker
    assert min(contrast(fill, ink) for fill, ink, _ in styles) >= 4.5


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of ``rgb(r, g, b)``."""
    channels = np.array([float(value) for value in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_cell_that_the_page_cannot_run_is_read_ahead(look: Callable[[str], Page]) -> None:
    page = look(view(("drifting", 0), ("rnn", 0), n=20))
    check(page, "a", read(MODELS["drifting", 0], TASK, sentence(TASK, 20)), 19)
    page.locator("#another").click()
    says = page.locator("#verdict-a")
    expect(says).to_contain_text("does not run in the page")
    expect(page.locator("#bars-a")).to_be_hidden()
    expect(page.locator("#words-a")).to_be_hidden()
    check(page, "b", read(MODELS["rnn", 0], TASK, sentence(TASK, 20, number=1)), 19)
    says.get_by_role("button", name="80").click()
    check(page, "a", read(MODELS["drifting", 0], TASK, sentence(TASK, 80)), 79)
    expect(page.locator("#ahead")).to_be_hidden()
    page.locator("#model-b").select_option(label="drifting, trained at 20 words")
    expect(page.locator("#ahead")).to_contain_text("Neither of these two cells runs in the page")
    assert not page.locator("#text").is_editable()
    assert page.locator("#another").is_disabled()
    assert "All runs in this page but drifting: " in page.locator("#foot").inner_text()


def test_small_and_large_light_and_dark(look: Callable[[str], Page]) -> None:
    page = look(view(("lstm", 0), ("rnn", 0), n=80))
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    try:
        for width, dark in ((360, True), (3840, False)):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme="dark" if dark else "light")
            page.locator("#text").fill(f"{text(page)} {'incomprehensibilities' * 3}")
            expect(page.locator("#problem")).to_contain_text("do not know")
            chart = re.compile("^0 0 328 " if width == 360 else r"^0 0 1[45]\d\d\b")  # as wide as there is room
            expect(page.locator("#lengths svg")).to_have_attribute("viewBox", chart)
            assert page.evaluate("document.documentElement.scrollWidth") == width
            paper, ink = cast("list[str]", page.evaluate(colours))
            assert (luminance(paper) < luminance(ink)) == dark
            assert contrast(paper, ink) > 7
            for quiet in (".lede", ".facts", ".hint", ".tag small", "legend", "figcaption"):
                colour = page.evaluate("where => getComputedStyle(document.querySelector(where)).color", quiet)
                assert contrast(paper, colour) >= 4.5, quiet
            page.locator("#theme").click()
            assert (luminance(page.evaluate(colours)[0]) < 0.5) != dark
            page.evaluate("localStorage.clear(); delete document.documentElement.dataset.theme")
    finally:
        page.set_viewport_size({"width": 1280, "height": 800})
        page.emulate_media(color_scheme="light")


PROPOSAL = """() => {
  const value = (selector) => document.querySelector(selector).value;
  return {
    pressed: [...document.querySelectorAll("#presets button")].flatMap(
      (one, at) => one.ariaPressed === "true" ? [at] : []),
    hint: document.querySelector("#hint").textContent,
    all: document.querySelector("main").textContent,
    shown: ["#model-a", "#model-b", "#seeds-a input:checked", "#seeds-b input:checked", "#text"].map(value),
  };
}"""


def test_the_page_opens_where_one_forgets_and_the_other_remembers(chromium: Browser, tmp_path: Path) -> None:
    """By rule: the first sentence where the worse model is wrong and its gradient vanishes, and the better is right."""
    rights = [int(sentence(TASK, 20, number=n).targets[-1]) for n in range(2)]
    answers = {"rnn": rights[0], "lstm": rights[1]}  # each model has one answer to every sentence
    assert rights[0] != rights[1]
    models = {
        "rnn": small(partial(RNN, hidden_size=6), 1),
        "lstm": small(partial(LSTM, hidden_size=6, forget_bias=9.0), 2),
    }
    for name, model in models.items():
        with torch.no_grad():
            cast("nn.Linear", model.readout).bias.copy_(30 * torch.eye(8)[answers[name]])
            for parameter in model.cell.parameters() if name == "rnn" else ():
                parameter.mul_(0.1)
    path = tmp_path / "contrast.html"
    scores = {"rnn": 0.2, "lstm": 1.0}
    playables = [Playable(model, TASK, name, 20, score=scores[name]) for name, model in models.items()]
    path.write_text(build(bundle(playables)), encoding="utf-8")
    readings = {name: read(model, TASK, sentence(TASK, 20, number=1)) for name, model in models.items()}
    logs = {name: np.log10(one.gradient["state"][0] / one.gradient["state"][-2]) for name, one in readings.items()}
    assert logs["rnn"] < -3
    assert logs["lstm"] > -1
    with visiting(chromium, path) as fresh:
        page = fresh.page
        assert text(page) == " ".join(readings["rnn"].words)
        check(page, "a", readings["rnn"], 19)
        check(page, "b", readings["lstm"], 19)
        hint = page.locator("#hint").inner_text()
        assert hint.endswith("at the lstm's: what does not arrive cannot be learned.")
        shown = str(round(logs["rnn"])).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        assert f"Of the gradient 10{shown} arrives at the rnn's first word, {10 ** logs['lstm']:.2f} at" in hint
        assert f"Gradient at the first word: 10{shown} of" in page.locator("#arrives-a").inner_text()
        assert fresh.messages == []


def test_proposals_set_the_page(look: Callable[[str], Page], chromium: Browser, file: Path) -> None:
    with visiting(chromium, file) as fresh:
        assert fresh.page.locator("#presets button").first.get_attribute("aria-pressed") == "true"
        assert fresh.page.locator("#hint").inner_text() != ""
        assert len(words(fresh.page, "a")) == 20
        for what in ("#length", "#play", "#verdict-a", "#verdict-b", "#arrives-a", "#words-b .w >> nth=0"):
            expect(fresh.page.locator(what)).to_be_in_viewport(ratio=0.9)  # without scrolling
        assert (fresh.messages, fresh.requests) == ([], [])
    page = look(view(("short", 0), ("rnn", 0), n=9))
    buttons = page.locator("#presets button")
    seen = set()
    for at in range(buttons.count()):
        buttons.nth(at).click()
        content = page.evaluate(PROPOSAL)
        assert content["pressed"] == [at]
        assert content["hint"] != ""
        assert "undefined" not in content["all"]
        seen.add(tuple(content["shown"]))
    assert len(seen) == buttons.count() > 4
    page.get_by_role("button", name="short trained at 8, read at 24").click()
    check(page, "a", read(MODELS["short", 0], TASK, sentence(TASK, 24)), 23)
    page.get_by_role("button", name="The same at 8").click()
    check(page, "a", read(MODELS["short", 0], TASK, sentence(TASK, 8)), 7)
    page.get_by_role("button", name="Change the last word").click()
    changed = text(page)
    _reading, why = reading_of(("rnn", 0), changed)
    assert why is None
    assert changed not in {" ".join(TASK.words(sentence(TASK, 20, number=n).inputs[:, 0])) for n in range(6)}
    page.locator("#seeds-a input").first.focus()  # a manual change unmarks the proposal
    page.locator("#another").click()
    assert page.locator("#presets button[aria-pressed=true]").count() == 0


def test_every_control_has_a_name_and_can_be_reached(look: Callable[[str], Page]) -> None:
    page = look(view(("lstm", 0), ("rnn", 0), n=12))
    drawn(page, "#tracks")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    kinds: dict[str, list[str]] = {}
    for node in tree:
        if not node["ignored"]:
            kinds.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "slider", "combobox", "textbox", "radio", "region", "image", "DisclosureTriangle"):
        assert kinds[role], role
        assert all(kinds[role]), f"{role}: {kinds[role]}"
    assert {"Model A", "Model B", "Speed"} <= set(kinds["combobox"])
    assert {"Reading", "What to try", "Gates", "Seed of model A"} <= set(kinds["group"])
    for chart in (
        "forget gate of model A",
        "Confidence in: right answer",
        "How much of the gradient",
        "Share of right",
    ):
        assert any(chart in name for name in kinds["image"]), chart
    # Tab goes through all controls and out again: no keyboard trap.
    usable = page.locator("button:not(:disabled), select, textarea, summary, [tabindex='0'], input, a[href]")
    reached, where = set(), None
    page.locator(".skip").focus()
    for _ in range(80):
        mark = "e => e === document.body ? null : [...document.querySelectorAll('*')].indexOf(e)"
        where = page.evaluate(f"({mark})(document.activeElement)")
        if where is None and reached:
            break
        reached.add(where)
        page.keyboard.press("Tab")
    groups = {name or f"#{at}" for at, name in enumerate(radios(usable))}
    assert where is None
    assert len(reached) == len(groups)


def radios(usable: Locator) -> list[str]:
    """Each visible control's radio group, of which Tab reaches one button; empty for other controls."""
    return usable.evaluate_all("all => all.filter(e => e.checkVisibility()).map(e => e.type === 'radio' ? e.name : '')")


def test_another_task(chromium: Browser, tmp_path: Path) -> None:
    task = Subject()
    with ambient(0, "subject"):
        model = SequenceModel.for_task(task, partial(LSTM, hidden_size=3, seq_len=6), embed_size=0, layers=2).eval()
    path = tmp_path / "subject.html"
    path.write_text(build(bundle([Playable(model, task, "lstm", 6)])), encoding="utf-8")
    with visiting(chromium, path) as visit:
        page = visit.page
        check(page, "a", read(model, task, sentence(task, 6)), 5)
        page.locator("#text").fill("bob and the WHO?")
        batch, why = typed(task, "bob and the WHO?")
        assert why is None
        check(page, "b", read(model, task, batch), 3)
        assert page.locator("#task-story").inner_text().startswith("Who was the sentence about?")
        assert drawn(page, "#tracks .tag", has_text="1/forget gate").count() == 2
        assert (visit.messages, visit.requests) == ([], [])


def test_what_models_write(chromium: Browser, tmp_path: Path) -> None:
    task, cell = Reverse(4), partial(GRU, hidden_size=5, forget_bias=0.0)
    models: dict[str, EncoderDecoder] = {}
    with ambient(3, "writing"):
        for name, attention in (("attention", "bahdanau"), ("vector", None)):
            models[name] = EncoderDecoder.for_task(task, cell, embed_size=4, attention=attention).eval()
            with torch.no_grad():
                for parameter in models[name].parameters():
                    parameter.mul_(4)
    path = tmp_path / "writing.html"
    some = [Playable(model, task, "gru", 20, label=f"gru, {name}") for name, model in models.items()]
    path.write_text(build(bundle(some)), encoding="utf-8")
    with visiting(chromium, path, fragment="a=gru-10-0&b=gru-10-0-2&n=6", width=360) as visit:
        page = visit.page

        def check_writing(source: str, right: str | None) -> None:
            """Both panels show what Python's models write, and mark what is wrong."""
            batch, why = typed(task, source)
            assert why is None
            for letter, name in zip("ab", models, strict=True):
                reading = read(models[name], task, batch, gradient=False)
                assert reading.answers is not None
                answers = [reading.answers[k] for k in reading.top[len(source) :]]
                assert page.locator(f"#words-{letter} .w").all_inner_texts() == answers
                slips = [] if right is None else [f" ✗ {r}" for r, own in zip(right, answers, strict=True) if r != own]
                assert page.locator(f"#words-{letter} .slip small").all_inner_texts() == slips
                start = "? " if right is None else f"✗ Wrong: {len(slips)} of" if slips else "✓ Right: all"
                assert page.locator(f"#verdict-{letter}").inner_text().startswith(start)
                if name == "attention":
                    looked, count = reading.attention["alignment"], len(source)
                    tops = [mean_over(looked, count + i).argmax() for i in range(count)]
                    looks = [f"{answer} looks at {source[top]}" for answer, top in zip(answers, tops, strict=True)]
                    drawn = page.locator(f"#passes-{letter} canvas").get_attribute("aria-label")
                    assert drawn == f"Alignment: {', '.join(looks)}"

        assert page.locator("#passes-b .current").inner_text() == "All that its decoder gets of the source: 5 numbers"
        source = text(page).replace(" ", "")
        assert len(source) == 6
        check_writing(source, source[::-1])
        page.keyboard.press("ArrowLeft")
        page.locator("#words-a .w").nth(2).click()  # word for word: what comes later is not written yet
        assert page.locator("#words-b .unwritten").count() == 3
        assert page.locator("#verdict-a").inner_text().startswith("… Writes “")
        page.locator("#text").fill("abca")
        check_writing("abca", None)
        page.locator("#text").fill("ab>")
        expect(page.locator("#problem")).to_contain_text("do not know “>”")
        page.get_by_role("button", name="20 words, never trained").click()
        assert page.locator("#words-b .w").count() == 20
        assert page.evaluate("document.documentElement.scrollWidth") == 360  # the map scrolls, not the page
        assert page.locator("#tracks").is_hidden()
        assert "undefined" not in page.locator("main").inner_text()
        assert (visit.messages, visit.requests) == ([], [])


def test_the_page_is_small() -> None:
    computing = {"engine.js", "cells.js", "tape.js"}
    own = [path for path in SOURCES.iterdir() if path.suffix in {".css", ".js"} and path.name not in computing]
    assert len(own) > 5
    assert sum(path.stat().st_size for path in own) < 114_000


# The report's style sheet: here, as another browser would take seconds to start.


def test_a_report_uses_the_width_and_shows_where_a_table_goes_on(chromium: Browser, tmp_path: Path) -> None:
    style = (SOURCES.parent / "report" / "style.css").read_text(encoding="utf-8")
    row = "<tr><th scope=row class=left>lstm</th>" + "<td>100.0 (93.8 %)</td>" * 6 + "</tr>"
    path = tmp_path / "report.html"
    body = f"<p>a paragraph</p><div class=table><table><tbody>{row * 3}</tbody></table></div>"
    path.write_text(f"<!DOCTYPE html><html><head><style>{style}</style></head><body>{body}</body></html>")
    with visiting(chromium, path, width=2560, height=300) as visit:
        page, table = visit.page, visit.page.locator(".table")
        assert page.locator("p").evaluate("p => p.clientWidth") > 1250
        assert table.evaluate("box => box.scrollWidth === box.clientWidth")
        page.set_viewport_size({"width": 360, "height": 300})
        assert page.evaluate("document.documentElement.scrollWidth") == 360  # the table scrolls, not the page
        # The last pixels before the edge are shaded until it is scrolled to the end; its first column stays.
        shaded = pixels_at_the_right(page, table)
        table.evaluate("box => (box.scrollLeft = 1e6)")
        assert shaded < pixels_at_the_right(page, table) - 20
        first, edge = (one.bounding_box() for one in (table.locator("th").first, table))
        assert first is not None
        assert edge is not None
        assert first["x"] == edge["x"]


def pixels_at_the_right(page: Page, box: Locator) -> float:
    """The mean brightness of the pixels at a box's right edge, between the lines of text."""
    place = cast("dict[str, float]", box.bounding_box())
    clip = {"x": place["x"] + place["width"] - 3, "y": place["y"] + 1, "width": 2, "height": 4}
    picture = page.screenshot(clip=cast("Any", clip), type="png")
    return float(np.asarray(Image.open(BytesIO(picture)).convert("L")).mean())
