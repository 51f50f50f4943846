"""A real browser for tests: Chromium, driven by Playwright, and what a page says and asks for meanwhile.

A test module imports the fixtures it asks for: ``from browser import chromium as chromium, visit as visit``.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    *(f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Chromium", "Google Chrome")),
)
"""Under which a browser may be found, the best first."""

ARGUMENTS = (
    "--no-sandbox",  # which root has to do without
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers give it 64 MB
)


def executable() -> Path | None:
    """``$CHROMIUM``, or a Chromium or Chrome that is installed; None: there is none."""
    given = os.environ.get("CHROMIUM")
    names = NAMES if given is None else (given,)
    found = next(filter(None, map(shutil.which, names)), None)
    return None if found is None else Path(found)


@dataclass
class Visit:
    """An open page. ``said``: its errors and warnings on the console, and exceptions that nobody caught. ``asked``:
    the addresses it asked for beside its own."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for a module, and not for the session: as long as it runs, this thread has a running event loop, and others'
    tests may want one of their own."""
    path = executable()
    if path is None:
        pytest.fail(
            f"there is no {os.environ.get('CHROMIUM', 'Chromium')}, which tests of the page need: install it "
            "(on Debian: apt-get install chromium), or set CHROMIUM=/path/to/chrome",
            pytrace=False,
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


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
        found = Visit(context.new_page())

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                found.said.append(f"{message.type}: {message.text}")

        def wanted(request: Request) -> None:
            if request.url.partition("#")[0] != address:
                found.asked.append(request.url)

        found.page.on("console", heard)
        found.page.on("pageerror", lambda error: found.said.append(f"uncaught: {error}"))
        found.page.on("request", wanted)
        found.page.goto(f"{address}#{fragment}" if fragment else address)
        yield found
    finally:
        context.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """``visit(file, ...)`` opens a file as ``visiting`` does, until the test ends."""
    with ExitStack() as stack:
        yield lambda file, **options: stack.enter_context(visiting(chromium, file, **options))
