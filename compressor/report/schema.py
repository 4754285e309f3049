"""Checks a report that was read against the dataclasses that wrote it.

`compressor.measurements` is the one definition of `report.json`, so that the check cannot drift
from it; `schema.md` explains the keys.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from compressor.measurements import PER_EXAMPLE, RunReport

# A correlation and a gain in score can be negative; no size, count, time or limit can.
_SIGNED = frozenset(
    {
        "value", "drop", "upper_bound", "lower_bound", "score_before", "score_after",
        "lost_confidence", "before_confidence", "after_confidence", "baseline", "final",
        "score", "least_drop", "before_score", "after_score",
    }
)  # fmt: skip
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def problems(data: dict[str, Any]) -> list[str]:
    """Return what is wrong with the content of a `report.json`, one line for each key.

    Keys with a default are filled in when absent. Null stands for any measurement whose path is in
    `missing`.
    """
    reasons = data.get("missing")
    known = set(reasons) if isinstance(reasons, dict) else set()
    return list(_check_object(data, RunReport, "", known))


def _check_object(data: dict[str, Any], kind: type, place: str, missing: set[str]) -> list[str]:
    found: list[str] = []
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in PER_EXAMPLE:
            continue
        path = f"{place}.{field.name}" if place else field.name
        if field.name in data:
            found += _check(data[field.name], hints[field.name], path, missing)
        elif field.default is not dataclasses.MISSING:
            default = field.default
            data[field.name] = list(default) if isinstance(default, tuple) else default
        elif field.default_factory is not dataclasses.MISSING:
            data[field.name] = field.default_factory()
        else:
            found.append(f"{path}: missing")
    return found


def _check(value: Any, hint: Any, place: str, missing: set[str]) -> list[str]:
    if value is None and place in missing:
        return []
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return []
        [hint] = [item for item in arguments if item is not type(None)]
        return _check(value, hint, place, missing)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            return [_mismatch(place, "an object", value)]
        return _check_object(value, hint, place, missing)
    if origin is tuple:
        return _check_list(value, arguments[0], place, missing)
    if origin is Mapping:
        return _check_mapping(value, arguments[1], place, missing)
    if origin is Literal:
        allowed = " or ".join(repr(item) for item in arguments)
        return [] if value in arguments else [_mismatch(place, allowed, value)]
    if hint in (int, float):
        return _check_number(value, hint, place)
    return [] if isinstance(value, hint) else [_mismatch(place, _WORDS[hint], value)]


def _check_number(value: Any, hint: type, place: str) -> list[str]:
    accepted = (int, float) if hint is float else int
    if isinstance(value, bool) or not isinstance(value, accepted) or not math.isfinite(value):
        return [_mismatch(place, _WORDS[hint], value)]
    if value < 0 and place.rpartition(".")[2] not in _SIGNED:
        return [_mismatch(place, f"{_WORDS[hint]}, 0 or more", value)]
    return []


def _check_list(value: Any, hint: Any, place: str, missing: set[str]) -> list[str]:
    if not isinstance(value, list):
        return [_mismatch(place, "a list", value)]
    return [
        problem
        for index, item in enumerate(value)
        for problem in _check(item, hint, f"{place}[{index}]", missing)
    ]


def _check_mapping(value: Any, hint: Any, place: str, missing: set[str]) -> list[str]:
    if not isinstance(value, dict):
        return [_mismatch(place, "an object", value)]
    if hint is Any:
        return []
    return [
        problem
        for key, item in value.items()
        for problem in _check(item, hint, f"{place}.{key}", missing)
    ]


def _mismatch(place: str, expected: str, value: Any) -> str:
    shown = repr(value)
    return f"{place}: expected {expected}, got {shown if len(shown) <= 40 else shown[:37] + '...'}"
