"""Fixtures, and what a process does before it runs tests. With ``-n`` the first one only distributes them: it imports
neither torch nor seqmem, which takes three seconds.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from commandline import Completed


# Without cached bytecode every process compiles seqmem and the tests again: ten seconds in each that runs tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        gc.disable()  # nothing of what is imported and collected is garbage
        import testing_process  # noqa: F401


def pytest_collection_finish() -> None:
    """Spare every later garbage collection the million objects of what is imported: it saves a tenth of all time.

    Collecting more rarely, above all what has survived once, saves another thirtieth.
    """
    gc.freeze()
    gc.set_threshold(10_000, 50, 20)
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    import compilers

    terminalreporter.write_line(compilers.summary())


@pytest.fixture(scope="module", autouse=True)
def _first_calls() -> None:
    import checked_calls

    checked_calls.start_again()


@pytest.fixture(autouse=True)
def _own_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote and imported is not found by later tests, whose own has the same name."""
    newest = next(reversed(sys.modules))
    yield
    for name in list(takewhile(lambda name: name != newest, reversed(sys.modules))):
        if str(tmp_path_factory.getbasetemp()) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, shared by the module: read-only."""
    from commandline import LSTM
    from seqmem import train

    return train(*LSTM, outputs=tmp_path_factory.mktemp("one")).path


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run in outputs/ of the current directory."""
    monkeypatch.chdir(tmp_path)
    place = Path(tmp_path, "outputs", *finished.parts[-3:])
    copytree(finished, place)
    return place


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it, whatever this machine has."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's figures are made but not rendered, which is nearly all of its time: for tests of what is around them.

    test_report_page.py, test_figures.py and others look at rendered ones.
    """
    import matplotlib as mpl

    from seqmem.report.figures import output, style

    def render(draw: Callable[[], object], *, pdf: bool = False) -> output.Drawn:
        with mpl.rc_context(style.MATPLOTLIB):
            draw()
        return output.Drawn(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>', b"", b"" if pdf else None)

    monkeypatch.setattr(output, "render", render)


@pytest.fixture
def typed(
    no_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> "Iterator[Callable[..., Completed]]":
    """A command line typed in ``tmp_path``, answered by this process: for what a process of its own would only slow."""
    from commandline import Completed
    from seqmem.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # which seqmem sets
    monkeypatch.setenv("SEQMEM_COMMAND", "seqmem")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*args: str) -> Completed:
        os.environ["HYDRA_FULL_ERROR"] = ""
        monkeypatch.setattr(sys, "argv", ["seqmem", *args])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        captured = capsys.readouterr()
        return Completed(code, captured.out, captured.err)

    yield run
    root.handlers[:], root.level = handlers, level
