"""Configurations, whatever their values: they survive quoting and saving, and directories differ where numbers may."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from seqmem.cli.config.compose import compose_run
from seqmem.cli.config.schema import RunConfig, everything, from_mapping, identity
from seqmem.cli.launch.one_run import run_path
from seqmem.cli.notebook.settings import overrides_of
from seqmem.runs.settings import flat

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
"""Any printable text: control characters are no part of Hydra's grammar."""

FLOATS = st.floats(1e-30, 1e30)
SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "seq_len": st.integers(1, 10**6),
    "steps": st.integers(1, 10**6),
    "seed": st.integers(0, 2**63),
    "clip_norm": st.none() | FLOATS,
    "tbptt": st.none() | st.integers(1, 100),
    "dtype": st.sampled_from(["float32", "float64"]),
    "on_nan": st.sampled_from(["stop", "continue"]),
    "evaluate.lengths": st.none() | st.lists(st.integers(1, 1000), min_size=1, max_size=4),
    "trace.every": st.integers(0, 1000),
    "trace.loss": st.sampled_from(["last", "all"]),
    "cell.hidden_size": st.integers(1, 10**4),
    "cell.forget_bias": FLOATS | st.just("chrono"),
    "optimizer.lr": FLOATS,
    "task.people": st.integers(4, 16),
    "outputs": WORDS.filter(str.strip),
    "checkpoint_every": st.integers(1, 100),
    "threads": st.integers(1, 64),
    "quiet": st.booleans(),
}
NO_NUMBER = ("outputs", "checkpoint_every", "threads", "quiet")
CHANGES = st.fixed_dictionaries({}, optional=SETTINGS)


@pytest.fixture(scope="module")
def usual() -> RunConfig:
    return compose_run([])


def changed(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    values = deepcopy(everything(config))
    for name, value in changes.items():
        *groups, last = name.split(".")
        place = values
        for group in groups:
            place = place[group]
        assert last in place
        place[last] = value
    return from_mapping(values)


@example("it's")
@example('say "this"')
@example("back\\slash")
@example("a\\'b")
@example("end\\\\")
@example("a=b,c:d [x] {y} ~ -")
@example("")
@given(WORDS)
def test_any_word_can_be_a_setting(text: str) -> None:
    """Hydra's grammar would read some of these as something else; a keyword is taken as it is."""
    for value in (text, [text, {"key": text}]):
        (line,) = overrides_of({"cell.args": value})
        override = OverridesParser.create().parse_override(line)
        assert override.key_or_group == "cell.args"
        assert override.value() == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | FLOATS | WORDS, st.lists, max_leaves=5))
def test_any_value_can_be_a_setting(value: Any) -> None:
    (line,) = overrides_of({"cell.args": value})
    assert OverridesParser.create().parse_override(line).value() == value


@given(CHANGES)
def test_a_saved_configuration_is_the_same_run(usual: RunConfig, changes: dict[str, Any]) -> None:
    config = changed(usual, changes)
    values = flat(everything(config))
    assert {name: values[name] for name in changes} == changes
    loaded = from_mapping(json.loads(json.dumps(everything(config))))
    assert loaded == config
    assert identity(loaded) == identity(config)
    assert run_path(loaded) == run_path(config)


@given(CHANGES, CHANGES)
def test_two_configurations_share_a_directory_where_no_number_can_differ(
    usual: RunConfig, one: dict[str, Any], other: dict[str, Any]
) -> None:
    def numbers(config: RunConfig) -> dict[str, Any]:
        return {name: value for name, value in flat(everything(config)).items() if name not in NO_NUMBER}

    def place(config: RunConfig) -> Path:
        return run_path(config).relative_to(config.outputs)

    a, b = changed(usual, one), changed(usual, other)
    assert (place(a) == place(b)) == (numbers(a) == numbers(b))
    merged = changed(a, {name: value for name, value in other.items() if name in NO_NUMBER})
    assert place(merged) == place(a)
