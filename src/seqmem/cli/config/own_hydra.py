"""Hydra with our configuration alone, inside an application that may use Hydra, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

from .schema import conf_dir, register


def hydra_of(name: str, config_dir: str | None) -> Hydra:
    """Hydra with our configuration, and that of a user's ``config_dir``; it is the process's from now on."""
    path = create_automatic_config_search_path(calling_file=None, calling_module=None, config_path=str(conf_dir()))
    if config_dir is not None:
        folder = f"file://{Path(config_dir).absolute()}"
        path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    return Hydra.create_main_hydra2(task_name=name, config_search_path=path)


@contextmanager
def own_hydra(config_dir: str | None = None) -> Iterator[None]:
    """Inside, Hydra has only our configuration, and that of ``config_dir``; afterwards, an application's own set-up of
    Hydra is restored."""
    register()
    known = Singleton._instances  # noqa: SLF001 (get_state makes a deep copy of everything)
    before = {kind: known.pop(kind) for kind in (GlobalHydra, VersionBase) if kind in known}
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            if config_dir is not None:
                GlobalHydra.instance().clear()
                hydra_of("app", config_dir)
            yield
    finally:
        for kind in (GlobalHydra, VersionBase):
            known.pop(kind, None)
        known.update(before)
