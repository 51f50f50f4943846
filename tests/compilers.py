"""The C++ compilers of this machine, and whether its native kernels are there.

Where there is a compiler, missing kernels are an error (test_kernel_build holds that). Without one there is nothing
native to test, and everything else must pass on torch's kernels; the end of a test run says which it was.
"""

import shutil

import pytest

from seqmem.kernels.loading import Library, describe, load

COMPILERS = [path for name in ("g++", "clang++") if (path := shutil.which(name)) is not None]
NATIVE = isinstance(load(), Library)
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C++ compiler here: install g++ or clang++")
needs_kernels = pytest.mark.skipif(not NATIVE, reason="no native kernels here: python -m seqmem.kernels.build says why")


def summary() -> str:
    """What of the native kernels a test run on this machine covers."""
    covers = "their laws were tested" if NATIVE else "the laws of native kernels were NOT tested"
    return f"kernels: {describe()}: {covers}; compilers: {', '.join(COMPILERS) or 'none, so builds were NOT tested'}"
