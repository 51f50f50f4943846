"""The C++ compilers of this machine. Without one there are no native kernels to test, and all else must pass."""

import shutil

import pytest

from seqmem.kernels.loading import Library, load

COMPILERS = [path for name in ("g++", "clang++") if (path := shutil.which(name)) is not None]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C++ compiler here: install g++ or clang++")
needs_kernels = pytest.mark.skipif(
    not isinstance(load(), Library), reason="no native kernels here: python -m seqmem.kernels.build says why"
)
