"""Links below a folder of runs: every verb sees each run once, whatever leads to it, and no writer follows one."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from faults_shared import TINY, only_run, require, seqmem, stopped_at

CELLS = ("rnn", "lstm", "gru")


def _train(cell: str, **settings: str) -> tuple[str, ...]:
    return ("train", f"cell={cell}", "steps=6", *TINY, *(f"{name}={value}" for name, value in settings.items()))


def trees(folder: Path, count: int) -> str:
    """``count`` folders of three runs, each with some of its folders moved away and linked, and with wrong turns."""
    made = folder / "made"
    made.mkdir()
    for cell in CELLS:
        seqmem(*_train(cell), cwd=made).exits(0)
    links = 0
    for number in range(count):
        place = folder / f"tree{number}"
        shutil.copytree(made, place)
        links += _tangle(place, random.Random(number))
        names = sorted(f"outputs/pronoun/{cell}/{only_run(made / 'outputs/pronoun' / cell).name}" for cell in CELLS)
        for verb, args in (("sweep", ("status", "outputs", "--json")), ("verify", ("outputs", "--json"))):
            runs = json.loads(seqmem(verb, *args, cwd=place).exits(0).out)["runs"]
            paths = sorted(run["path"] for run in runs)
            require(paths == names, f"seqmem {verb}: {paths}")
        shown = seqmem("show", "outputs", "--all", cwd=place).exits(0)
        require(shown.out.startswith("3 runs"), f"seqmem show: {shown.out.splitlines()[:1]}")
        seqmem("report", "outputs", "--out", "page", cwd=place).exits(0)
        rows = (place / "page" / "runs.csv").read_text().splitlines()
        require(len(rows) == 1 + len(names), f"seqmem report: {len(rows) - 1} runs")
        for cell in CELLS:  # trained again it is found, behind whatever links it lies
            done = seqmem(*_train(cell), cwd=place).exits(0)
            require("already finished" in done.out, f"seqmem train: {done.out}")
        shutil.rmtree(place)
    return f"{count} folders with {links} links: show, sweep status, verify, report and train have each of 3 runs once"


def _tangle(place: Path, rng: random.Random) -> int:
    """Move folders away, leave links in their places, and add links that lead back, up, nowhere and to runs again."""
    outputs = place / "outputs"
    folders = [outputs, outputs / "pronoun", *(outputs / "pronoun" / cell for cell in CELLS)]
    folders += [run for cell in CELLS for run in (outputs / "pronoun" / cell).iterdir()]
    moved = rng.sample(folders, rng.randint(1, 4))
    for at, path in enumerate(moved):
        away = place / f"disk{at}" / "there"
        away.parent.mkdir()
        path.resolve().rename(away)
        path.symlink_to(away)
    wrong = {
        "itself": lambda: "itself", "nowhere": lambda: "missing", "up": lambda: "..", "here": lambda: ".",
        "root": lambda: "/", "again": lambda: str(rng.choice(folders)), "once_more": lambda: str(rng.choice(folders)),
    }  # fmt: skip
    chosen = rng.sample(sorted(wrong), rng.randint(1, len(wrong)))
    for name in chosen:
        (rng.choice(folders[:5]) / f"z{name}").symlink_to(wrong[name]().replace("itself", "zitself"))
    return len(moved) + len(chosen)


def planted(folder: Path) -> str:
    """A link to a precious file in the place of every file that is written, and of the file beside it."""
    seqmem(*_train("lstm"), cwd=folder).exits(0)
    run = only_run(folder / "outputs")
    seqmem("eval", str(run), "seq_len=8", "sequences=2", cwd=folder).exits(0)
    names = sorted(path.name for path in run.iterdir())
    names += ["traces.bin", "error.txt", "before", "probes"]
    shutil.copytree(run, folder / "finished")
    shutil.rmtree(run)
    stopped_at(4, *_train("lstm"), cwd=folder)
    shutil.copytree(run, folder / "stopped")
    shutil.rmtree(run)
    precious = folder / "precious"
    commands: dict[str, tuple[Path | None, tuple[str, ...]]] = {
        "a new run": (None, _train("lstm")),
        "a stopped run": (folder / "stopped", _train("lstm")),
        "force=true": (folder / "finished", _train("lstm", force="true")),
        "eval": (folder / "finished", ("eval", str(run), "seq_len=8", "sequences=2")),
    }
    cases = 0
    for content in (Path.touch, Path.mkdir):
        for name in [*names, *(f"{name}.partial" for name in names)]:
            for what, (state, command) in commands.items():
                _plant(run, state, name, precious, content)
                seqmem(*command, cwd=folder).sound()
                left = sorted(precious.iterdir()) if precious.is_dir() else precious.read_bytes()
                require(left in ([precious / "mine"], b"mine"), f"{what} wrote through {name}: {left}")
                cases += 1
    return f"{cases} links in the place of a file that is written: none is followed"


def _plant(run: Path, state: Path | None, name: str, precious: Path, make: Callable[[Path], object]) -> None:
    shutil.rmtree(run, ignore_errors=True)
    if state is None:
        run.mkdir(parents=True)
    else:
        shutil.copytree(state, run)
    if precious.is_dir():
        shutil.rmtree(precious)
    precious.unlink(missing_ok=True)
    make(precious)
    (precious / "mine" if precious.is_dir() else precious).write_bytes(b"mine")
    link = run / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(precious)
