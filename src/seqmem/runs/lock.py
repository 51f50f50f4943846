"""Asks who holds a lock file, without taking it from anyone. No torch."""

import errno
import os
from pathlib import Path

from .files import not_followed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SHARED = ("nfs", "lustre", "beegfs", "fuse", "smb", "cifs", "9p", "gpfs", "ceph", "afs", "gfs", "ocfs")
"""How the types of file systems begin that several machines can mount."""


def is_held(lock: Path) -> bool | None:
    """True if a process holds ``lock``. The system releases it however that process ends, whatever its id means today.

    It is tried as a reader, so that readers do not get in each other's way; a writer that meets one tries again.

    Returns:
        None where that cannot be asked: the file system has no such locks, or the file may not be read.
    """
    if fcntl is None:
        return None
    try:
        file = open(lock, "rb", opener=_at_once)  # noqa: SIM115
    except FileNotFoundError:
        return False
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return True if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return False


def _at_once(path: str, flags: int) -> int:
    return not_followed(path, flags | getattr(os, "O_NONBLOCK", 0))


def may_be_shared(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """True on a file system that another machine may have mounted, and whose locks may not reach that far.

    False where that cannot be told.
    """
    try:
        device = path.stat().st_dev
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return False
    own = f"{os.major(device)}:{os.minor(device)}"
    types = [line.partition(" - ")[2].split(" ")[0] for line in lines if line.split(" ")[2:3] == [own]]
    return any(kind.startswith(_SHARED) for kind in types)
