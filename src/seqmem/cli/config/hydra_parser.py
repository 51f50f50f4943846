"""Hydra's parser of a command line, on every Python."""

import argparse
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache

from hydra._internal.utils import get_args_parser


def parser() -> ArgumentParser:
    """A parser whose attributes are the caller's own, as ``error``; a command makes several."""
    return copy(_parser())


@cache
def _parser() -> ArgumentParser:
    with late_help():
        return get_args_parser()


@contextmanager
def late_help() -> Iterator[None]:
    """Inside, a help text may be an object that makes it when it is printed, as Hydra's of --shell-completion.

    From Python 3.14 on, argparse looks into it when an option is added.
    """
    container = vars(argparse)["_ActionsContainer"]
    check = vars(container).get("_check_help")
    if check is None:
        yield
        return
    container._check_help = lambda *_: None  # noqa: SLF001
    try:
        yield
    finally:
        container._check_help = check  # noqa: SLF001
