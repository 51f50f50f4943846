"""Hydra with less processor time for the same answers: a third of the suite's time went into composing settings.

Only for commands that are typed into a process of the tests; forked and started processes run Hydra as it is.
"""

from typing import Any

import omegaconf._utils
import yaml.cyaml
from hydra._internal.hydra import Hydra
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

_PARSER: Any = vars(yaml.cyaml)["CParser"]
_SLOW: Any = omegaconf._utils.get_yaml_loader()


class _Loader(_PARSER, _SLOW):
    """OmegaConf's loader on top of libyaml's parser instead of the one in Python."""

    def __init__(self, stream: Any) -> None:
        _PARSER.__init__(self, stream)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)


def install() -> None:
    """Parse YAML in C, and compose once a command instead of twice.

    ``Hydra.get_mode`` composes everything to read ``hydra.mode``, which no file of ours sets.
    """
    omegaconf._utils.get_yaml_loader = lambda: _Loader
    get_mode = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return get_mode(self, config_name, overrides) if any("hydra.mode" in word for word in overrides) else None

    Hydra.get_mode = mode
