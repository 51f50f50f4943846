"""Make the page of ``seqmem playground``, and check the documentation's claims about it.

Every model reads 1,000 new sentences in a real browser, by the page's own program. The claims must hold for every
single seed.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import ARGUMENTS, Visit, executable, visiting  # noqa: E402  # pyright: ignore[reportMissingImports]
from seqmem.cli.config.trained import trained  # noqa: E402
from seqmem.evaluate import held_out  # noqa: E402
from seqmem.reading import beliefs  # noqa: E402
from seqmem.runs.directory import find_runs  # noqa: E402
from seqmem.tasks import Pronoun  # noqa: E402

SENTENCES = 1000
COMPARED = 500
"""Readings of each model that are compared with Python's, in equal parts by length."""

CLOSE = 1e-4
"""The largest difference from Python's confidences in float32, the dtype of training."""

EXCEPTIONS = 0.002
"""The share of answers that may differ more beyond the trained length, where an rnn magnifies float32's rounding."""

LENGTHS = {50: (10, 50), 10: (10, 20, 30, 50)}
"""Trained length -> lengths to read."""

SIGNIFICANCE = 0.001
"""Significance level of the test against guessing, over all seeds together."""

ASK = """([engine, sentences, compared]) => {
  const {decode} = new Function(engine + "; return $engine;")();
  const page = decode(JSON.parse(document.getElementById("data").textContent));
  const encoded = (values) => {
    let text = "";
    for (const byte of new Uint8Array(values.buffer)) text += String.fromCharCode(byte);
    return btoa(text);
  };
  return page.models.map((model) => sentences[model.seq_len].map(({seq_len, tokens, right}, _, lengths) => {
    const some = Math.floor(compared / lengths.length);
    const start = performance.now();
    const readings = tokens.map((each) => model.read(each));
    const last = (reading) => reading.top[reading.T - 1];
    return {
      seq_len, right: readings.filter((reading, at) => last(reading) === right[at]).length,
      known: tokens.filter((each, at) => page.task.right(each) === right[at]).length,
      answers: readings.slice(0, some).map(last),
      confidence: readings.slice(0, some).map((reading) => encoded(reading.confidence)),
      milliseconds: (performance.now() - start) / tokens.length,
    };
  }));
}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of every kind of model (default: 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/playground.html", help="the page")
    options = parser.parse_args()
    path = executable()
    if path is None:
        print("Chromium is needed (on Debian: apt-get install chromium), or CHROMIUM=/path/to/it", file=sys.stderr)
        return 2

    start = time.monotonic()
    command = [sys.executable, "-m", "seqmem", "playground", "--no-open", "--out", str(options.out)]
    if subprocess.run([*command, "--seeds", str(options.seeds)], cwd=ROOT, check=False).returncode:
        return 1
    print(f"that took {time.monotonic() - start:.0f} s\n")

    task = Pronoun()
    sentences = {length: _sentences(task, length) for length in sorted({*LENGTHS[50], *LENGTHS[10]})}
    questions = {trained_at: [sentences[length] for length in lengths] for trained_at, lengths in LENGTHS.items()}
    page = options.out.read_text(encoding="utf-8")
    engine = re.search(r"const \$tape = .*?const \$engine = .*?^\}\)\(\);$", page, re.DOTALL | re.MULTILINE)
    if engine is None:
        print(f"{options.out}: there is no engine in it", file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        # The page's content security policy would block calls from outside.
        with visiting(browser, options.out, bypass_csp=True) as visit:
            readings = visit.page.evaluate(ASK, [engine[0], questions, COMPARED])
        with visiting(browser, options.out) as visit:
            checks = _page(visit, page)
        version = browser.version
        browser.close()

    bundle = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    models = bundle["models"]
    print(f"right answers to {SENTENCES} new sentences of each length, in Chromium {version}:")
    for model, rows in zip(models, readings, strict=True):
        scores = "  ".join(f"{row['seq_len']} words {row['right'] / SENTENCES:6.1%}" for row in rows)
        slowest = max(row["milliseconds"] for row in rows)
        print(f"  {model['label']:<34} seed {model['seed']:<3} {scores}   {slowest:.2f} ms a sentence")
    checks += _claims(models, readings, task.chance)
    checks += _same_as_python(models, readings, sentences, task)
    print()
    for claim, holds in checks:
        print(f"{'yes' if holds else 'NO '}  {claim}")
    failed = sum(not holds for _, holds in checks)
    print(f"\n{'PASSED' if not failed else f'FAILED: {failed} of {len(checks)} claims'}")
    return 1 if failed else 0


def _sentences(task: Pronoun, length: int) -> dict[str, Any]:
    """New sentences, used neither in training nor in its evaluation."""
    batches = list(held_out(task, length, seed=0, sequences=SENTENCES, stream="verdict"))
    tokens = torch.cat([batch.inputs for batch in batches], 1).T
    right = torch.cat([batch.targets[-1] for batch in batches])
    return {"seq_len": length, "tokens": tokens.tolist(), "right": right.tolist()}


def _page(visit: Visit, page: str) -> list[tuple[str, bool]]:
    visit.page.wait_for_timeout(300)
    painted = visit.page.evaluate(
        "performance.getEntriesByType('paint').find(({name}) => name === 'first-contentful-paint')?.startTime ?? 1e9"
    )
    size = len(page.encode())
    return [
        (f"the page has less than 1 MB: {size / 1e6:.2f}", size < 1e6),
        (f"its first paint takes less than a second: {painted / 1e3:.2f}", painted < 1e3),
        (f"it says nothing on the console: {visit.messages}", not visit.messages),
        (f"it asks for nothing: {visit.requests}", not visit.requests),
    ]


def _claims(models: Sequence[dict[str, Any]], readings: Sequence[Any], chance: float) -> list[tuple[str, bool]]:
    def shares(cell: str, trained_at: int, length: int) -> list[float]:
        return [
            row["right"] / SENTENCES
            for model, rows in zip(models, readings, strict=True)
            for row in rows
            if (model["cell"], model["seq_len"], row["seq_len"]) == (cell, trained_at, length)
        ]

    checks = []
    for cell in ("lstm", "gru", "attention"):
        scores = shares(cell, 50, 50)
        checks.append((f"every {cell} is right on 99 % at 50 words: {_range(scores)}", min(scores) >= 0.99))
    guessing = shares("rnn", 50, 50)
    most = _most_by_chance(SENTENCES, chance, SIGNIFICANCE / len(guessing)) / SENTENCES
    limit = f"guessing reaches up to {most:.1%}"
    claim = f"no rnn trained at 50 words does better than chance at 50: {_range(guessing)}; {limit}"
    checks.append((claim, max(guessing) <= most))
    short = {length: shares("rnn", 10, length) for length in LENGTHS[10]}
    checks += [
        (f"every rnn trained at 10 words is right on 99 % at 10: {_range(short[10])}", min(short[10]) >= 0.99),
        (f"and on less than 90 % at 20: {_range(short[20])}", max(short[20]) < 0.9),
        (f"and on less than 75 % at 30: {_range(short[30])}", max(short[30]) < 0.75),
        (f"and on less than 65 % at 50: {_range(short[50])}", max(short[50]) < 0.65),
    ]
    known = all(row["known"] == SENTENCES for rows in readings for row in rows)
    return [*checks, ("the page knows the right answer to each of these sentences", known)]


def _most_by_chance(trials: int, chance: float, unlikely: float) -> int:
    """The number of right answers that ``trials`` guesses exceed with a probability of at most ``unlikely``: exact."""
    tail, right = 0.0, trials
    while right >= 0:
        tail += comb(trials, right) * chance**right * (1 - chance) ** (trials - right)
        if tail > unlikely:
            return right
        right -= 1
    return 0


def _range(scores: Sequence[float]) -> str:
    return f"{min(scores):.1%} to {max(scores):.1%} of {len(scores)} seeds"


@torch.no_grad()
def _same_as_python(
    models: Sequence[dict[str, Any]], readings: Sequence[Any], sentences: dict[int, dict[str, Any]], task: Pronoun
) -> list[tuple[str, bool]]:
    runs = {}
    for run in find_runs(ROOT / "playground"):
        config = run.config()
        runs[config["cell"]["name"], config["seq_len"], config["seed"]] = run
    # Claim -> (largest difference, where).
    furthest: dict[str, tuple[float, str]] = {"every word": (0.0, ""), "familiar": (0.0, "")}
    others, compared, far, beyond = 0, 0, 0, 0
    for model, rows in zip(models, readings, strict=True):
        own = trained(runs[model["cell"], model["seq_len"], model["seed"]]).model
        for dtype in (torch.float32, torch.float64):
            own.to(dtype)
            for row in rows:
                tokens = torch.tensor(sentences[row["seq_len"]]["tokens"][: len(row["answers"])]).T
                confidence = beliefs(own, task, tokens).double().softmax(-1)  # [T sentences K]
                read = np.stack([np.frombuffer(b64decode(each)) for each in row["confidence"]])
                there = torch.from_numpy(read).view(tokens.shape[1], tokens.shape[0], -1).transpose(0, 1)
                apart = (confidence - there).abs()
                if dtype == torch.float32:
                    others += int((confidence[-1].argmax(-1) != torch.tensor(row["answers"])).sum())
                    compared += len(row["answers"])
                    if row["seq_len"] > model["seq_len"]:
                        far += int((apart[-1].amax(-1) > CLOSE).sum())
                        beyond += len(row["answers"])
                        continue
                what = "familiar" if dtype == torch.float32 else "every word"
                where = f"{model['label']}, seed {model['seed']}, at {row['seq_len']} words"
                furthest[what] = max(furthest[what], (float(apart.max()), where))
    return [
        (f"browser and Python give the same answers: {others} of {compared} differ", others == 0),
        *(
            (f"{claim} within {most:g}: {furthest[what][0]:.1e} ({furthest[what][1]})", furthest[what][0] < most)
            for what, claim, most in (
                ("familiar", "and up to the trained length the confidences in float32, after every word,", CLOSE),
                ("every word", "and at every length those in float64, after every word,", 1e-9),
            )
        ),
        (
            f"beyond it {EXCEPTIONS:.1%} of float32's answers at most are over {CLOSE:g} away: {far} of {beyond}",
            far <= EXCEPTIONS * beyond,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
