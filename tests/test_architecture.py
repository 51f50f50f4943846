"""The laws of CONTRIBUTING's 'How it is built' on imports and names, checked on the source."""

import ast
import re
import runpy
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from seqmem.cli.main import VERBS
from seqmem.signals import Tokens

SOURCE = Path(__file__).parents[1] / "src" / "seqmem"
FILES = sorted(SOURCE.rglob("*.py"))

CORE = {
    *("metrics", "signals", "randomness", "cells", "tasks", "models", "measurement", "decay", "probes", "denormals"),
    *("evaluate", "optimizers", "spaces", "lookback", "lag", "decoding", "laws", "tracing"),
}
LAW: dict[str, set[str]] = {
    "metrics": set(),
    "signals": {"metrics"},
    "randomness": set(),
    "optimizers": set(),
    "solved": set(),
    "span": set(),
    "grammar": set(),
    "translation": set(),
    "printable": set(),
    "spaces": {"grammar", "translation"},
    "cogscale": set(),
    "measurement": set(),
    "denormals": set(),
    "cores": set(),
    "decay": {"measurement"},
    "lookback": set(),
    "lag": {"tasks.base", "randomness"},
    "kernels": {"kernels", "cores"},
    "nn": {"nn", "kernels", "cells"},
    "cells": {"cells", "kernels", "randomness"},
    "tasks": {"tasks", "signals", "metrics", "spaces", "cogscale", "grammar", "translation"},
    "models": {"models", "signals", "randomness", "cells", "tasks.base"},
    "laws": {"laws", "randomness", "cells", "tasks.base", "models"},
    "probes": {"probes", "signals", "randomness", "cells", "tasks.base", "models", "decay", "measurement", "denormals"},
    "tracing": {"tracing", "randomness", "cells", "models", "decay", "measurement", "nn"},
    "decoding": {"signals", "cells", "tasks.base", "models"},
    "evaluate": {"signals", "randomness", "cells", "tasks.base", "tasks.parts", "models", "decoding"},
    "reading": {
        *("decoding", "signals", "randomness", "cells", "tasks.base", "tasks.parts", "models", "probes", "decay"),
        "lookback",
    },
    "training": {
        *(
            "training",
            "metrics",
            "signals",
            "randomness",
            "cells",
            "tasks.base",
            "tasks.parts",
            "models",
            "probes",
            "measurement",
        ),
        *("evaluate", "reading", "denormals", "spaces", "decoding"),
    },
    "runs": {"runs", "decay", "lag", "measurement", "metrics", "printable", "solved", "spaces"},
    "record": {
        *(
            "record",
            "reading",
            "runs",
            "training",
            "decay",
            "probes",
            "evaluate",
            "models",
            "tasks.base",
            "signals",
            "metrics",
        ),
        "measurement",
        "solved",
        "tracing",
    },
    "papers": {"papers", "solved"},
    "report": {"report", "runs", "cores", "decay", "lag", "measurement", "metrics", "solved"},
    "cards": {"cards", "report", "runs", "decay", "metrics", "solved"},
    "playground": {"playground", "printable", "reading", *CORE},
    "cli": {
        "cores",
        *(
            "cli",
            "cogscale",
            "printable",
            "report",
            "papers",
            "cards",
            "solved",
            "span",
            "reading",
            "playground",
            "runs",
            "record",
            "training",
        ),
        "kernels",
        *CORE,
    },
}
"""Room -> the rooms it may import from. ``tasks.base`` and ``tasks.parts`` allow the protocol and no single task."""

EDGE = {"hydra", "omegaconf", "rich"}


parse = cache(ast.parse)


def parsed(path: Path) -> ast.Module:
    return parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(path)))


def dotted(node: ast.AST) -> str:
    """The dotted name, as ``torch.cuda.is_available``; empty if the node is not a chain of names."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def module(path: Path) -> tuple[str, ...]:
    """``("seqmem", "cells", "lstm")``"""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@cache
def placed_imports(path: Path) -> tuple[tuple[str, str], ...]:
    """(place, absolute name) of each of a file's imports.

    The place says when the import runs: with the ``module``, in a ``function``, or for ``types`` only, i.e. never.
    """
    package = module(path) if path.name == "__init__.py" else module(path)[:-1]

    def walk(parent: ast.AST, place: str) -> Iterator[tuple[str, str]]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Import):
                yield from ((place, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                start = package[: len(package) - node.level + 1] if node.level else ()
                base = ".".join((*start, *(node.module.split(".") if node.module else ())))
                yield from ((place, f"{base}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(node, "function")
            elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                yield from walk(node, "types")
            else:
                yield from walk(node, place)

    return tuple(walk(parsed(path), "module"))


def imports(path: Path) -> Iterator[str]:
    """Absolute names of a file's imports, including those inside functions and for types only."""
    return (name for _, name in placed_imports(path))


MODULES = {".".join(module(path)): path for path in FILES}


def imported_module(name: str) -> str:
    """``seqmem.cells.base`` for ``seqmem.cells.base.Cell``."""
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


@cache
def loaded_with(name: str) -> set[str]:
    """The modules that importing ``name`` loads: itself, its packages, and their imports at the top."""
    loaded, pending = set[str](), [name]
    while pending:
        name = pending.pop()
        if not name or name in loaded:
            continue
        loaded.add(name)
        pending.append(name.rpartition(".")[0])
        path = MODULES[name]
        pending += [
            imported_module(other)
            for place, other in placed_imports(path)
            if place == "module" and other.startswith("seqmem.")
        ]
    return loaded


@cache
def other_projects(name: str) -> set[str]:
    """The third-party packages that importing ``name`` loads."""
    roots = {
        other.split(".")[0]
        for each in loaded_with(name)
        for place, other in placed_imports(MODULES[each])
        if place == "module"
    }
    return roots - set(sys.stdlib_module_names) - {"seqmem"}


def names(path: Path) -> Iterator[tuple[str, ast.Attribute]]:
    """Every dotted name, as ``torch.manual_seed``, with its node."""
    for node in nodes(path):
        if isinstance(node, ast.Attribute):
            yield dotted(node), node


def test_the_law_names_every_room() -> None:
    assert {room(path) for path in FILES} - {"__init__", "__main__"} == set(LAW)


def test_imports_between_rooms() -> None:
    for path in FILES:
        if room(path) in ("__main__", "__init__"):
            continue
        allowed = LAW[room(path)]
        for name in imports(path):
            if name.split(".")[0] in EDGE:
                assert room(path) == "cli", f"{path}: only the cli imports {name}"
            if name.split(".")[0] == "seqmem":
                rest = name.removeprefix("seqmem.")
                assert any(rest == good or rest.startswith(f"{good}.") for good in allowed), f"{path} imports {name}"


def test_the_package_imports_lazily() -> None:
    assert list(imports(SOURCE / "__main__.py")) == ["sys", "seqmem.cli.main.main"]
    outside = [node for node in parsed(SOURCE / "__init__.py").body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in outside] == [
        "import sys", "from importlib import import_module", "from types import ModuleType",
        "from typing import TYPE_CHECKING, Any",
    ]  # fmt: skip


INNER_LAW: dict[str, set[str]] = {
    "config": {"config"},
    "terminal": {"terminal", "config"},
    "launch": {"launch", "terminal", "config"},
    "verbs": {"launch", "terminal", "config"},
    "notebook": {"notebook", "verbs", "launch", "terminal", "config"},
    "help": {"terminal", "config"},
    "main": {"help", "verbs", "config"},
}
"""Part of the cli -> the parts it may import from. A verb may not import another verb."""


def test_the_inner_law_names_every_part_of_the_cli() -> None:
    assert {name.split(".")[2] for name in MODULES if name.startswith("seqmem.cli.")} == set(INNER_LAW)


def test_imports_between_parts_of_the_cli() -> None:
    for name in (name for name in MODULES if name.startswith("seqmem.cli.")):
        part = name.split(".")[2]
        for _, other in placed_imports(MODULES[name]):
            if other.startswith("seqmem.cli.") and imported_module(other) != name:
                assert other.split(".")[2] in INNER_LAW[part], f"{name} imports {other}"


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions count: deferring an import does not break a cycle."""
    graph = {
        name: {
            imported_module(other)
            for place, other in placed_imports(path)
            if place != "types" and other.startswith("seqmem.")
        }
        - {name}
        for name, path in MODULES.items()
        if name != "seqmem"  # the package imports its names lazily
    }
    visited: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, f"a cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in visited or name not in graph:
            return
        for other in sorted(graph[name]):
            visit(other, [*path, name])
        visited.add(name)

    for name in graph:
        visit(name, [])


SLOW_TO_IMPORT = {
    "PIL",
    "hydra",
    "jinja2",
    "matplotlib",
    "numpy",
    "omegaconf",
    "polars",
    "rich",
    "tensorboard",
    "torch",
}


def test_imports_inside_functions_have_a_reason() -> None:
    """The reason is always a slow package that a fast start, or ``import seqmem``, must not load."""
    for name, path in MODULES.items():
        for place, other in placed_imports(path):
            if place == "function" and other.startswith("seqmem."):
                later = other_projects(imported_module(other)) - other_projects(name)
                assert later & SLOW_TO_IMPORT, f"{name} may import {other} at its top"


def test_cells_do_not_know_each_other() -> None:
    """One cell per file, which imports only what cells share; the registry knows all cells."""
    shared = {
        "base", "state", "fused", "dense", "gated_linear", "initialisation", "looped", "matrix_memory", "native",
        "norms", "taps",
    }  # fmt: skip
    for path in (SOURCE / "cells").glob("*.py"):
        if path.name != "__init__.py":
            modules = {name.split(".")[2] for name in imports(path) if name.startswith("seqmem.cells.")}
            if path.name != "recompute.py":
                assert modules <= shared, path


def test_devices_are_chosen_in_one_place() -> None:
    """``cli/config/build.py`` decides. ``randomness`` is an exception, because CUDA has its own generators."""
    for path in FILES:
        if path.relative_to(SOURCE) in (Path("cli/config/build.py"), Path("randomness.py")):
            continue
        keys = {key for node in nodes(path) if isinstance(node, ast.Dict) for key in node.keys}
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in keys:
                assert node.value.partition(":")[0] not in ("cuda", "mps"), f"{path}:{node.lineno}"
        for name, node in names(path):
            if name.startswith("torch.cuda."):
                assert room(path) == "cli", f"{path}:{node.lineno}: {name}"


GLOBAL = (
    "np.random", "numpy.random", "random.",
    "torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.random.", "torch.default_generator",
)  # fmt: skip


def test_global_generators_are_not_used() -> None:
    """Randomness is an argument: no seeding, and every draw takes a generator. One of numpy's with a seed is one."""
    drawing = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal"}
    for path in FILES:
        if room(path) == "randomness":
            continue
        for name in imports(path):
            assert name.split(".")[0] not in ("random", "secrets"), f"{path} imports {name}"
        seeded = {
            id(part)
            for node in nodes(path)
            if isinstance(node, ast.Call) and node.args and dotted(node.func) == "np.random.default_rng"
            for part in ast.walk(node.func)
        }
        for name, node in names(path):
            assert id(node) in seeded or not name.startswith(GLOBAL), f"{path}:{node.lineno}: {name}"
        for node in nodes(path):
            if isinstance(node, ast.Call) and dotted(node.func) in {f"torch.{word}" for word in drawing}:
                keywords = {keyword.arg for keyword in node.keywords}
                assert "generator" in keywords, f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_no_swallowed_errors_and_no_printing_below_the_cli() -> None:
    """No ``except: pass`` for all exceptions, and no printing below the cli."""
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                empty = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not (broad and empty), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and dotted(node.func) == "print":
                assert room(path) == "cli", f"{path}:{node.lineno}"


SUGGESTION = re.compile(rf"(?<![\\w/.])(seqmem ({'|'.join(VERBS)}|-\\w+)\\b(?!( status)?: )|pip install)")


def test_suggested_commands_are_what_the_user_typed() -> None:
    """``commands.command`` and ``commands.install`` make them. Files of a run are read elsewhere and keep the name."""
    for path in (path for path in FILES if room(path) != "record"):
        docstrings = {
            id(node.body[0].value)
            for node in nodes(path)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                assert not SUGGESTION.search(node.value), f"{path}:{node.lineno}: {node.value}"


def test_shapes_and_types_are_checked_while_the_tests_run() -> None:
    """In every test file anew; checked_calls.py limits how often."""
    logits, target = torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(BeartypeCallHintViolation, match=r"(?s)targets=.*dimension B is 5"):
        Tokens(4).loss(logits, target)


def test_the_picture_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/architecture.svg shows these imports; drawing it does not depend on this machine: it needs Python alone."""
    script = SOURCE.parents[1] / "scripts" / "architecture.py"
    needed = [node for node in ast.walk(parsed(script)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module or "." if isinstance(node, ast.ImportFrom) else node.names[0].name for node in needed}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    monkeypatch.setattr(ast, "parse", parse)  # the same files again
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    assert runpy.run_path(str(script))["main"]() == 0, "run .venv/bin/python scripts/architecture.py"
