"""Types and shapes that are checked while the tests run: in the first calls of each function that names a shape, and of
a dataclass's constructor, in every test file.

Other types are pyright's: checking them, too, took a tenth of the suite's time. Checking each call took a third; a
training calls the same functions thousands of times. jaxtyping's import hook decorates every function of seqmem. The
decorator here makes one with shapes checkable when it is first called, and gives it its own code back once enough calls
were checked, so that later ones cost nothing.

conftest.py imports this module before any of seqmem.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import cache, wraps
from inspect import isgeneratorfunction
from random import Random
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any, ForwardRef, get_args, get_type_hints

import jaxtyping
from beartype import beartype
from beartype._check.code import codemain

CALLS = 8
"""Calls of a function that are checked in one test file."""

NESTED = 3
"""Definitions of an inner function that are made checkable in one test file: each takes half a millisecond."""

_jaxtyped = jaxtyping.jaxtyped
_detours: "list[_Detour]" = []
_nested: Counter[int] = Counter()
"""Identity of an inner function's code -> its definitions. A code's hash is computed from its constants each time."""


class _Detour:
    """Checks the next calls of a function, whose code only calls this object until then."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.own_code = function.__code__
        self.original = _copy(function)
        self.checked: Callable[..., Any] | None = None
        template = _template(len(self.own_code.co_freevars), generates=isgeneratorfunction(function))
        constants = tuple(self if constant == _CALLED else constant for constant in template.co_consts)
        self.code = template.replace(co_name=self.own_code.co_name, co_consts=constants)
        function.__dict__["__wrapped__"] = self.original  # for inspect.signature
        self.start_again()

    def start_again(self) -> None:
        self.left = CALLS
        self.function.__code__ = self.code

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left <= 0:
            self.function.__code__ = self.own_code
        if self.checked is None:
            self.checked = _checked(self.original)
        return self.checked(*args, **kwargs)


_CALLED = "what a detour calls"


@cache
def _template(variables: int, *, generates: bool) -> CodeType:
    """The code of a detour, with as many variables of a closure as the function has, and a generator's for one: Python
    wants that."""
    names = [f"_{at}" for at in range(variables)]
    lines = [
        f"def outer({', '.join(names)}):",
        "  def detour(*args, **kwargs):",
        f"    checked = {_CALLED!r}",
        "    return (yield from checked(*args, **kwargs))" if generates else "    return checked(*args, **kwargs)",
        *(f"    {name}" for name in names),
        "  return detour",
    ]
    defined: dict[str, Any] = {}
    exec("\n".join(lines), defined)
    return defined["outer"](*names).__code__


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = dict(function.__annotations__)
    copy.__qualname__, copy.__module__, copy.__doc__ = function.__qualname__, function.__module__, function.__doc__
    return copy


def _resolved(hint: Any, function: FunctionType) -> Any:
    """A type for a name in quotes; Any where only the type checker imports it."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": hint}), function.__globals__, include_extras=True)[
            "it"
        ]
    except NameError:
        return Any


def _checked(function: FunctionType) -> Callable[..., Any]:
    """``function``; it raises where an argument or the result has another type, or shapes contradict each other.

    A generator is left as it is: beartype checks its arguments at its first ``next``, among the axes of the function
    that asks for that.
    """
    if isgeneratorfunction(function):
        return function
    function.__annotations__ = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
    typed = beartype(function)

    def call(*args: Any, **kwargs: Any) -> Any:
        with _jaxtyped("context"):  # an axis of one name has one size
            return typed(*args, **kwargs)

    return call


def _inner(function: FunctionType) -> Callable[..., Any]:
    """An inner function, which its outer one defines anew at each call: a detour would keep what it refers to."""
    left = CALLS
    checked: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left, checked
        if not left:
            return function(*args, **kwargs)
        left -= 1
        if checked is None:
            checked = _checked(function)
        return checked(*args, **kwargs)

    return call


def _has_shapes(hint: Any) -> bool:
    """Whether a type has a shape in it, as in ``list[Float[Tensor, "batch"]]``; a name in quotes may."""
    if isinstance(hint, str | ForwardRef):
        return True
    return isinstance(hint, type(jaxtyping.AbstractArray)) or any(map(_has_shapes, get_args(hint)))


def _first_calls(**_: Any) -> Callable[[Any], Any]:
    def prepared(kind: Any) -> Any:
        if isinstance(kind, FunctionType):
            if not any(map(_has_shapes, kind.__annotations__.values())):
                return kind
            if "<locals>" not in kind.__qualname__:
                _detours.append(_Detour(kind))
                return kind
            _nested[id(kind.__code__)] += 1
            return kind if _nested[id(kind.__code__)] > NESTED else _inner(kind)
        made = vars(kind).get("__init__") if dataclasses.is_dataclass(kind) else None
        if isinstance(made, FunctionType) and not hasattr(made, "__wrapped__"):  # dataclass() wrote it
            _detours.append(_Detour(made))
        return kind

    return prepared


jaxtyping.jaxtyped = _first_calls  # the import hook decorates with it
# beartype checks one element of a list, which it would draw from Python's global generator.
codemain.getrandbits = Random(0).getrandbits  # pyright: ignore[reportPrivateImportUsage]


def start_again() -> None:
    """Check the next calls, too: at the start of a test file."""
    _nested.clear()
    for detour in _detours:
        detour.start_again()
