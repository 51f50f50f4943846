"""A run from a stranger names a class: nothing of it is executed before the user says so."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from commandline import OWN_CELLS, TINY, Completed, only_run
from seqmem.report.collect import collect

Typed = Callable[..., Completed]

EXECUTING = {
    "eval": ("seq_len=8", "sequences=4"),
    "read": ("--json",),
    "playground": ("--out", "page.html"),
    "reproduce": (),
    "export": ("--onnx", "step.onnx"),
}
"""Verbs that import what a run names -> arguments."""

LOOKING: dict[str, tuple[str, ...]] = {"show": (), "sweep": ("status",)}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, and a module whose import leaves a file."""
    from seqmem.cli.main import main

    folder = tmp_path_factory.mktemp("sent")
    (folder / "sent.py").write_text(f"{OWN_CELLS}\nopen('executed', 'w').close()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["seqmem", "train", "cell=custom", "cell.target=sent.Leaky", *TINY, "quiet=true"])
        patch.setenv("HYDRA_FULL_ERROR", "")
        assert main() == 0
    (folder / "executed").unlink()
    return folder


@pytest.fixture
def received(sent: Path, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run and its module at a user who has never seen them."""
    shutil.copytree(sent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delitem(sys.modules, "sent", raising=False)
    return only_run(tmp_path)


@pytest.mark.parametrize("verb", EXECUTING)
def test_a_verb_refuses_to_import_it(verb: str, received: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())  # as if onnx were installed
    refused = typed(verb, str(received), *EXECUTING[verb])
    line = "the run names sent.Leaky, and sent.py would be executed: add --trust if you know where it comes from"
    refused.refuses(line, code=2, verb=verb)
    assert not Path("executed").exists()


def test_looking_executes_nothing(received: Path, typed: Typed) -> None:
    for verb, args in LOOKING.items():
        assert typed(verb, *args, "outputs").code == 0
    assert len(collect(["outputs"]).runs) == 1
    assert not Path("executed").exists()


def test_what_was_trusted_once_is_known(received: Path, typed: Typed) -> None:
    assert typed("eval", str(received), "seq_len=8", "sequences=4", "--trust").code == 0
    assert Path("executed").exists()
    assert typed("read", str(received), "--json").code == 0


def test_what_was_trained_here_is_known(received: Path, typed: Typed) -> None:
    assert typed("train", "cell=custom", "cell.target=sent.Leaky", *TINY, "quiet=true", "seed=1").code == 0
    assert typed("eval", str(received), "seq_len=8", "sequences=4").code == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2), ("", 2)])
def test_a_question_in_a_terminal(
    answer: str, code: int, received: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    done = typed("eval", str(received), "seq_len=8", "sequences=4")
    assert done.code == code
    assert "names sent.Leaky: sent.py would be executed. Do you trust it? [y/N] " in done.err
    assert Path("executed").exists() == (code == 0)


def test_code_that_was_edited_since_is_another_model(received: Path, typed: Typed) -> None:
    with Path("sent.py").open("a") as file:
        file.write("# edited\n")
    edited = "cell.target=sent.Leaky: its code (sent.py) is not what it was when the run was made"
    typed("read", str(received), "--json").refuses(edited, code=1, verb="read")
    assert typed("eval", str(received), "--trust").err.endswith("these would be scores of another model\n")
    assert not (received / "evaluations.jsonl").exists()
    read = typed("read", str(received), "--json", "--trust")
    assert (read.code, edited in read.err) == (0, True)


@pytest.mark.parametrize("target", ["gone.Leaky", "os.path.Leaky", "__main__.Leaky", "Leaky"])
def test_a_target_that_is_not_there(target: str, received: Path, typed: Typed) -> None:
    config = json.loads((received / "config.json").read_text())
    config["cell"] |= {"target": target, "code": "0" * 16}
    (received / "config.json").write_text(json.dumps(config))
    done = typed("eval", str(received))
    assert done.code in (1, 2)
    assert done.err.count("\n") == 1
