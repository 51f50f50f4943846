"""The sizes of CogScale's tasks. No torch: the settings of a run need them, too.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758), as in version 0.2.0 of their package.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Given:
    """What a size fixes.

    Args:
        seq_len: timesteps of a sequence as published.
        symbols: different symbols, objects or colours, or the largest number; 0: real numbers.
        length: symbols to read, where longer sequences have no more of them, of a pattern, or of the whole signal.
        delay: timesteps between reading and answering, or in advance.
        count: of what is marked, paired or nested; of positions.
    """

    seq_len: int
    symbols: int = 0
    length: int = 0
    delay: int = 0
    count: int = 0


SIZES = ("small", "medium", "large")

PUBLISHED: Mapping[str, Mapping[str, Given]] = {
    "adding_problem": {
        "small": Given(12, symbols=3),
        "medium": Given(22, symbols=8),
        "large": Given(52, symbols=20),
    },
    "associative_recall": {
        "small": Given(16, symbols=3, count=3),
        "medium": Given(32, symbols=14, count=7),
        "large": Given(64, symbols=30, count=15),
    },
    "bracket_matching": {
        "small": Given(52, symbols=2, count=5),
        "medium": Given(102, symbols=2, count=10),
        "large": Given(302, symbols=2, count=30),
    },
    "chaotic_forecasting": {
        "small": Given(90, length=200, delay=5),
        "medium": Given(900, length=2000, delay=15),
        "large": Given(9000, length=20000, delay=50),
    },
    "continuous_pattern_completion": {
        "small": Given(60, length=4),
        "medium": Given(150, length=10),
        "large": Given(500, length=20),
    },
    "continuous_postcasting": {
        "small": Given(50, delay=5),
        "medium": Given(100, delay=15),
        "large": Given(300, delay=50),
    },
    "cross_situation": {
        "small": Given(17, symbols=2, count=2),
        "medium": Given(17, symbols=4, count=3),
        "large": Given(17, symbols=6, count=5),
    },
    "discrete_pattern_completion": {
        "small": Given(60, symbols=3, length=4),
        "medium": Given(150, symbols=8, length=10),
        "large": Given(500, symbols=20, length=25),
    },
    "discrete_postcasting": {
        "small": Given(50, symbols=3, delay=5),
        "medium": Given(100, symbols=8, delay=15),
        "large": Given(300, symbols=8, delay=50),
    },
    "induction_heads": {
        "small": Given(40, symbols=3),
        "medium": Given(100, symbols=8),
        "large": Given(250, symbols=20),
    },
    "selective_copy": {
        "small": Given(51, symbols=3, delay=5, count=5),
        "medium": Given(101, symbols=8, delay=10, count=10),
        "large": Given(301, symbols=20, delay=30, count=30),
    },
    "simple_copy": {
        "small": Given(50, symbols=3, length=22),
        "medium": Given(111, symbols=8, length=50),
        "large": Given(331, symbols=20, length=150),
    },
    "sinus_forecasting": {
        "small": Given(90, length=200, delay=5),
        "medium": Given(900, length=2000, delay=15),
        "large": Given(9000, length=20000, delay=50),
    },
    "sorting_problem": {
        "small": Given(21, symbols=3, length=10),
        "medium": Given(41, symbols=8, length=20),
        "large": Given(101, symbols=20, length=50),
    },
}
"""Task -> size -> what it fixes."""


def usual_length(task: str, size: object) -> int:
    """The published ``seq_len``; of an unknown size that of the small one, as the task itself refuses the size."""
    sizes = PUBLISHED[task]
    return sizes[size if isinstance(size, str) and size in sizes else "small"].seq_len
