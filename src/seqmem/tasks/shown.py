"""Tasks for people: typed text as tokens, and answers that are named in a sequence.

Axes: T time. Tensors here belong to one sequence.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Naming:
    """How answers are named and queried, for a task whose last token asks for one of the answers named before it.

    Args:
        phrases: for each answer, the consecutive tokens that name it.
        asks: query token -> the answers it may refer to.
    """

    phrases: Sequence[Sequence[int]]
    asks: Mapping[int, Sequence[int]]

    def candidates(self, tokens: Sequence[int]) -> list[int]:
        """The answers that the sequence names and its last token may refer to: exactly one in a valid sequence."""
        *before, last = tokens
        return [answer for answer in self.asks.get(last, ()) if _occurs(self.phrases[answer], before)]


def _occurs(phrase: Sequence[int], tokens: Sequence[int]) -> bool:
    size = len(phrase)
    return any(list(phrase) == list(tokens[start : start + size]) for start in range(len(tokens) - size + 1))


def split_words(text: str, vocabulary: Sequence[str]) -> list[str]:
    """``text`` split at white space, or into single letters if every word of ``vocabulary`` is one letter."""
    if max(map(len, vocabulary)) == 1:
        return [letter for letter in text if not letter.isspace()]
    return text.split()


def numbers_of(text: str, task: str, others: Mapping[str, float] | None = None) -> list[float]:
    """The numbers of a typed sequence.

    Args:
        task: what the command line calls it, for the error messages.
        others: words that stand for numbers.

    Raises:
        ValueError: the text is empty, or a word is no number.
    """
    numbers = []
    for word in text.split():
        try:
            numbers.append((others or {})[word] if word in (others or {}) else float(word))
        except ValueError:
            raise ValueError(f"'{word}' is no number of task={task}: write 0.42") from None
    if not numbers:
        raise ValueError("the text is empty")
    return numbers


def alternatives(words: Sequence[str], most: int = 6) -> str:
    """A few of the words: ``brother or sister``; ``boat, cat, door and 20 others``; ``nothing`` if there is none."""
    if len(words) > most:
        return f"{', '.join(words[: most - 1])} or one of {len(words) - most + 1} others"
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:]))) or "nothing"


def tokens_of(
    words: Sequence[str], vocabulary: Sequence[str], *, task: str, occurring: Collection[int] | None = None
) -> Int[Tensor, " T"]:
    """Look up each word's place in ``vocabulary``, ignoring case and surrounding punctuation where necessary.

    Args:
        task: its name, for the error messages.
        occurring: the tokens that its sequences have, where these are not all; a model has learned no other.

    Raises:
        ValueError: ``words`` is empty, or contains words outside ``vocabulary``; the message suggests close matches.
    """
    exact = {word: token for token, word in enumerate(vocabulary) if occurring is None or token in occurring}
    lower = {word.lower(): token for word, token in exact.items()}
    tokens, unknown = [], {}
    for typed in words:
        for word in (typed, typed.strip(",.;:!?\"'")):  # unstripped first: ! and . are words of some tasks
            token = exact.get(word, lower.get(word.lower()))
            if token is not None:
                tokens.append(token)
                break
        else:
            unknown[typed] = difflib.get_close_matches(typed.lower(), list(lower), 3, 0.5)
    if unknown:
        described = [f"'{word}'" + (f" (near: {', '.join(near)})" if near else "") for word, near in unknown.items()]
        raise ValueError(f"task={task} has no word {', '.join(described)}")
    if not tokens:
        raise ValueError("the text is empty")
    return torch.tensor(tokens)
