"""Types of facts that are kept as JSON and read back: strict, so that no text passes for a number.

A dataclass of facts names them in its annotations, and `read_facts` reads it with pydantic. Arrays
are kept apart, and a reference stands for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import (
    CoreSchema,
    ErrorDetails,
    PydanticKnownError,
    core_schema,
    to_jsonable_python,
)

from compressor.setting_errors import format_path

Arrays = dict[str, NDArray[Any]]
Facts = TypeVar("Facts")
Item = TypeVar("Item", bound=np.generic)

_ADAPTERS: dict[object, TypeAdapter[Any]] = {}
_ARRAY = "array"  # the key of a reference to an array, in place of its values
_WORDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
}


def _known_and_finite(value: float) -> float:
    """Refuse what is infinite; NaN is a measurement that came out as no number."""
    if math.isinf(value):
        raise PydanticKnownError("finite_number")
    return value


def _not_negative(value: float) -> float:
    if value < 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0.0})
    return _known_and_finite(value)


Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Number = Annotated[float, Strict(), AfterValidator(_known_and_finite)]
Quantity = Annotated[float, Strict(), AfterValidator(_not_negative)]  # 0 or more


class _ByReference:
    """Reads an array by its reference, from those in pydantic's context."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_referred)


def _referred(value: object, info: ValidationInfo) -> NDArray[Any]:
    arrays: Mapping[str, NDArray[Any]] = info.context or {}
    if not isinstance(value, dict) or value.get(_ARRAY) not in arrays:
        raise ValueError(f"no array is stored for {value!r}")
    return arrays[value[_ARRAY]]


PerExample = Annotated[NDArray[Item], _ByReference(), SkipJsonSchema()]


def to_plain(value: object, arrays: Arrays) -> Any:
    """Return facts as JSON types; the arrays that they hold are added to `arrays`."""

    def reference(array: object) -> dict[str, str]:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{type(array).__name__} cannot be kept as JSON")
        name = f"{len(arrays)}"
        arrays[name] = array
        return {_ARRAY: name}

    return to_jsonable_python(value, fallback=reference)


def read_facts(
    kind: type[Facts], plain: object, arrays: Mapping[str, NDArray[Any]] | None = None
) -> Facts:
    """Return the `kind` that `to_plain` made `plain` and `arrays` from.

    Raises `ValidationError`, a `ValueError`, when they are not of one.
    """
    # Made when first asked for: that of a whole report takes a tenth of a second.
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    read: Facts = _ADAPTERS[kind].validate_python(plain, context=arrays)
    return read


def problems(error: ValidationError) -> list[str]:
    """Say what is wrong with facts that were read, one line for each place."""
    return [f"{format_path(item['loc'])}: {_problem(item)}" for item in error.errors()]


def _problem(item: ErrorDetails) -> str:
    kind, value, limits = item["type"], repr(item["input"]), item.get("ctx", {})
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        expected = limits["expected"].replace(", ", " or ")
    elif kind == "greater_than_equal":
        noun = "a number" if isinstance(limits["ge"], float) else "a whole number"
        expected = f"{noun}, {limits['ge']:g} or more"
    else:
        expected = _WORDS.get(kind, "an object")
    return f"expected {expected}, got {value if len(value) <= 40 else value[:37] + '...'}"
