"""Measured facts as plain JSON and back, so that a finished step can be kept on disk.

The dataclasses of `compressor.measurements` are the one definition: their annotations say how each
value is read back, so that a new fact needs nothing here. Arrays go apart, by name.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Fact = TypeVar("Fact")

_ARRAY = "array"  # the key of a reference to an array, in place of its values


def to_plain(value: Any, arrays: Arrays) -> Any:
    """Return `value` as JSON types; the arrays that it holds are added to `arrays`."""
    if isinstance(value, np.ndarray):
        name = f"{len(arrays)}"
        arrays[name] = value
        return {_ARRAY: name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name), arrays) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, arrays) for item in value]
    return value


def from_plain(kind: type[Fact], value: Any, arrays: Mapping[str, NDArray[Any]]) -> Fact:
    """Return the `kind` (a dataclass) that `to_plain` made `value` and `arrays` from.

    Raises `ValueError` when they are not of such a value, as after a change of the dataclass.
    """
    try:
        read: Fact = _read(kind, value, arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a stored {kind.__name__}: {error!r}") from error
    return read


def _read(hint: Any, value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        [hint] = [item for item in arguments if item is not type(None)]
        return _read(hint, value, arrays)
    if origin is np.ndarray:
        return arrays[value[_ARRAY]]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        return hint(**{name: _read(hints[name], item, arrays) for name, item in value.items()})
    if origin is tuple:
        return tuple(_read(arguments[0], item, arrays) for item in value)
    if origin is Mapping:
        return {key: _read(arguments[1], item, arrays) for key, item in value.items()}
    return value
