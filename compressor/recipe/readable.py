"""What can still be read of settings of which some are wrong, so that the rest is checked too.

A user should hear of everything at once: a misspelt key must not hide that a file is missing. So
what is wrong is taken out, again and again, until what is left is valid.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import ErrorDetails, ValidationError

from compressor.setting_errors import KeyPath, Mistake, Variants, explain, locate

Settings = TypeVar("Settings", bound=BaseModel)

_ROUNDS = 20  # each takes something out; the rules within settings come after those of single keys
_MOST = 200  # mistakes that are explained


def readable_part(
    model: type[Settings],
    data: Mapping[str, Any],
    *,
    context: Mapping[str, Any],
    stand_ins: Mapping[KeyPath, Any],
    variants: Variants,
) -> tuple[Settings | None, list[Mistake]]:
    """Return what is right in `data` as a `model`, and everything that is wrong with it.

    What has to be there and is wrong or missing is replaced with its stand-in, a value that says
    nothing. None where something is missing that has none. A rule that was broken only because
    something was taken out is not told.
    """
    rest: dict[str, Any] = copy.deepcopy(dict(data))
    taken: set[KeyPath] = set()
    told: list[Mistake] = []
    for _ in range(_ROUNDS):
        try:
            found = model.model_validate_json(json.dumps(rest), strict=True, context=dict(context))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            explained = explain(errors[:_MOST], rest, model, variants)
            told += [item for item in explained if not _is_above(item.path, taken)]
            out = [_take_out(rest, details, stand_ins, taken) for details in errors]
            if not all(out):
                break
        else:
            return found, told
    return None, told


def _is_above(path: KeyPath, taken: set[KeyPath]) -> bool:
    return any(other[: len(path)] == path for other in taken)


def _take_out(
    data: dict[str, Any],
    details: ErrorDetails,
    stand_ins: Mapping[KeyPath, Any],
    taken: set[KeyPath],
) -> bool:
    """Remove or replace what `details` complains of; return False when all would have to go."""
    path, _ = locate(details, data)
    if details["type"] == "missing":
        missing = (*path, *details["loc"][-1:])
        path = missing if missing in stand_ins else path
    while path and (isinstance(path[-1], int) or path in taken):
        path = path[
            :-1
        ]  # an entry goes with its list, and what was replaced in vain with its owner
    if not path:
        return False
    owner: Any = data
    for key in path[:-1]:
        if key not in owner:
            return True  # it went with another mistake
        owner = owner[key]
    taken.add(path)
    if path in stand_ins:
        owner[path[-1]] = copy.deepcopy(stand_ins[path])
    else:
        owner.pop(path[-1], None)
    return True
