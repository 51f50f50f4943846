"""Build hook for Hatchling: compiles the native kernels for a wheel or an editable install. Without a compiler it warns
and builds a pure Python wheel, which uses torch's kernels.
"""

import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

KERNELS = "seqmem/kernels"

SETTING_UP = "SEQMEM_SETTING_UP"
"""Set by scripts/setup.sh, which compiles the kernels itself while pip works."""


class NativeKernels(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sources = Path(self.root) / "src" / KERNELS
        builder = _load(sources / "build.py")
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if version == "editable" and (SETTING_UP in os.environ or builder.is_built(sources)):
            return
        # Build a wheel's library elsewhere: an editable install may be using the one in the checkout.
        self._folder = tempfile.TemporaryDirectory(prefix="seqmem-wheel-")
        try:
            library = builder.build(sources, sources if version == "editable" else Path(self._folder.name))
        except builder.BuildError as error:
            self.app.display_warning(f"seqmem: no native kernels, torch's will be used: {error}")
            return
        if version == "editable":
            return
        build_data["force_include"][str(library)] = f"{KERNELS}/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"  # loaded by ctypes, so any Python

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _platform() -> str:
    """The tag of this machine; the library is not checked against the rules of manylinux or musllinux."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("seqmem_kernels_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
