"""A real browser for tests: Chromium, driven by Playwright, with a log of a page's console and requests.

A test module imports the fixtures that it uses: ``from browser import chromium as chromium, visit as visit``.
"""

import asyncio
import os
import shutil
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *(f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Chromium", "Google Chrome")),
)
"""Names of the browser's program, the preferred ones first."""

ARGUMENTS = (
    "--no-sandbox",  # root cannot use the sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # 64 MB in containers
)


def executable() -> Path | None:
    """``$CHROMIUM``, or an installed Chromium or Chrome; None if there is none."""
    given = os.environ.get("CHROMIUM")
    names = NAMES if given is None else (given,)
    path = next(filter(None, map(shutil.which, names)), None)
    return None if path is None else Path(path)


@dataclass
class Visit:
    """An open page. ``messages``: its errors and warnings on the console, and uncaught exceptions. ``requests``: the
    addresses that it requested, except its own."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class _Shared:
    """One browser for all modules of a process: starting it takes 1.7 seconds.

    While it is used, this thread has a running event loop; between modules it is hidden, for tests with their own.
    """

    def __init__(self, path: Path) -> None:
        self._playwright = sync_playwright()
        self.browser = self._playwright.__enter__().chromium.launch(executable_path=path, args=ARGUMENTS)
        self._loop = asyncio.get_running_loop()
        self.hide()

    def show(self) -> None:
        events._set_running_loop(self._loop)

    def hide(self) -> None:
        events._set_running_loop(None)

    def close(self) -> None:
        self.show()
        self.browser.close()
        self._playwright.__exit__()
        shared.cache_clear()


shared = cache(_Shared)


@pytest.fixture(scope="module")
def chromium(request: pytest.FixtureRequest) -> Iterator[Browser]:
    path = executable()
    if path is None:
        pytest.fail(
            f"there is no {os.environ.get('CHROMIUM', 'Chromium')}, which tests of the page need: install it "
            "(on Debian: apt-get install chromium), or set CHROMIUM=/path/to/chrome",
            pytrace=False,
        )
    if not shared.cache_info().currsize:
        request.config.add_cleanup(shared(path).close)
    one = shared(path)
    one.show()
    yield one.browser
    one.hide()


@contextmanager
def visiting(
    chromium: Browser,
    file: Path,
    *,
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
    fragment: str = "",
    **options: Any,
) -> Iterator[Visit]:
    """``file`` in a fresh profile. ``fragment``: what follows # in its address. ``options``: of ``new_context``."""
    address = file.resolve().as_uri()
    scheme = "dark" if dark else "light"
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
    try:
        context.set_default_timeout(5000)
        visit = Visit(context.new_page())

        def on_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                visit.messages.append(f"{message.type}: {message.text}")

        def on_request(request: Request) -> None:
            if request.url.partition("#")[0] != address:
                visit.requests.append(request.url)

        visit.page.on("console", on_console)
        visit.page.on("pageerror", lambda error: visit.messages.append(f"uncaught: {error}"))
        visit.page.on("request", on_request)
        visit.page.goto(f"{address}#{fragment}" if fragment else address)
        yield visit
    finally:
        context.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """``visit(file, ...)`` opens a file as ``visiting`` does, until the test ends."""
    with ExitStack() as stack:
        yield lambda file, **options: stack.enter_context(visiting(chromium, file, **options))
