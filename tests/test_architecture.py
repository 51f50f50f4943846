"""Who may import whom, and what may stand where: the laws of CONTRIBUTING's 'How it is built', read off the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "seqmem"
FILES = sorted(SOURCE.rglob("*.py"))

CORE = {
    *("signals", "randomness", "cells", "tasks", "models", "decay", "probes", "evaluate", "optimizers"),
}
LAW: dict[str, set[str]] = {
    "signals": set(),
    "randomness": set(),
    "optimizers": set(),
    "span": set(),
    "decay": set(),
    "kernels": {"kernels"},
    "cells": {"cells", "kernels"},
    "tasks": {"tasks", "signals"},
    "models": {"models", "signals", "randomness", "cells", "tasks.base"},
    "probes": {"probes", "signals", "randomness", "cells", "tasks.base", "models", "decay"},
    "evaluate": {"signals", "randomness", "cells", "tasks.base", "models"},
    "reading": {"signals", "randomness", "cells", "tasks.base", "models", "probes", "decay"},
    "training": {
        *("training", "signals", "randomness", "cells", "tasks.base", "models", "probes", "decay"),
        *("evaluate", "reading"),
    },
    "runs": {"runs", "decay"},
    "record": {
        *("record", "runs", "training", "decay", "probes", "evaluate", "models", "tasks.base", "signals"),
    },
    "report": {"report", "runs", "decay"},
    "playground": {"playground", "reading", *CORE},
    "cli": {
        *("cli", "report", "span", "reading", "playground", "runs", "record", "training", "kernels"),
        *CORE,
    },
}
"""Room -> the rooms it may import from. ``tasks.base`` allows the protocol and no single task."""

EDGE = {"hydra", "omegaconf", "rich"}


def room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def module(path: Path) -> tuple[str, ...]:
    """``("seqmem", "cells", "lstm")``"""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path: Path) -> Iterator[str]:
    """Everything that a file imports, also inside functions and for types only, as absolute names."""
    package = module(path) if path.name == "__init__.py" else module(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*start, *(node.module.split(".") if node.module else ())))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def names(path: Path) -> Iterator[tuple[str, ast.Attribute]]:
    """``torch.manual_seed`` and whatever else is reached by dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node), node


def test_the_law_names_every_room() -> None:
    assert {room(path) for path in FILES} - {"__init__", "__main__"} == set(LAW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_who_may_import_whom(path: Path) -> None:
    if room(path) == "__main__":
        assert list(imports(path)) == ["sys", "seqmem.cli.main.main"]
        return
    if room(path) == "__init__":  # at run time only what a name that is used needs
        outside = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert {node.module for node in outside if isinstance(node, ast.ImportFrom)} == {"importlib", "typing"}
        assert all(isinstance(node, ast.ImportFrom) for node in outside)
        return
    for name in imports(path):
        if name.split(".")[0] in EDGE:
            assert room(path) == "cli", f"only the cli imports {name}"
        if name.split(".")[0] != "seqmem":
            continue
        rest = name.removeprefix("seqmem.")
        allowed = LAW[room(path)]
        assert any(rest == good or rest.startswith(f"{good}.") for good in allowed), f"{room(path)} imports {name}"


def test_cells_do_not_know_each_other() -> None:
    """One cell a file, on top of ``base``, ``state`` and the fused shortcut; the registry alone knows all."""
    for path in (SOURCE / "cells").glob("*.py"):
        if path.name != "__init__.py":
            ours = {name.split(".")[2] for name in imports(path) if name.startswith("seqmem.cells.")}
            if path.name != "recompute.py":
                assert ours <= {"base", "state", "fused"}, path


def test_devices_are_chosen_in_one_place() -> None:
    """``cli/config/build.py`` decides; ``randomness`` must know, because CUDA has generators of its own."""
    for path in FILES:
        if path.relative_to(SOURCE) in (Path("cli/config/build.py"), Path("randomness.py")):
            continue
        tree = ast.parse(path.read_text())
        keys = {key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in keys:
                assert node.value.partition(":")[0] not in ("cuda", "mps"), f"{path}:{node.lineno}"
        for name, node in names(path):
            if name.startswith("torch.cuda."):
                assert room(path) == "cli", f"{path}:{node.lineno}: {name}"


GLOBAL = (
    "np.random", "numpy.random", "random.",
    "torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.random.", "torch.default_generator",
)  # fmt: skip


def test_nobody_uses_a_global_generator() -> None:
    """Randomness is an argument: no seeding, and nothing drawn from a generator that was not handed over."""
    drawing = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal"}
    for path in FILES:
        if room(path) == "randomness":
            continue
        for name in imports(path):
            assert name.split(".")[0] not in ("random", "secrets"), f"{path} imports {name}"
        for name, node in names(path):
            assert not name.startswith(GLOBAL), f"{path}:{node.lineno}: {name}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{word}" for word in drawing}:
                given = {keyword.arg for keyword in node.keywords}
                assert "generator" in given, f"{path}:{node.lineno}: {ast.unparse(node)}"


def test_no_bare_asserts_or_swallowed_errors() -> None:
    """No ``except: pass`` of everything, and nobody prints below the cli."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                empty = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not (broad and empty), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                assert room(path) == "cli", f"{path}:{node.lineno}"
