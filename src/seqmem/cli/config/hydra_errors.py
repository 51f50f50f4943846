"""Every error of Hydra and OmegaConf in one line, in the words of the command line."""

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from . import own_choices, own_files
from .commands import command, install
from .errors import ConfigError, joined, nearest
from .odd_values import escaped, remember, repeated
from .own_code import PARTS
from .own_hydra import own_hydra
from .schema import conf_dir

EXTRAS = {"hydra/sweeper/optuna": "optuna", "hydra/launcher/joblib": "joblib"}
"""Config groups of other projects' plugins -> the extra of seqmem that installs them."""

GROUPS = ("cell", "task", "model", "optimizer", "probe", "experiment")
"""Groups of settings, of which a command line chooses one by its name."""

_KEY_AND_VALUE = "settings are key=value, e.g. seq_len=50"

_KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
_CHOICE = r"(cell|task|model|optimizer)=[\w./]+"


@contextmanager
def explained(overrides: Sequence[str] = (), config_dir: str | None = None) -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf inside the context into a ``ConfigError``.

    Args:
        overrides: the settings of the command line; they determine which cells' and tasks' settings are suggested.
        config_dir: the user's own configuration directory, if there is one.
    """
    remember(overrides)
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not is_hydras(error):
            raise
        raise ConfigError(explain(error, overrides, config_dir)) from error


def is_hydras(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it; settings that they do not foresee cause a TypeError or the like in them."""
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
        return True
    # They may pass such a setting on, e.g. hydra.verbose=[[1]] to logging: the last frame of theirs or ours decides.
    kinds = TypeError | ValueError | AttributeError | AssertionError | LookupError
    frames = (_package(frame.filename) for frame in reversed(traceback.extract_tb(error.__traceback__)))
    return isinstance(error, kinds) and next((package for package in frames if package), "seqmem") != "seqmem"


def _package(file: str) -> str | None:
    packages = ("hydra", "omegaconf", "seqmem")
    return next((part for part in reversed(Path(file).parts) if part in packages), None)


def explain(error: Exception, overrides: Sequence[str] = (), config_dir: str | None = None) -> str:
    """An error of Hydra or OmegaConf about these ``overrides``, in one line for the user."""
    return joined(_explain(error, overrides, config_dir))


def _explain(error: Exception, overrides: Sequence[str], config_dir: str | None) -> str:
    if line := own_files.mistake(overrides, config_dir):
        return line
    if isinstance(error, YAMLError):
        return own_files.in_words(error)
    text = repeated(str(error).strip())
    if match := re.match(r"In '?([^':]+)'?: (.*)", text, re.DOTALL):
        return _in_a_file(error, match[1], match[2].strip(), overrides, config_dir)
    first = text.partition("\n")[0]
    if re.match(r"Primary config (module|directory)", first):
        return "--config-path replaces all of seqmem's own settings: -cd DIR adds yours to them"
    if match := re.match(r"Additional config directory '(.*)' not found", first):
        folder = own_files.shown(Path(match[1]))
        return f"-cd {folder}: {'must be a directory' if folder.exists() else 'no such directory'}"
    if isinstance(error, MissingConfigException):
        return _missing(error, first, config_dir)
    if text.startswith("Could not override ''"):
        return f"cannot read '{next((one for one in overrides if one.startswith('=')), '=')}': {_KEY_AND_VALUE}"
    if match := re.match(r"Could not override '([^']+)'", text) or re.match(r"Key '([^']+)' is not in struct", text):
        return unknown_setting(_full_key(text) or match[1], overrides, config_dir)
    if match := re.match(r"Key '([^']+)' not in", text):
        return unknown_setting(_full_key(text) or match[1], overrides, config_dir)
    if match := re.match(r"Could not delete '(.*)'\. No match", first):
        return f"~{match[1]}: is not chosen, so it cannot be left out"
    if match := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"'{match[1]}' exists already: write {match[1]}=... without the +"
    if match := re.match(r"Multiple values for (\S+?)\. ", text) or re.match(r"force-add of .*: '\+\+([^=]+)=", text):
        return _with_plus(match[1], overrides) or " ".join(text.split())
    if (sweep := _search_range(text, overrides)) is not None:
        return f"{sweep}: a range is for a search, -m hydra/sweeper=optuna; a sweep takes values, e.g. seq_len=10,20"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} is several values: add -m to run each, or write [...] for one list"
    if match := re.match(r"Sweep parameters '(.+)' requires --multirun", first):
        return f"{match[1]} is several values: add -m to run each"
    if match := re.match(r"Sweeping over Hydra's configuration is not supported : '(.+)'", first):
        return f"{match[1]}: Hydra's own settings have one value for a whole sweep"
    if first == "range() arg 3 must not be zero":
        return f"{next((one for one in overrides if 'range(' in one), 'range()')}: the step of a range must not be 0"
    if match := re.match(r"Override (\S+) looks like a config group override, but config group '(\S+)'", first):
        return f"cannot read '{match[1]}': {_no_group(match[2])}"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': {_misread(error)}"
    if match := re.match(r"Error merging override (.*)", text):
        return f"{match[1]}: {_unwrap(str(error.__cause__ or ''))}"
    if text.startswith("Config group override must be a string"):
        return "a cell, task or optimizer is chosen by its name, e.g. cell=lstm"
    if isinstance(error, OmegaConfBaseException):
        where = getattr(error, "full_key", None)
        return f"{where}: {_unwrap(text)}" if where else _unwrap(text)
    odd = next((one for one in overrides if "=[" in one or "={" in one), None)
    if odd is not None and not isinstance(error, HydraException):
        return f"cannot read {odd}: a cell, task or optimizer is chosen by its name, e.g. cell=lstm"
    return text


def _missing(error: MissingConfigException, first: str, config_dir: str | None) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    known = error.options
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    if "/" in group and group.partition("/")[0] in GROUPS:  # a choice with a path in it
        group, _, name = (error.missing_cfg_file or "").partition("/")
    if known is None:  # Hydra does not say where several are chosen, probe=[gradient,mine]
        if group not in GROUPS:
            return first
        known = [path.stem for folder in folders for path in sorted((folder / group).glob("*.yaml"))]
    known = [*known, *(choice for folder in folders for choice in own_files.in_subfolders(folder, group))]
    if line := own_files.elsewhere(group, name, config_dir):
        return line
    options = sorted(own_choices.files(group, known))
    if group in PARTS and "." in name:
        return f"{group}: {name}: a file chooses a class of your own by '- override /{group}: custom' and its target"
    if group in PARTS and Path(f"{name}.py").is_file():
        return f"no {group} is called '{name}': a class in {name}.py is chosen by {group}={name}.CLASS"
    if not options:
        return f"no {group} is called '{name}', nor anything else: -cd DIR adds your own from DIR/{group}/NAME.yaml"
    extra = EXTRAS.get(f"{group}/{name}")
    missing = f" It comes with {install(extra)}." if extra else nearest(name, options)
    return f"no {group} is called '{name}'.{missing} One of: {', '.join(options)}"


def _in_a_file(error: Exception, config: str, text: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """An error in the file ``experiment/mine``, or in what it chooses."""
    file, chosen = own_files.file_of(config, config_dir), None
    group = f"{config.rpartition('/')[0]}/"
    if isinstance(error, MissingConfigException):
        wanted, _, name = (error.missing_cfg_file or "").rpartition("/")
        if wanted.removeprefix(group) not in GROUPS or wanted in GROUPS:
            return _missing(error, text.partition("\n")[0], config_dir)
        chosen = (wanted.removeprefix(group), name)
    elif match := re.match(r"Could not override '(?:[^'@]*/)?([^'@]+)(@[^']*)?'", text):
        if match[1] not in GROUPS:
            return f"{file}: {_no_group(match[1])}"
        chosen = (match[1], "NAME")
    elif match := re.match(r"Invalid overriding of (\S+):", text):
        chosen = (match[1], "NAME")
    if chosen is not None:
        return f"{file}: its defaults must have '- override /{chosen[0]}: {chosen[1]}'"
    if match := re.match(r"\w+ raised while composing config:\s*(.*)", text, re.DOTALL):
        key = _full_key(text)
        if re.match(r"Key '([^']+)' (not in|is not in struct)", match[1]):
            name = key or re.findall(r"'([^']+)'", match[1])[0]
            return f"{file}: {unknown_setting(name, overrides, config_dir)}"
        return f"{file}: {key}: {_unwrap(match[1])}" if key else f"{file}: {_unwrap(match[1])}"
    return f"{file}: {text}"


def _no_group(name: str) -> str:
    return f"there is no group '{name}'.{nearest(name, GROUPS)} One of: {', '.join(GROUPS)}"


def _with_plus(group: str, overrides: Sequence[str]) -> str | None:
    """``+cell=gru``, where there is a cell already."""
    plus = next((one for one in overrides if one.startswith((f"+{group}=", f"++{group}="))), None)
    return None if plus is None else f"'{group}' is chosen already: write {plus.lstrip('+')} without the +"


def _search_range(text: str, overrides: Sequence[str]) -> str | None:
    """The setting that has a range of real numbers, where that is what the error is about."""
    if not re.match(r"Sweep parameters|.*does not support sweep type|Ambiguous value", text):
        return None
    return next((one for one in overrides if "interval(" in one), None)


_FORMS = {
    "range": "range(3), or range(start,stop,step) of numbers",
    "choice": "choice(a,b)",
    "interval": "interval(start,end), of numbers",
    "glob": "glob(PATTERN)",
    "sort": "sort(3,1,2), of values of one kind",
    "tag": "tag(log,interval(1,2))",
}
"""Functions of Hydra's grammar -> how they are written."""


def _misread(error: OverrideParseException) -> str:
    """Why Hydra's grammar has no such setting."""
    if match := re.search(r"while evaluating '(\w+)\((.*)\)': (.*)", str(error)):
        if match[3].startswith("Unknown function"):
            return f"there is no function '{match[1]}' of settings, but {', '.join(_FORMS)}"
        if match[1] in _FORMS:
            return f"it is written {_FORMS[match[1]]}"
        return f"{match[2]} cannot be made {match[1]}"
    quotes = "; a value with special characters needs quotes of its own, e.g. 'outputs=\"my runs\"'"
    return f"{_KEY_AND_VALUE}{quotes * ('=' in str(error.override))}"


def unknown_setting(name: str, overrides: Sequence[str], config_dir: str | None) -> str:
    """The error message for an unknown setting, with the most similar setting that exists."""
    if name.startswith("hydra.sweeper.params"):
        return f"{name}: the settings of a sweep are typed themselves, e.g. -m seq_len=12,20, or stand in a file"
    chosen = [word for word in overrides if re.fullmatch(_CHOICE, word)]
    names = setting_names(chosen, config_dir)
    if name in names:
        return f"'{name}' is a setting of seqmem's, which --config-name replaces: begin its defaults with train"
    group, dot, rest = name.partition(".")
    siblings = [known.removeprefix(group + dot) for known in names if dot and known.startswith(group + dot)]
    line = f"there is no setting '{name}'."
    if hint := nearest(rest, siblings, group + dot) if siblings else nearest(name, names):
        return f"{line}{hint} See {command('train', '--help')}"
    if siblings:
        choice = next((word for word in reversed(chosen) if word.startswith(f"{group}=")), group)
        own = ", ".join(sibling for sibling in siblings if sibling != "name")
        elsewhere = _choices_with(group, rest)
        return f"{line} {choice} has {own or 'none'}" + (f"; {elsewhere} has it" if elsewhere else "")
    return f"{line} See {command('train', '--help')}"


def _choices_with(group: str, setting: str) -> str:
    """``model=encoder_decoder``: the choices of a group that have a setting; empty if none has, or more than three."""
    files = {own_files.choice_of(path, conf_dir(), group): path for path in own_files.files_of(conf_dir(), group)}
    able = [choice for choice, path in files.items() if setting in list(OmegaConf.load(path))]
    return f"{group}={' or '.join(able)}" if 0 < len(able) <= 3 else ""


def setting_names(chosen: Sequence[str], config_dir: str | None) -> list[str]:
    """The dotted names of all settings, for the chosen cell, task and optimizer."""
    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    try:
        with own_hydra():
            settings = OmegaConf.to_container(compose("train", overrides=[*search, *chosen]))
    except (HydraException, OmegaConfBaseException):  # no such cell, task or optimizer
        return setting_names([], None) if chosen or search else []

    def walk(node: dict[Any, Any], prefix: str = "") -> Iterator[str]:
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    assert isinstance(settings, dict)
    return list(walk(settings))


def _full_key(text: str) -> str | None:
    match = re.search(r"^\s*full_key: *(\S+)", text, re.MULTILINE)
    return match[1] if match else None


def _unwrap(text: str) -> str:
    """OmegaConf's type errors, reworded."""
    text = repeated(text).strip()
    # A newline before what OmegaConf appends, indented, is one of a value.
    message = re.match(r"(.*?)\n\s+(?:full_key|object_type|reference_type)\b", text, re.DOTALL)
    line = escaped(message[1]) if message else text.partition("\n")[0]
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", line):
        return f"'{match[1]}' is not {_KINDS.get(match[2], match[2])}"
    if match := re.match(r"Invalid value '(.*)', expected one of \[(.*)\]", line):
        return f"'{match[1]}' is not one of {match[2]}"
    if match := re.match(r"Value '(.*)' is not a valid bool", line):
        return f"'{match[1]}' is not true or false"
    if re.match(r"field '.*' is not Optional", line):
        return "must have a value"
    if "is not a ListConfig, list or tuple" in line:
        return "must be a list, e.g. [10,20]"
    if re.match(r"\w+ raised while resolving interpolation: \S*<lambda>\(\) missing", line):
        return "its interpolation lacks an argument, as in ${now:%Y}"
    if match := re.match(r"[Ww]hile dereferencing interpolation '(.*)': Incompatible value '(.*)' for field", line):
        return f"'{match[1]}' is {'null' if match[2] == 'None' else match[2]}"
    if line.endswith("does not support deletion"):
        return "cannot be left out: give it a value"
    if re.match(r"Cannot merge DictConfig with ListConfig", line):
        return "has a list where settings are expected, one a line: seq_len: 50"
    if re.match(r"(Cannot assign \w+ to|Invalid type assigned: \w+ is not a subclass of) ", line):
        return "must be several settings, e.g. {a:1,b:2}"
    if match := re.match(r"(\w+) raised while resolving interpolation: (.*)", line):
        return match[2].strip('"')
    return line[:1].lower() + line[1:]
