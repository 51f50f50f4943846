"""Hydra with our configuration alone, inside an application that may use Hydra, too."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

from .schema import conf_dir, register


@contextmanager
def own_hydra() -> Iterator[None]:
    """Inside, Hydra has only our configuration; afterwards, an application's own set-up of Hydra is restored."""
    register()
    known = Singleton._instances  # noqa: SLF001 (get_state makes a deep copy of everything)
    before = {kind: known.pop(kind) for kind in (GlobalHydra, VersionBase) if kind in known}
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        for kind in (GlobalHydra, VersionBase):
            known.pop(kind, None)
        known.update(before)
