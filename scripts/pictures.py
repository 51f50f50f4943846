"""Make the README's pictures; called by scripts/pictures as
pictures.py BROWSER RUNS PLAYGROUND REPORT TRANSLATIONS THEIR_REPORT DOCS."""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

from seqmem.cli.config.trained import trained
from seqmem.cli.terminal.live import print_summary
from seqmem.cli.terminal.pages import comparison
from seqmem.cli.terminal.reader.page import page
from seqmem.cli.terminal.reader.views import choose_signs
from seqmem.cli.verbs.read import Readers
from seqmem.lookback import mean_over
from seqmem.reading import read as read_sequence
from seqmem.reading import typed
from seqmem.runs.directory import RunDirectory, find_runs
from seqmem.runs.summary import read


def photograph(browser: str, address: str, picture: Path, width: int, height: int) -> None:
    """Take a screenshot in headless Chromium. Virtual time lets TensorBoard's charts finish drawing."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-3d-apis",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=20000", f"--window-size={width},{height}"]
        subprocess.run([*command, f"--screenshot={picture}", address], check=True, capture_output=True, timeout=120)


def terminal(browser: str, console: Console, title: str, picture: Path) -> None:
    """Save the output of a recording console as a picture of a terminal."""
    svg = console.export_svg(title=title)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # these fonts are on a server
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None  # rich always writes one
    width, height = (round(float(size)) for size in box.groups())
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as page:
        page.write(f"<meta charset=utf-8><body style='margin:0'>{svg}</body>")
        page.flush()
        photograph(browser, f"file://{page.name}", picture, width, height)


def recording(width: int) -> Console:
    return Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")


READ = ("rnn/len10-seed0", "lstm/len50-seed0")
"""Runs of the playground: an rnn at a length that it can learn (it learns nothing at 50 words), and an lstm."""

LENGTH, SENTENCE = 30, 3
"""A length beyond the rnn's training that still fits a picture."""


def only_run(folder: Path, part: str) -> RunDirectory:
    (match,) = (run for run in find_runs(folder) if part in run.path.as_posix())
    return match


SENTENCE_TO_ALIGN = "the big girl sees a red cat but some kings help the quiet queen"


def alignment(run: RunDirectory, text: str, picture: Path) -> None:
    """What the decoder looks at while it writes each word, after Bahdanau et al. 2015, figure 3."""
    made = trained(run)
    batch, unknown = typed(made.task, text)
    reading = read_sequence(made.model, made.task, batch, gradient=False, known=unknown is None)
    first = int(np.flatnonzero(reading.asked)[0])
    source, said = reading.words[:first], [reading.answer_text(t) for t in range(first, len(reading))]
    weights = np.array([mean_over(reading.attention["alignment"], t)[:first] for t in range(first, len(reading))])
    figure, axes = plt.subplots(figsize=(6.5, 5.5), layout="constrained")
    shown = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(first), source, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(said)), said)
    axes.set_xlabel("source")
    axes.set_ylabel("what the decoder writes")
    figure.colorbar(shown, label="weight", shrink=0.8)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def main() -> None:
    browser, *given = sys.argv[1:]
    runs, playground, report, translations, their_report, docs = (Path(path).resolve() for path in given)
    docs.mkdir(exist_ok=True)

    shutil.copy(their_report / "figures" / "phrases-generalisation.png", docs / "bottleneck.png")
    attentive = [run for run in find_runs(translations) if run.config()["model"]["attention"] == "bahdanau"]
    alignment(next(run for run in attentive if run.config()["seed"] == 0), SENTENCE_TO_ALIGN, docs / "alignment.png")
    compared = find_runs(runs)
    lstm = next(run for run in compared if run.config()["cell"]["name"] == "lstm")

    photograph(browser, f"file://{report}/index.html", docs / "report.png", 1200, 1200)

    photograph(browser, f"file://{docs}/playground.html", docs / "playground.png", 1200, 1440)

    console = recording(88)
    print_summary(console, lstm)
    terminal(browser, console, "seqmem train cell=lstm task=pronoun seq_len=50", docs / "train.png")

    console = recording(88)
    for line in comparison([read(run) for run in compared], console):
        console.print(line, soft_wrap=True, highlight=False)
    terminal(browser, console, "seqmem show outputs", docs / "show.png")

    console = recording(88)
    readers = Readers([trained(only_run(playground, part)) for part in READ])
    scene = readers.scene(readers.sentence(LENGTH, SENTENCE), f"{LENGTH} words, sentence {SENTENCE}", gradient=False)
    for line in page(scene, len(scene) - 1, "beliefs", console.width, choose_signs(console)).whole():
        console.print(line, soft_wrap=True, highlight=False)
    both = ",".join(part.removesuffix("-seed0") for part in READ)
    command = f"seqmem read playground/pronoun/{{{both}}}-seed0 --length {LENGTH} --sentence {SENTENCE}"
    terminal(browser, console, command, docs / "read.png")

    command = [sys.executable, "-m", "seqmem", "watch", str(runs), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as watch:
        assert watch.stdout is not None
        address = next(line.strip() for line in watch.stdout if "http" in line)
        photograph(browser, address, docs / "tensorboard.png", 1500, 1000)
        watch.terminate()  # a background process of a script ignores SIGINT
    print("made", *sorted(path.name for path in docs.glob("*.png")))


if __name__ == "__main__":
    main()
