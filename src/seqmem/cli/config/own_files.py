"""Mistakes in a user's own YAML files (``-cd DIR``), each in one line that begins with the file."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.plugins.config_source import ConfigSource
from omegaconf import OmegaConf
from yaml import MarkedYAMLError, YAMLError

_HEADER = 512
"""Characters in which Hydra looks for ``@package``."""

_CHOICE = re.compile(r"\+{0,2}(?P<group>[\w/]+)=(?P<names>[^\[{].*)")
_QUOTES = "'\" "
_PACKAGES = {"experiment": "_global_"}
"""Groups whose files set settings of others -> the package that they must name."""


def mistake(overrides: Sequence[str], config_dir: str | None) -> str | None:
    """What is wrong with a file of ``config_dir`` that these settings choose (``experiment=mine``); None: nothing."""
    for override in overrides if config_dir is not None else ():
        if match := _CHOICE.fullmatch(override):
            for name in match["names"].split(","):
                path = shown(Path(config_dir or "", match["group"], f"{name.strip(_QUOTES)}.yaml"))
                if _is_file(path) and (line := mistake_in(path, match["group"])):
                    return line
    return None


def elsewhere(group: str, name: str, config_dir: str | None) -> str | None:
    """How to choose a file that Hydra does not find, where there is one that may be meant; None: there is none."""
    folder = None if config_dir is None else shown(Path(config_dir))
    for root in (*([] if folder is None else [folder]), Path(), Path("conf")):
        path = root / group / f"{name.removesuffix('.yml')}.yml"
        if _is_file(path):
            return mistake_in(path, group)
        if root != folder and _is_file(path.with_suffix(".yaml")):
            return f"{group}={name}: add -cd {root} to choose {path.with_suffix('.yaml')}"
        if _is_file(path := root / f"{name}.yaml") and "/" not in name:
            return f"{group}={name}: is chosen from DIR/{group}/{name}.yaml by -cd DIR, not from {path}"
    path = Path(name).with_suffix(".yaml")
    if len(path.parts) > 1 and _is_file(path):
        return f"{group}={name}: is a path; write -cd {path.parent.parent} {group}={path.stem}"
    return None


def mistake_in(path: Path, group: str) -> str | None:
    """What is wrong with one file of a group; None: nothing that shows."""
    if path.suffix == ".yml":
        return f"{path}: settings are in files whose names end in .yaml: rename it to {path.stem}.yaml"
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return f"{path}: is not in UTF-8: save it as UTF-8"
    except OSError as error:
        return f"{path}: {error.strerror}"
    directives = [line for line in text.lstrip("\ufeff").splitlines() if re.match(r"\s*#+\s*@", line)]
    if text.startswith("\ufeff") and directives:
        return f"{path}: begins with a byte-order mark, which hides its first line: save it as UTF-8 without one"
    needed = _PACKAGES.get(group)
    try:
        package = ConfigSource._get_header_dict(text[:_HEADER])["package"]  # noqa: SLF001 (as Hydra itself reads it)
    except ValueError:
        return f"{path}: '{directives[0].strip()}' must be '# @package NAME', with nothing after it"
    if needed is not None and package != needed:
        return f"{path}: its first line must be '# @package {needed}'"
    try:
        settings = OmegaConf.load(path)
    except YAMLError as error:
        return in_words(error, path)
    if not OmegaConf.is_dict(settings):
        return f"{path}: has a list where settings are expected, one a line: seq_len: 50"
    return None


def in_words(error: YAMLError, path: Path | None = None) -> str:
    """An error of the YAML parser, in one line that begins with the file and the line."""
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    where = str(shown(Path(path or (mark.name if mark is not None else "a file of settings"))))
    if mark is None or not isinstance(error, MarkedYAMLError):
        return f"{where}: is no YAML: {' '.join(str(error).split())}"
    where, problem = f"{where}, line {mark.line + 1}", " ".join(str(error.problem).split())
    if match := re.match(r"found duplicate key (.*)", problem):
        return f"{where}: {match[1]} is set twice"
    if r"'\t'" in problem:
        return f"{where}: has a tab: write spaces"
    return f"{where}: is no YAML: {problem.replace('<stream end>', 'the end of the file')}"


def file_of(config: str, config_dir: str | None) -> str:
    """The path of ``experiment/mine`` for people: in the user's own directory, else as it is called."""
    path = shown(Path(config_dir or ".") / f"{config}.yaml")
    return str(path) if config_dir is not None and _is_file(path) else f"{config}.yaml"


def files_of(folder: Path, group: str) -> Iterator[Path]:
    """Every file of a group, those with the wrong suffix as well."""
    for pattern in ("*.yaml", "*.yml"):
        yield from sorted((folder / group).rglob(pattern))


def choice_of(path: Path, folder: Path, group: str) -> str:
    """What chooses a file of a group: its path in the group's folder."""
    return path.relative_to(folder / group).with_suffix("").as_posix()


def in_subfolders(folder: Path, group: str) -> list[str]:
    """The choices of a group that are in folders of their own, which Hydra does not list."""
    paths = (folder / group).glob("*/**/*.yaml")
    return sorted(choice_of(path, folder, group) for path in paths)


def called(name: str, folder: Path, group: str) -> Path:
    """The file of a group that has this ``name``: ``task/cogscale/sorting.yaml`` has ``cogscale_sorting``."""
    for choice in in_subfolders(folder, group):
        if choice.replace("/", "_") == name:
            return folder / group / f"{choice}.yaml"
    return folder / group / f"{name}.yaml"


def shown(path: Path) -> Path:
    """A path from the working directory, if it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
