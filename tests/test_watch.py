"""``seqmem watch``, as a process of its own, asked over HTTP what a browser would ask."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, Page, Route

from browser import chromium as chromium
from seqmem.cli.main import run_verb
from seqmem.cli.verbs import watch
from seqmem.cli.verbs.watch import EARLIER, PINNED, main, query
from seqmem.probes.gradient import GradientProbe
from seqmem.record.events import EventFile
from seqmem.record.tags import describe
from seqmem.runs.files import CONFIG, EVENTS
from seqmem.tasks import Pronoun

RUN = "pronoun/lstm/len3-seed0-0123abcd"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of one run, whose curves were written three times over."""
    folder = tmp_path_factory.mktemp("outputs")
    path = folder / RUN
    path.mkdir(parents=True)
    (path / CONFIG).write_text("{}")
    events = EventFile(path / EVENTS, describe=lambda tag: describe(tag, Pronoun(), [GradientProbe()]))
    events.hparams({"cell": "lstm"}, ["eval/score"])
    for step, slope in enumerate((-3.0, -2.0, -1.0)):
        for tag in PINNED:
            if "latest" in tag:
                events.curve(tag, [-inf, -inf, 0.0, slope, 2 * slope])
        events.scalar("eval/score", step / 2, 100 * step)
    events.curve("eval/score_by_length", [1.0, 0.5], [7, 50])
    events.text("answers", "he -> **my brother**", 0)
    events.close()
    return folder


COMMAND = [sys.executable, "-m", "seqmem", "watch"]


@contextmanager
def watching(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(the process, the address it printed)"""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        match = re.search(r"http://\S+", "".join(lines))
        assert match is not None, "".join(lines) + process.stderr.read()
        yield process, match[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def ask(address: str, path: str, **query: str) -> dict | list:
    parts = urlsplit(address)
    with urlopen(f"{parts.scheme}://{parts.netloc}/data/{path}?{urlencode(query)}", timeout=20) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def board(outputs: Path) -> Iterator[str]:
    """The address of a TensorBoard that has read the run."""
    with watching(str(outputs), "--port", "0") as (_, address):
        for _ in range(200):
            tags = ask(address, "plugin/scalars/tags")
            if len(tags.get(RUN, ())) == len(PINNED):  # pyright: ignore[reportAttributeAccessIssue]
                break
            time.sleep(0.1)
        yield address


def test_the_bare_address_opens_on_the_pinned_cards_which_exist(board: str) -> None:
    parts = urlsplit(board)
    assert (parts.path, parts.query) == ("/", "")
    for path in ("/", "/index.html"):
        with urlopen(f"{parts.scheme}://{parts.netloc}{path}", timeout=20) as answer:
            opening = answer.read().decode()
        (place,) = re.findall(r'location\.replace\("/\?(.*?)"', opening)
        words = parse_qs(place)
        pins = json.loads(words["pinnedCards"][0])
        assert [pin["tag"] for pin in pins] == [*PINNED, *EARLIER]
        assert {pin["plugin"] for pin in pins} == {"scalars"}
        assert words["smoothing"] == ["0"]
        assert "#timeseries" in opening
    with urlopen(f"{board}?{place}", timeout=20) as answer:  # TensorBoard's own page
        assert "<title>TensorBoard</title>" in answer.read().decode()
    tags = ask(board, "plugin/scalars/tags")
    assert isinstance(tags, dict)
    assert set(tags) == {RUN}  # and no run for the hyperparameters
    assert set(PINNED) <= set(tags[RUN])


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    """A tab in which http://board is where our page opens TensorBoard's, and all else is empty."""

    def answer(route: Route) -> None:
        bare = urlsplit(route.request.url)[2:4] == ("/", "")
        route.fulfill(body=watch._OPENING.replace("QUERY", query()) if bare else "", content_type="text/html")

    page = chromium.new_page()
    page.route("**/*", answer)
    yield page
    page.close()


@pytest.mark.parametrize(
    ("width", "stored", "changed"),
    [
        (360, {"ignoreOutliers": True}, {"ignoreOutliers": True, "sideBarWidthInPercent": 0}),
        (1200, {}, {}),
        (2560, {}, {"timeSeriesCardMinWidth": 440}),
    ],
)
def test_the_cards_have_room_until_the_reader_chooses(
    width: int, stored: dict[str, object], changed: dict[str, object], page: Page
) -> None:
    page.set_viewport_size({"width": width, "height": 700})
    page.goto("http://board/elsewhere")
    keep = "stored => { localStorage.clear(); localStorage.setItem('_tb_global_settings', JSON.stringify(stored)) }"
    page.evaluate(keep, stored)
    page.goto("http://board/")
    page.wait_for_url("**pinnedCards**")
    kept = page.evaluate("JSON.parse(localStorage.getItem('_tb_global_settings'))")
    assert kept == {"ignoreOutliers": False, "timeSeriesSettingsPaneOpened": False} | changed


def test_descriptions_reach_the_page(board: str) -> None:
    tags = ask(board, "plugin/scalars/tags")
    assert isinstance(tags, dict)
    message = {tag: info["description"] for tag, info in tags[RUN].items()}
    assert all(message.values())
    assert "25.0 %" in message["eval/score"]
    assert "the step axis" in message["gradient/log10 by timestep (latest)"]


def test_only_the_latest_curve_is_shown(board: str) -> None:
    points = ask(board, "plugin/scalars/scalars", run=RUN, tag="gradient/log10 by timestep (latest)")
    # A line that begins below the floor is rewritten from its first point on, too.
    assert [(step, value) for _, step, value in points] == [(0, "NaN"), (1, "NaN"), (2, 0.0), (3, -1.0), (4, -2.0)]
    points = ask(board, "plugin/scalars/scalars", run=RUN, tag="eval/score")
    assert [(step, value) for _, step, value in points] == [(0, 0.0), (100, 0.5), (200, 1.0)]


def test_text_reaches_the_page(board: str) -> None:
    (answer,) = ask(board, "plugin/text/text", run=RUN, tag="answers")
    assert "<strong>my brother</strong>" in answer["text"]


def test_without_a_named_port_the_next_free_one_is_taken_and_ctrl_c_ends_it_in_one_line(outputs: Path) -> None:
    with socket.socket() as taken:
        try:
            taken.bind(("localhost", 6006))
            taken.listen()
            first = 6007
        except OSError:  # another process has it, and may give it back before we look
            first = 6006
        with watching(str(outputs)) as (process, address):
            port = urlsplit(address).port
            assert port is not None
            assert port >= first
            assert ask(address, "runs") is not None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
            assert process.returncode == 0
            assert out.strip() == "TensorBoard has ended."
            assert err == ""


REFUSED = """\
import contextlib, io, json, sys
from seqmem.cli.main import run_verb
results = []
for args in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_verb("watch", args)
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


def test_a_named_port_in_use_and_a_host_that_is_not_ours_are_one_line_each(outputs: Path) -> None:
    """In one process, but not in this one: TensorBoard leaves things behind."""
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        lines = [[str(outputs), "--port", str(port)], [str(outputs), "--host", "192.0.2.1"]]
        done = subprocess.run(
            [sys.executable, "-c", REFUSED, json.dumps(lines)], capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    of_port, (code, out, err) = json.loads(done.stdout)
    message = f"seqmem watch: port {port} is in use: name another, or leave out --port for the next free one\n"
    assert of_port == [1, "", message]
    assert (code, out) == (1, "")
    assert re.fullmatch(r"seqmem watch: .*192\.0\.2\.1.*\n", err)


def test_no_directory_and_no_runs_are_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("watch", [str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"seqmem watch: there is no directory {tmp_path / 'nowhere'}\n"
    assert run_verb("watch", [str(tmp_path)]) == 2
    message = f"seqmem watch: no runs in {tmp_path}: start with `seqmem train`, or name another directory\n"
    assert capsys.readouterr().err == message


def test_an_impossible_port_is_refused(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("watch", [str(outputs), "--port", "70000"]) == 2
    assert capsys.readouterr().err.startswith("seqmem watch: --port 70000: must be from 1 to 65535")


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    output = capsys.readouterr().out
    assert all(option in output for option in ("DIR", "--port", "--host", "--open", "6006"))


def test_the_address_is_one_word() -> None:
    assert not re.search(r"[\s\"<>{}|\\^`()]", query())
