"""One HTML file of the page's sources and a bundle: it needs no server and asks for nothing.

``page.html`` opens as it stands, with its style and modules beside it, where a server hands them out; here they are
put inside.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parent

LIMIT = 1_000_000
"""Bytes up to which a page is quick to load and to send."""

_CHARSET = '<meta charset="utf-8">'
_STYLE = '<link rel="stylesheet" href="style.css">'
_DATA = '<script type="application/json" id="data"></script>'
_MODULE = re.compile(r'<script type="module" src="(\w+\.js)"></script>')
_IMPORT = re.compile(r'^import\s*(?:\{([^}]*)\}|\*\s*as\s+(\w+))\s*from\s*"\./([\w-]+\.js)";?[ \t]*$', re.MULTILINE)
_EXPORT = re.compile(r"^export\s+(?=(?:async\s+)?(?:function\b\*?|class|const)\s*([\w$]+))", re.MULTILINE)


def build(bundle: Mapping[str, Any], sources: Path = SOURCES) -> str:
    """The whole page, of ``bundle()``'s data.

    Raises:
        ValueError: the sources hold what cannot be put inside.
    """
    html = (sources / "page.html").read_text(encoding="utf-8")
    found = _MODULE.search(html)
    if found is None:
        raise ValueError('page.html: there is no <script type="module" src="NAME.js"></script> in it')
    program = script(found[1], sources)
    html = _replaced(html, found[0], f'<script type="module">{program}</script>')
    html = _replaced(html, _STYLE, f"<style>{_closed(_text(sources / 'style.css'), 'style')}</style>")
    html = _replaced(html, _DATA, data(bundle))
    return _replaced(html, _CHARSET, f"{_CHARSET}\n{_policy(program)}")


def too_large(html: str, bundle: Mapping[str, Any]) -> str | None:
    """What to do about a page of more than ``LIMIT`` bytes, in one line; None: nothing, it is small enough."""
    size = len(html.encode())
    if size <= LIMIT:
        return None
    models = bundle["models"]
    weights = len(json.dumps(models))
    return (
        f"the page has {size / 1e6:.1f} MB, {weights / 1e6:.1f} of them for the weights of {len(models)} models: fewer "
        "seeds, or models with fewer hidden units, make it load faster"
    )


def data(bundle: Mapping[str, Any]) -> str:
    """The bundle as an element of the page. Nothing in it can end the element: "<" is written as JSON's escape."""
    text = json.dumps(bundle, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{text}</script>'


def script(entry: str, sources: Path = SOURCES) -> str:
    """The module ``entry`` and all that it imports, as one program. Each keeps its names to itself.

    Known are ``import {a, b as c} from "./x.js"``, ``import * as x from "./x.js"``, and ``export`` in front of a
    function, a class or a const.

    Raises:
        ValueError: a module is missing, imports itself by way of others, or is written in another way.
    """
    done: dict[str, str] = {}
    _gather(entry, sources, done, [])
    return _closed("\n".join(done.values()), "script")


def _gather(name: str, sources: Path, done: dict[str, str], above: list[str]) -> None:
    if name in done:
        return
    if name in above:
        raise ValueError(f"{name}: imports itself: {' -> '.join([*above, name])}")
    text = _text(sources / name)

    def imported(match: re.Match[str]) -> str:
        names, whole, other = match.groups()
        _gather(other, sources, done, [*above, name])
        taken = whole or "{" + re.sub(r"\s+as\s+", ": ", names) + "}"
        return f"const {taken} = {_variable(other)};"

    body = _IMPORT.sub(imported, text)
    exported = _EXPORT.findall(body)
    body = _EXPORT.sub("", body)
    left = re.search(r"^(?:import|export)\b.*", body, re.MULTILINE)
    if left:
        raise ValueError(f"{name}: '{left[0]}' cannot be put inside the page")
    done[name] = (
        f'const {_variable(name)} = (() => {{\n"use strict";\n{body}\nreturn {{{", ".join(exported)}}};\n}})();'
    )


def _variable(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path.name}: no such source of the page") from None


def _closed(text: str, element: str) -> str:
    if re.search(rf"</{element}", text, re.IGNORECASE):
        raise ValueError(f"the page's sources hold </{element}, which would end the element they stand in")
    return text


def _replaced(html: str, old: str, new: str) -> str:
    if html.count(old) != 1:
        raise ValueError(f"page.html: {old} must stand in it once, and stands {html.count(old)} times")
    return html.replace(old, new)


def _policy(program: str) -> str:
    """No network, and no script but our own: what a bundle says can never be run."""
    digest = b64encode(sha256(program.encode()).digest()).decode()
    rules = (
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(rules)}">'
