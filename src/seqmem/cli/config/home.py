"""``~`` at the start of a path: a shell expands it at the start of a word, but not in ``outputs=~/runs``."""

import os


def expanded(given: str) -> str:
    """``given`` with the directory that ``~`` or ``~user`` at its start names.

    Raises:
        ValueError: there is no such user, or no home is known; one line.
    """
    path = os.path.expanduser(given)  # noqa: PTH111  (a path of its own would lose what makes "./~" a folder's name)
    if path.startswith("~"):
        who = given.partition("/")[0]
        raise ValueError(f"{given}: there is no home directory {who} here; ./{given} is a folder of that name")
    return path
