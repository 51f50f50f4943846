"""``seqmem check``: its lines, its exit codes, its JSON. (What breaks which law is in test_laws.py.)"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import seqmem
from commandline import OWN_CELLS, Completed
from seqmem.cells import GRU
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


def test_a_config_directory_of_ones_own(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/cell").mkdir(parents=True)
    (tmp_path / "own/cell/narrow.yaml").write_text("defaults: [gru]\nhidden_size: 3\n")
    for option in ("-cd", "--config-dir"):
        done = typed("check", option, "own", "cell=narrow", *SMALL[1:], "--json")
        assert (done.code, done.err) == (0, "")
    assert typed("check", "cell=narrow", "-cd", "own", *SMALL[1:]).out.startswith("cell gru, 4 inputs, 3 outputs")
    typed("check", "cell=narrow").refuses("no cell is called 'narrow'", code=2, verb="check")
    typed("check", "-cd", "none", "cell=narrow").refuses("--config-dir none: no such directory", code=2, verb="check")


def test_in_python(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line prints and says; a class is given itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "examined_here.py").write_text(OWN_CELLS + MIXING)
    check = seqmem.check(cell={"name": "examined_here.Mixing", "hidden_size": 4}, embed_size=4, seq_len=8)
    words = ("cell=examined_here.Mixing", *SMALL)
    assert not check.holds
    assert [name for name, verdict in check.verdicts.items() if not verdict.holds] == ["rows"]
    assert json.loads(json.dumps(check.numbers)) == json.loads(typed("check", *words, "--json").out)
    assert repr(check).splitlines() == typed("check", *words).out.splitlines()
    assert "rows of a batch" in check._repr_html_()
    assert seqmem.check("cell.hidden_size=4", cell=GRU, embed_size=4, seq_len=8).holds
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"cell": "lstmm"}, "Did you mean 'lstm'?"),
        ({"steps": 5}, "steps=: it changes no cell and no model"),
        ({"cell": "gru", "config_dir": "none"}, "config_dir=none: no such directory"),
    ]
    for settings, line in mistakes:
        with pytest.raises(ValueError, match=re.escape(line)):
            seqmem.check(**settings)


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
