"""Typed configurations of plain values that need no conversion: OmegaConf takes fifty times as long for the same."""

from collections.abc import Mapping
from dataclasses import MISSING as REQUIRED
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import MISSING

T = TypeVar("T")

_PLAIN = (str, int, float, bool, NoneType)


class Unsuitable(ValueError):
    """A value that OmegaConf has to convert or to refuse, or one that is missing."""


def instance(kind: type[T], values: Any) -> T:
    """What ``OmegaConf.to_object`` makes of ``values`` merged into the dataclass ``kind``.

    Raises:
        Unsuitable: it may not be this.
    """
    known = _fields(kind)
    if type(values) is not dict or not values.keys() <= known.keys():
        raise Unsuitable
    if any(field.default == MISSING for name, (field, _) in known.items() if name not in values):
        raise Unsuitable
    return kind(**{name: _value(*known[name], value) for name, value in values.items()})


@cache
def _fields(kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    """Name -> (field, its type)"""
    types = get_type_hints(kind)
    return {field.name: (field, types[field.name]) for field in fields(kind)}


def _value(field: Field[Any], kind: Any, value: Any) -> Any:
    if type(value) is dict and field.default_factory is not REQUIRED and not is_dataclass(kind):
        default = field.default_factory()
        value = {**default, **value} if isinstance(default, dict) else value  # merging keeps what is not given
    return _of_type(kind, value)


def _of_type(kind: Any, value: Any) -> Any:
    """``value``, with enums made of their names.

    Raises:
        Unsuitable: it is not exactly of the type ``kind``.
    """
    if kind is Any:
        return _checked(value)
    if isinstance(kind, type) and is_dataclass(kind):
        return instance(kind, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if type(value) is not str or value not in kind.__members__:
            raise Unsuitable
        return kind[value]
    if isinstance(kind, UnionType):
        one = next((each for each in get_args(kind) if type(value) is (get_origin(each) or each)), None)
        if one is None:
            raise Unsuitable
        return _of_type(one, value)
    if type(value) is not (get_origin(kind) or kind):
        raise Unsuitable
    if inner := get_args(kind):  # a list or a dictionary: its elements have the last type
        for each in value.values() if isinstance(value, Mapping) else value:
            _of_type(inner[-1], each)
    return _checked(value)


def _checked(value: Any) -> Any:
    """``value``, if it is made of plain values alone, without what OmegaConf would read as more than itself."""
    if type(value) is dict:
        return {_key(key): _checked(inner) for key, inner in value.items()}
    if type(value) is list:
        return [_checked(inner) for inner in value]
    if type(value) not in _PLAIN or (type(value) is str and (value == MISSING or "${" in value)):
        raise Unsuitable
    return value


def _key(key: Any) -> str:
    if type(key) is not str:
        raise Unsuitable
    return key
