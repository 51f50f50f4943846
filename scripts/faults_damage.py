"""Damaged files of a run beside a good one, and what every verb makes of them; hostile names; strangers' runs."""

import csv
import io
import json
import os
import random
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faults_shared import TINY, Answer, Failed, numbers, only_run, require, runs_below, seqmem, stopped_at

TRAIN = ("train", "cell=lstm", "steps=6", *TINY)
GOOD = ("train", "cell=gru", "steps=6", *TINY)

NOT_COVERED = ("run.lock", "status.json")
"""Files that are no part of what a run measured, and have no checksum."""

Damage = Callable[[Path], None]


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _absurd(path: Path) -> None:
    path.write_text('{"seq_len": 1e400, "score": 1e400, "loss": 1, "sequences": 1e400}\n')


def _enormous(path: Path) -> None:
    """Arrays of 8 and 14 TiB, by their headers."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, shape in (("step", (1 << 40,)), ("answered_at", (1 << 40,)), ("norm/hidden", (1 << 30, 1700, 1))):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", header.getvalue())


def _flip(rng: random.Random) -> Damage:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)

    return flip


DAMAGES: dict[str, Damage] = {
    "a FIFO": _fifo,
    "a link to itself": _loop,
    "a folder": _directory,
    "1e400": _absurd,
    "every byte there is": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "nothing": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
}


def _shown(answer: Answer, folder: Path) -> bool:
    """Whether the good run, a gru, is in what the verb says or writes."""
    written = "".join(path.read_text() for path in folder.glob("page/runs.csv"))
    return "gru" in answer.out + written


ALL: dict[str, tuple[str, ...]] = {
    "show": ("outputs", "--all"),
    "sweep": ("status", "outputs", "--json"),
    "verify": ("outputs", "--json"),
    "read": ("outputs", "--json"),
    "report": ("outputs", "--out", "page"),
    "playground": ("outputs", "--out", "page.html"),
}
"""Verbs over a folder of runs -> arguments."""

ONE: dict[str, tuple[str, ...]] = {
    "eval": ("seq_len=8", "sequences=2"),
    "export": ("--state-dict", "state.npz"),
    "reproduce": ("--out", "again"),
}
"""Verbs over one run, here the damaged one -> arguments."""


def _beside_a_good_run(folder: Path, *, stopped: bool) -> Path:
    seqmem(*GOOD, cwd=folder).exits(0)
    if stopped:
        stopped_at(4, *TRAIN, cwd=folder)
    else:
        seqmem(*TRAIN, cwd=folder).exits(0)
    bad = only_run(folder / "outputs/pronoun/lstm")
    shutil.copytree(bad, folder / "whole")
    return bad


def _restore(bad: Path, folder: Path) -> None:
    shutil.rmtree(bad)
    shutil.copytree(folder / "whole", bad)
    for name in ("page", "again"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _cases(folder: Path, flips: int, damages: int) -> list[tuple[str, str, Damage]]:
    """(file, damage's name, damage)"""
    rng = random.Random(0)
    cases: list[tuple[str, str, Damage]] = []
    for name in sorted(path.name for path in (folder / "whole").iterdir() if path.is_file()):
        planted = dict(rng.sample(sorted(DAMAGES.items()), min(damages, len(DAMAGES))))
        if name == "gradients.npz":
            planted["arrays of 14 TiB"] = _enormous
        if (folder / "whole" / name).stat().st_size:
            planted |= {f"flipped byte {at}": _flip(rng) for at in range(flips)}
        cases += [(name, what, damage) for what, damage in planted.items()]
    return cases


def _verdict(faults: list[str], otherwise: str) -> str:
    require(not faults, f"{len(faults)} faults: " + "; ".join(faults[:8]))
    return otherwise


def finished_runs(folder: Path, flips: int, damages: int, verbs: int) -> str:
    """Every verb over every file of a finished run. ``verbs``: how many of them, drawn for each case."""
    bad = _beside_a_good_run(folder, stopped=False)
    for verb, args in ALL.items():
        require(
            _shown(seqmem(verb, *args, cwd=folder).exits(0), folder), f"{verb} shows no gru: the check sees nothing"
        )
    rng, counts, faults = random.Random(1), Counter[str](), list[str]()
    for name, what, damage in _cases(folder, flips, damages):
        every = [*ALL, *ONE, "train"]
        for verb in sorted({"verify", *rng.sample(every, min(verbs, len(every)))}):
            _restore(bad, folder)
            damage(bad / name)
            run = str(bad.relative_to(folder))
            args = ALL[verb] if verb in ALL else TRAIN[1:] if verb == "train" else (run, *ONE[verb])
            done = seqmem(verb, *args, cwd=folder)
            counts[verb] += 1
            case = f"{name}, {what}: {verb}"
            try:
                done.sound()
                require(verb not in ALL or _shown(done, folder), f"the good run is not shown: {done}")
                if verb == "verify" and name not in NOT_COVERED:
                    require(done.code == 1 or _same_sums(bad, folder, name), "it is not noticed")
                if done.code and verb not in ALL:
                    require(bool(done.err.strip() or done.out.strip()), "no word of why")
            except Failed as why:
                faults.append(f"{case}: {why}")
    each = ", ".join(f"{verb} {count}" for verb, count in sorted(counts.items()))
    return _verdict(
        faults,
        f"{counts.total()} cases ({each}): no traceback, no hang, the good run shown, every damage noticed by verify",
    )


def _same_sums(bad: Path, folder: Path, name: str) -> bool:
    """Whether the checksums mean what they did, or are missing, which ``verify`` says."""
    if name != "checksums.json":
        return False
    try:
        return json.loads((bad / name).read_bytes()) == json.loads((folder / "whole" / name).read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def stopped_runs(folder: Path, flips: int, damages: int) -> str:
    """A stopped run goes on to the numbers of an undisturbed one, or is refused."""
    seqmem(*TRAIN, "outputs=undisturbed", cwd=folder).exits(0)
    undisturbed = numbers(only_run(folder / "undisturbed"))
    bad = _beside_a_good_run(folder, stopped=True)
    outcomes, faults, looks = Counter[str](), list[str](), 0
    for name, what, damage in _cases(folder, flips, damages):
        _restore(bad, folder)
        damage(bad / name)
        case = f"{name}, {what}"
        try:
            for verb in ("show", "sweep"):
                require(
                    _shown(seqmem(verb, *ALL[verb], cwd=folder).sound(), folder), f"{verb} does not show the good run"
                )
                looks += 1
            done = seqmem(*TRAIN, cwd=folder).sound()
            if done.code == 0:
                require(numbers(bad) == undisturbed, "it goes on to other numbers, without a word")
            outcomes["the same bits" if done.code == 0 else "refused"] += 1
        except (Failed, OSError, ValueError) as why:
            faults.append(f"{case}: {why}")
    return _verdict(
        faults,
        f"{outcomes.total()} cases resumed: {outcomes['refused']} refused, {outcomes['the same bits']} went on to the "
        f"same bits, none to others; {looks} looks at the folder show the good run",
    )


# Names

ESCAPES = "l\x1b[2J\x1b]0;owned\x07\x08\r\x9b31m\x7f\u202etsm\u2066\u2028"
FORMULA = "=cmd|' /C calc'!A0"
SCRIPT = "</script><script>alert(1)</script>"
LIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def hostile_names(folder: Path) -> str:
    """Escape sequences, a formula and the end of a script as names of cells and of folders."""
    seqmem(*TRAIN, "outputs=sent", cwd=folder).exits(0)
    sent, shown = only_run(folder / "sent"), Counter[str]()
    for at, name in enumerate((ESCAPES, FORMULA, SCRIPT)):
        place = folder / f"outputs{at}" / f"in {name}"  # a / in it makes a folder in a folder
        for which in ("named", "whole"):
            shutil.copytree(sent, place / which)
        for file, keys in (("config.json", ("cell", "name")), ("result.json", ("cell",))):
            content = json.loads((place / "named" / file).read_text())
            inner = content
            for key in keys[:-1]:
                inner = inner[key]
            inner[keys[-1]] = name
            (place / "named" / file).write_text(json.dumps(content))
        outputs = f"outputs{at}"
        for verb, args in {**ALL, "sweep": ("status", "outputs")}.items():
            given = [outputs if one == "outputs" else one for one in args if one != "--json"]
            done = seqmem(verb, *given, cwd=folder).sound()
            if verb == "playground":  # it refuses a cell that there is not; the folder's name is hostile still
                require(done.code == 2, str(done))
                done = seqmem(verb, str((place / "whole").relative_to(folder)), *args[1:], cwd=folder).exits(0)
            live = LIVE.search(done.out + done.err)
            require(live is None, f"{verb} obeys {live}")
            shown[verb] += 1
        pages = [*folder.glob("page/*.html"), *folder.glob("page.html")]
        require(len(pages) >= 2, f"{len(pages)} pages of 2 were written")
        for page in pages:
            require("<script>alert" not in page.read_text(), f"{page.name} has a stranger's script")
        tables = list(folder.glob("page/*.csv"))
        require(bool(tables), "no table was written")
        for table in tables:
            with table.open(newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            require(not [cell for cell in cells if cell.startswith(("=", "@", "+"))], f"{table.name} has a formula")
        shutil.rmtree(folder / "page")
        (folder / "page.html").unlink()
    return (
        f"3 names of cells and of folders in {shown.total()} answers, 6 pages and their tables: displayed, never obeyed"
    )


# Strangers' runs

SENT = """\
from pathlib import Path
from seqmem.cells import RNN

Path("executed").touch()

class Sent(RNN):
    pass
"""


def strangers(folder: Path) -> str:
    """A run that names a class, with a module beside it whose import leaves a file."""
    theirs, mine = folder / "theirs", folder / "mine"
    theirs.mkdir()
    (theirs / "sent.py").write_text(SENT)
    seqmem("train", "cell=custom", "cell.target=sent.Sent", "steps=2", *TINY, cwd=theirs).exits(0)
    (theirs / "executed").unlink()
    shutil.copytree(theirs, mine)
    run, state = str(runs_below(mine)[0].relative_to(mine)), str(folder / "state")
    mark = mine / "executed"
    for verb, args in {**ALL, **ONE}.items():
        done = seqmem(verb, *(args if verb in ALL else (run, *args)), cwd=mine, XDG_STATE_HOME=state).sound()
        require(not mark.exists(), f"{verb} executes it: {done}")
    seqmem("eval", run, *ONE["eval"], "--trust", cwd=mine, XDG_STATE_HOME=state).exits(0)
    require(mark.exists(), "not even --trust executes it: the check sees nothing")
    return f"{len(ALL) + len(ONE)} verbs execute nothing of its module; --trust does"
