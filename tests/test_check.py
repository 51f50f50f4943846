"""``seqmem check``: its lines, its exit codes, its JSON. (What breaks which law is in test_laws.py.)"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from commandline import OWN_CELLS, Completed
from seqmem.laws import LAWS

MIXING = """
class Mixing(Leaky):
    def step(self, x, state):
        print("a step")
        h = self.alpha * state["h"] + self.inner(x)
        return h - h.mean(0), {"h": h}
"""

SMALL = ("cell.hidden_size=4", "embed_size=4", "seq_len=8")

Typed = Callable[..., Completed]


def test_lines(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examined.py").write_text(OWN_CELLS + MIXING)
    own = typed("check", "cell=examined.Mixing", "cell.args.alpha=0.9", *SMALL)
    head, *lines, last = own.out.splitlines()
    assert (own.code, last) == (1, f"{len(LAWS) - 1} of {len(LAWS)} laws hold")
    assert head.startswith("cell Mixing, 4 inputs, 4 outputs")
    marks = {line.split()[1]: line.split()[0] for line in lines if not line.startswith(" ")}
    assert marks == {name: "failed" if name == "rows" else "ok" for name in LAWS}
    (at,) = (at for at, line in enumerate(lines) if line.startswith("failed"))
    assert lines[at + 1] == "        output: row 0, timestep 0, unit 0"
    assert lines[at + 3] == "          alone: 0.0"  # of one row, the mean is that row
    assert set(own.err.splitlines()) == {"a step"}


def test_json(typed: Typed) -> None:
    done = typed("check", "cell=lstm", "--json", *SMALL)
    answer = json.loads(done.out)
    assert (done.code, done.err, answer["holds"]) == (0, "", True)
    assert [(law["law"], law["holds"], law["counter_example"]) for law in answer["laws"]] == [
        (name, True, None) for name in LAWS
    ]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("cell=lstmm", "Did you mean 'lstm'?"),
        ("cell=gru,lstm", "cell=: one value each"),
        ("steps=5", "steps=: it changes no cell and no model"),
        ("stepz=5", "no setting 'stepz'"),
        ("cell=examined_too.Nothing", "cannot import examined_too"),
    ],
)
def test_mistakes(setting: str, line: str, typed: Typed) -> None:
    typed("check", setting).refuses(line, code=2, verb="check")
