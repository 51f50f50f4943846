"""Where sockets can be: the system limits their paths to some hundred bytes, and TMPDIR may be longer."""

import os
import tempfile

from ..config.errors import ConfigError

_LONGEST = 103
"""The longest path of a socket, in bytes: 107 on Linux, 103 on macOS."""


def short_directory(below: int) -> str:
    """A directory for temporary files in which a socket can be: the usual one, unless its path is too long.

    Args:
        below: the length of the socket's path in the directory.

    Raises:
        ConfigError: every directory is too long, or cannot be written to.
    """
    usual = tempfile.gettempdir()
    for place in (usual, "/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR", "")):
        if len(os.fsencode(place)) + below <= _LONGEST and os.access(place, os.W_OK | os.X_OK):
            return place
    raise ConfigError(f"TMPDIR={usual}: too long for a socket below it: at most {_LONGEST - below} bytes")
