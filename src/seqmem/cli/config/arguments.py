"""Command lines of the plain verbs."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A mistake is one line and exit code 2; argparse would print the whole usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")
