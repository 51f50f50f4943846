"""Build the page: its sources and a bundle in one HTML file, which makes no requests.

The sources also work unbuilt, from a web server; this module inlines the style sheet, the JavaScript modules and the
data.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..printable import printable

SOURCES = Path(__file__).parent

LIMIT = 1_000_000
"""Bytes; a larger page is slow to load."""

_CHARSET = '<meta charset="utf-8">'
_STYLE = '<link rel="stylesheet" href="style.css">'
_DATA = '<script type="application/json" id="data"></script>'
_MODULE = re.compile(r'<script type="module" src="(\w+\.js)"></script>')
_IMPORT = re.compile(r'^import\s*(?:\{([^}]*)\}|\*\s*as\s+(\w+))\s*from\s*"\./([\w-]+\.js)";?[ \t]*$', re.MULTILINE)
_COMMENT = re.compile(r"^ *//.*\n", re.MULTILINE)
_EXPORT = re.compile(r"^export\s+(?=(?:async\s+)?(?:function\b\*?|class|const)\s*([\w$]+))", re.MULTILINE)


def build(bundle: Mapping[str, Any], sources: Path = SOURCES) -> str:
    """The whole page, for the data that ``bundle()`` makes.

    Raises:
        ValueError: the sources contain something that cannot be inlined.
    """
    html = (sources / "page.html").read_text(encoding="utf-8")
    entry = _MODULE.search(html)
    if entry is None:
        raise ValueError('page.html: there is no <script type="module" src="NAME.js"></script> in it')
    program = script(entry[1], sources)
    html = _replace_once(html, entry[0], f'<script type="module">{program}</script>')
    html = _replace_once(html, _STYLE, f"<style>{_without_end_tag(_text(sources / 'style.css'), 'style')}</style>")
    html = _replace_once(html, _DATA, data(bundle))
    return _replace_once(html, _CHARSET, f"{_CHARSET}\n{_policy(program)}")


def too_large(html: str, bundle: Mapping[str, Any]) -> str | None:
    """A one-line warning if the page has more than ``LIMIT`` bytes, else None."""
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
    """The bundle as an element of the page. "<" is escaped, so that no text in it can end the element."""
    text = json.dumps(bundle, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    text = printable(text)  # what no UTF-8 can hold; JSON has no other control characters outside its strings
    return f'<script type="application/json" id="data">{text}</script>'


def script(entry: str, sources: Path = SOURCES) -> str:
    """The module ``entry`` and its imports as one program; every module has its own scope.

    Supported are ``import {a, b as c} from "./x.js"``, ``import * as x from "./x.js"``, and ``export`` before a
    function, a class or a const.

    Raises:
        ValueError: a module is missing, is part of an import cycle, or uses another form of import or export.
    """
    modules: dict[str, str] = {}
    _gather(entry, sources, modules, [])
    return _without_end_tag("\n".join(modules.values()), "script")


def _gather(name: str, sources: Path, modules: dict[str, str], above: list[str]) -> None:
    if name in modules:
        return
    if name in above:
        raise ValueError(f"{name}: imports itself: {' -> '.join([*above, name])}")
    text = _COMMENT.sub("", _text(sources / name))

    def inline(match: re.Match[str]) -> str:
        names, whole, other = match.groups()
        _gather(other, sources, modules, [*above, name])
        pattern = whole or "{" + re.sub(r"\s+as\s+", ": ", names) + "}"
        return f"const {pattern} = {_variable(other)};"

    body = _IMPORT.sub(inline, text)
    exports = _EXPORT.findall(body)
    body = _EXPORT.sub("", body)
    unsupported = re.search(r"^(?:import|export)\b.*", body, re.MULTILINE)
    if unsupported:
        raise ValueError(f"{name}: '{unsupported[0]}' cannot be put inside the page")
    modules[name] = (
        f'const {_variable(name)} = (() => {{\n"use strict";\n{body}\nreturn {{{", ".join(exports)}}};\n}})();'
    )


def _variable(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path.name}: no such source of the page") from None


def _without_end_tag(text: str, element: str) -> str:
    if re.search(rf"</{element}", text, re.IGNORECASE):
        raise ValueError(f"the page's sources hold </{element}, which would end the element they stand in")
    return text


def _replace_once(html: str, old: str, new: str) -> str:
    if html.count(old) != 1:
        raise ValueError(f"page.html: {old} must stand in it once, and stands {html.count(old)} times")
    return html.replace(old, new)


def _policy(program: str) -> str:
    """A content security policy: no network and no other script, so that a bundle can never run as a program."""
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
