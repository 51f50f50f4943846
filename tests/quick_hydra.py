"""Hydra with less processor time for the same settings: composing them took a third of the suite's time.

For commands that are typed into a process of the tests, or forked; a process that is started anew runs Hydra as it is.
"""

import copy
import hashlib
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import omegaconf._utils
import omegaconf.base
import omegaconf.grammar_parser
import yaml
import yaml.cyaml
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from seqmem.cli.config.schema import conf_dir

_PARSER: Any = vars(yaml.cyaml)["CParser"]
_SLOW: Any = omegaconf._utils.get_yaml_loader()


class _Loader(_PARSER, _SLOW):
    """OmegaConf's loader on top of libyaml's parser instead of the one in Python."""

    def __init__(self, stream: Any) -> None:
        _PARSER.__init__(self, stream)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)


def install() -> None:
    """Parse YAML in C; cache what our own files compose to, and parsed interpolations."""
    omegaconf._utils.get_yaml_loader = lambda: _Loader
    for module in (omegaconf._utils, omegaconf.base):
        vars(module)["parse"] = cache(omegaconf.grammar_parser.parse)
    OverridesParser.parse_rule = _cached_rules(OverridesParser.parse_rule)
    CachingConfigRepository.__init__ = _shallow
    ConfigRepository.load_config = _cached_files(ConfigRepository.load_config)
    compositions = _Compositions()
    config_loader_impl.create_defaults_list = compositions.create_defaults_list  # pyright: ignore[reportPrivateImportUsage]
    ConfigLoaderImpl._compose_config_from_defaults_list = compositions.compose
    DictConfig.__deepcopy__ = _pickled_copy(DictConfig.__deepcopy__)  # Hydra copies every job's settings five times


def _pickled_copy(original: Callable[..., DictConfig]) -> Any:
    """A copy by pickle, which is three times as fast. As in the original the parent is kept, and not copied."""

    def copied(self: Any, memo: dict[int, Any]) -> DictConfig:
        parent = self.__dict__["_parent"]
        self.__dict__["_parent"] = None
        try:
            result = pickle.loads(pickle.dumps(self))
        except (pickle.PicklingError, AttributeError, TypeError):  # a plugin's class, as below
            self.__dict__["_parent"] = parent
            return original(self, memo)
        finally:
            self.__dict__["_parent"] = parent
        result.__dict__["_parent"] = parent
        return result

    return copied


def _shallow(self: CachingConfigRepository, delegate: IConfigRepository) -> None:
    """A copy that keeps its sources until ``initialize_sources`` replaces them; Hydra makes a deep one."""
    self.delegate = copy.copy(delegate)
    self.cache = {}


def _cached_rules(original: Callable[..., Any]) -> Any:
    @cache
    def parse(text: str, rule: str) -> Any:
        return original(OverridesParser.create(), text, rule)

    def parse_rule(_: OverridesParser, s: str, rule_name: str) -> Any:
        return copy.copy(parse(s, rule_name))

    return parse_rule


def _cached_files(original: Callable[..., ConfigResult | None]) -> Any:
    """Not in the class of a source: Hydra makes that anew when it scans its plugins."""
    cached: dict[tuple[str, str], bytes] = {}  # pickle copies faster than deepcopy

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.path != str(conf_dir()):
            return original(self, config_path)
        key = source.provider, config_path
        if key not in cached:
            cached[key] = pickle.dumps(original(self, config_path))
        return pickle.loads(cached[key])

    return load_config


class _Compositions:
    """What the choices of groups (``cell=rnn``) compose to, before single settings (``seed=1``) are applied.

    Only of files that do not change under test: ours, and those of installed packages. Cached in files, too, for the
    other processes that run tests, and for later runs of them.
    """

    def __init__(self) -> None:
        self.cache = _Cache()
        self.lists: dict[Any, DefaultsList] = {}
        self.keys: dict[int, Any] = {}  # identity of the defaults in ``lists`` -> key
        self.settings: dict[Any, bytes] = {}
        self.compose = self._compose(ConfigLoaderImpl._compose_config_from_defaults_list)

    def create_defaults_list(self, *, repo: Any, overrides_list: list[Override], **rest: Any) -> DefaultsList:
        sources = [(source.scheme(), source.path) for source in repo.get_sources() if source.available()]
        if any(scheme == "file" and path != str(conf_dir()) for scheme, path in sources):
            return defaults_list.create_defaults_list(repo=repo, overrides_list=overrides_list, **rest)
        choices: list[Override] = []
        others: list[Override] = []
        for override in overrides_list:
            if not override.is_sweep_override():
                is_choice = repo.group_exists(override.key_or_group) and not isinstance(override.value(), dict)
                (choices if is_choice else others).append(override)
        key = (*sources, *(override.input_line for override in choices), *sorted(rest.items()))
        if key not in self.lists:
            pickled = self.cache.read("defaults", key)
            if pickled is None:
                made = defaults_list.create_defaults_list(repo=repo, overrides_list=choices, **rest)
                self.cache.write("defaults", key, pickle.dumps(made))
            else:
                made = pickle.loads(pickled)
            self.lists[key] = made
            self.keys[id(made.defaults)] = key
        cached = self.lists[key]
        return DefaultsList(cached.defaults, cached.defaults_tree, others, cached.overrides)

    def _compose(self, original: Callable[..., DictConfig]) -> Any:
        def compose(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: Any) -> DictConfig:
            key = self.keys.get(id(defaults))
            if key is None:
                return original(loader, defaults=defaults, repo=repo)
            if key not in self.settings:
                pickled = self.cache.read("settings", key)
                if pickled is None:
                    settings = original(loader, defaults=defaults, repo=repo)
                    try:
                        pickled = pickle.dumps(settings)
                    except pickle.PicklingError:  # a plugin's class: Hydra runs a plugin's module again at every scan
                        return settings
                    self.cache.write("settings", key, pickled)
                self.settings[key] = pickled
            return pickle.loads(self.settings[key])

        return compose


class _Cache:
    """Files below .pytest_cache/, valid for these sources, configuration files and installed packages."""

    def __init__(self) -> None:
        root = Path(__file__).parents[1]
        digest = hashlib.sha256(f"{sys.version}{Path(yaml.__file__).parents[1].stat().st_mtime_ns}".encode())
        for path in sorted([*conf_dir().rglob("*.yaml"), *(root / "src").rglob("*.py"), Path(__file__)]):
            digest.update(f"{path}\n".encode() + path.read_bytes())
        self._place = root / ".pytest_cache" / "compositions" / digest.hexdigest()[:16]
        for old in self._place.parent.glob("*"):
            if old != self._place:
                shutil.rmtree(old, ignore_errors=True)  # another process may remove it, too
        self._place.mkdir(parents=True, exist_ok=True)

    def _path(self, kind: str, key: Any) -> Path:
        return self._place / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.{kind}"

    def read(self, kind: str, key: Any) -> bytes | None:
        try:
            return self._path(kind, key).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, kind: str, key: Any, content: bytes) -> None:
        path = self._path(kind, key)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_bytes(content)
        whole.replace(path)
