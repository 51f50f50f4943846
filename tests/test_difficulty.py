"""``task.difficulty``: easy, usual and hard defaults of a task."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from commandline import TINY, Completed, composed
from seqmem.cli.config import difficulty
from seqmem.cli.config.build import build_task
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.schema import conf_dir, register
from seqmem.randomness import generator
from seqmem.runs.settings import identity
from seqmem.tasks import TASKS

GRADED = sorted(path for path in (conf_dir() / "task").glob("*.yaml") if path.stem != "custom")  # CogScale's have sizes


@pytest.mark.parametrize("yaml", GRADED, ids=lambda yaml: yaml.stem)
def test_each_difficulty_is_a_task_of_its_own_that_draws_its_sequences(yaml: Path) -> None:
    register()
    lengths, seen = [], set()
    for name, listed in difficulty.graded_settings(yaml).items():
        loaded = OmegaConf.merge(OmegaConf.load(yaml), {"difficulty": name})
        resolved = OmegaConf.to_container(loaded, resolve=True)
        assert isinstance(resolved, dict)
        length = resolved["usual_seq_len"]
        options = {key: resolved[key] for key in (word.removeprefix("task.") for word in listed) if key != "seq_len"}
        as_listed = {word.removeprefix("task."): value for word, value in listed.items()}
        assert as_listed == {"seq_len": str(length)} | {key: typed(value) for key, value in options.items()}
        task = TASKS[yaml.stem](**options)
        assert (resolved["shortest"] or task.min_seq_len) <= length
        assert task.sample(4, length, generator(0, "test")).asked.any()
        lengths.append(length)
        seen.add(repr((length, sorted(options.items()))))
    assert len(seen) == 3
    assert lengths == sorted(lengths)


def typed(value: object) -> str:
    """As in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_page_of_tasks_has_the_settings_of_each_difficulty() -> None:
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    for yaml in GRADED:
        for name, settings in difficulty.graded_settings(yaml).items():
            first = f"`{yaml.stem}`" if name == "easy" else ""
            assert f"| {first} | {name} | `{' '.join(map('='.join, settings.items()))}` |" in page


def test_a_setting_of_the_command_line_takes_the_place_of_a_default() -> None:
    config = composed("task=copy", "task.difficulty=hard")
    assert (config.seq_len, config.task["length"]) == (140, 20)
    config = composed("task=copy", "task.difficulty=hard", "task.length=5", "seq_len=60")
    assert (config.seq_len, config.task["length"]) == (60, 5)
    build_task(config)
    usual = composed("task=copy")
    assert usual == composed("task=copy", "task.difficulty=usual")
    assert (usual.seq_len, usual.task["length"]) == (50, 10)


def test_a_difficulty_is_the_same_run_as_its_settings() -> None:
    hard = composed("task=copy", "task.difficulty=hard")
    typed = composed("task=copy", "seq_len=140", "task.length=20")
    assert identity(vars(hard)) == identity(vars(typed)) != identity(vars(composed("task=copy")))


def test_another_difficulty_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.difficulty=medium: must be easy, usual or hard"):
        composed("task=copy", "task.difficulty=medium")


def test_no_task_of_cogscale_takes_a_difficulty_of_the_others_in_a_sweep(typed: Callable[..., Completed]) -> None:
    done = typed("train", "-m", "task=copy,cogscale/simple_copy", "task.difficulty=easy,hard", *TINY)
    assert done.code != 0
    assert "there is no setting 'task.difficulty' of a task with sizes" in done.err
    assert not Path("outputs").exists() or not [*Path("outputs").rglob("result.json")]


def test_the_list_has_the_difficulties_and_a_table_of_runs_their_settings(typed: Callable[..., Completed]) -> None:
    assert (
        "  usual  seq_len=50 task.length=10\n  hard   seq_len=140 task.length=20\n" in typed("list", "task", "copy").out
    )
    tiny = [setting for setting in TINY if not setting.startswith(("seq_len=", "evaluate.lengths="))]
    assert "  length: 20 " in typed("train", "task=copy", "task.difficulty=hard", "--help").out
    assert typed("train", "-m", "task=copy", "task.difficulty=easy,usual", "evaluate.lengths=[50]", *tiny).code == 0
    heads = typed("show", "outputs", "--all").out.splitlines()[2]
    assert "length" in heads
    assert "difficulty" not in heads


def test_a_file_names_three_values(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: copy\ndifficulty: usual\nlength: ${graded:${.difficulty},1,2}\n")
    with pytest.raises(ConfigError, match="length: 2 values: must be three, for easy, usual, hard"):
        difficulty.graded_settings(path)
    with pytest.raises(InterpolationResolutionError, match="graded: 2 values: must be three"):
        OmegaConf.to_container(OmegaConf.load(path), resolve=True)
