"""Puts what pydantic finds wrong into words: where, what was given, what is allowed.

pydantic says `loc` and `type`; a reader needs the key as the recipe spells it, the nearest known
word for a misspelt one, and one line for each mistake rather than one for each branch of a union.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, ValidationError

from compressor.runtime.manifest import each_key_once as each_key_once
from compressor.runtime.words import close_words as close_words
from compressor.runtime.words import did_you_mean as did_you_mean
from compressor.runtime.words import first_repeated as first_repeated
from compressor.runtime.words import names_shown as names_shown
from compressor.runtime.words import shortened_name
from compressor.runtime.words import show as show
from compressor.words import counted

KeyPath = tuple[str | int, ...]


# Classes that stand for others: the abstract class of a list's entries -> the classes allowed; a
# class of settings -> those beside which it stands, one of which another setting chooses.
Variants = Mapping[type[BaseModel], Sequence[type[BaseModel]]]

_RULE = "rule"  # the type of an error whose message is already in our words
_TYPES = {
    "string_type": "text",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "path_type": "a path",
    "dict_type": "a mapping",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong with the value at `path`."""

    path: KeyPath
    message: str


def format_path(path: KeyPath) -> str:
    """Spell a path as errors do.

    >>> format_path(("passes", 0, "ratio"))
    'passes[0].ratio'
    """
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += f".{shortened_name(key)}" if text else shortened_name(key)
    return text


def refuse_constant(word: str) -> None:
    """Raise `ValueError` for NaN and Infinity, which Python reads and JSON does not have.

    For `parse_constant` of `json.loads`.
    """
    raise ValueError(f"{word} is not JSON")


def rule_error(mistakes: Sequence[Mistake]) -> ValidationError:
    """Return an error that a pydantic validator can raise and whose paths survive nesting."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(_RULE, "{text}", {"text": mistake.message}),
            loc=mistake.path,
            input=None,
        )
        for mistake in mistakes
    ]
    return ValidationError.from_exception_data("rules", details)


def is_rule(details: ErrorDetails) -> bool:
    """Return whether this error came from `rule_error`."""
    return details["type"] == _RULE


def explain(
    errors: Sequence[ErrorDetails], data: object, model: type[BaseModel], variants: Variants
) -> list[Mistake]:
    """Return one mistake for each wrong place in `data`, which `model` refused with `errors`."""
    plain: list[Mistake] = []
    of_unions: dict[KeyPath, list[str]] = {}  # what the branches of a union say about one value
    for details in errors:
        if _repeats_another(details, errors):
            continue
        path, in_union = locate(details, data)
        message = _message(details, path, data, model, variants)
        if in_union:
            of_unions.setdefault(path, []).append(message)
        else:
            plain.append(Mistake(path, message))
    # A branch of another shape complains about the whole value; the branch that is meant goes
    # deeper, and is the only one to report.
    above = {path[:end] for path in of_unions for end in range(len(path))}
    return plain + [
        Mistake(path, _join(messages)) for path, messages in of_unions.items() if path not in above
    ]


def _repeats_another(details: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """Return whether pydantic says of a list's length what is wrong with its entries."""
    kind, place = details["type"], details["loc"]
    if kind == "too_short":  # entries that are wrong were not counted
        return bool(len(details["input"]) >= details["ctx"]["min_length"])
    # Of a list of two that is empty, both entries are missing: the last one tells the length.
    return (
        kind == "missing"
        and isinstance(place[-1], int)
        and any(
            other["type"] == kind and other["loc"] == (*place[:-1], place[-1] + 1)
            for other in errors
        )
    )


def _join(messages: Sequence[str]) -> str:
    """Merge `must be text, got 5` and `must be a list, got 5` into one sentence."""
    texts = list(dict.fromkeys(messages))
    heads = [text.rpartition(", got ") for text in texts]
    if len(texts) > 1 and len({tail for _, _, tail in heads}) == 1 and all(h for h, _, _ in heads):
        wanted = " or ".join(head.removeprefix("must be ") for head, _, _ in heads)
        return f"must be {wanted}, got {heads[0][2]}"
    return "; or ".join(texts)


def locate(details: ErrorDetails, data: object) -> tuple[KeyPath, bool]:
    """Map pydantic's location onto `data`; parts that only name a union's branch are left out."""
    path: list[str | int] = []
    in_union = False
    keys = details["loc"][:-1] if details["type"] == "missing" else details["loc"]
    here: Any = data
    for key in keys:
        if _has(here, key):
            here = here[key]
            path.append(key)
        elif details["type"] == _RULE:
            break  # a rule may speak of a default that the data does not spell out
        else:
            in_union = True
    return tuple(path), in_union


def _has(value: object, key: str | int) -> bool:
    if isinstance(value, list | tuple):
        return isinstance(key, int) and key < len(value)
    return isinstance(value, dict) and key in value


def _message(
    details: ErrorDetails, path: KeyPath, data: object, model: type[BaseModel], variants: Variants
) -> str:
    kind, given, facts = details["type"], details["input"], details.get("ctx", {})
    if kind in _BOUNDS:
        words, fact = _BOUNDS[kind]
        return f"must be {words} {facts[fact]:.12g}, got {show(given)}"
    if kind in _TYPES:
        quote = kind == "string_type" and isinstance(given, bool | int | float)
        hint = " (put it in quotes)" if quote else ""
        return f"must be {_TYPES[kind]}{hint}, got {show(given)}"
    if kind == "missing" and isinstance(details["loc"][-1], int):
        least = counted(details["loc"][-1] + 1, "entry", "entries")
        return f"must be a list of at least {least}, got {show(given)}"
    if kind == "missing":
        return f"required key '{details['loc'][-1]}' is missing"
    if kind == "extra_forbidden":
        found, key = _models_at(path[:-1], data, model, variants), str(path[-1])
        if (owner := _owner(key, found)) is not None:
            return f"{key} belongs to {owner}; set {owner}, or leave {key} out"
        return f"unknown key {show(key)}{did_you_mean(key, _keys_of(found))}"
    if kind in ("model_type", "model_attributes_type", "dataclass_type"):
        known = _keys_of(_models_at(path, data, model, variants))
        return f"must be a mapping (keys: {', '.join(known)}), got {show(given)}"
    return _rare_message(details)


def _several(given: object) -> str:
    return "a mapping" if isinstance(given, dict) else "a list"


def _rare_message(details: ErrorDetails) -> str:
    kind, given, facts = details["type"], details["input"], details.get("ctx", {})
    if kind == "literal_error":
        return f"must be {facts['expected']}, got {show(given)}"
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in facts["expected_tags"].split(",")]
        return f"unknown kind {show(facts['tag'])}{did_you_mean(facts['tag'], tags)}"
    if kind == "union_tag_not_found":
        return f"required key {facts['discriminator']} is missing"
    if kind == "too_short":
        least = counted(facts["min_length"], "entry", "entries")
        return f"must be {_several(given)} of at least {least}, got {show(given)}"
    if kind == "too_long":
        most = counted(facts["max_length"], "entry", "entries")
        return f"must be {_several(given)} of at most {most}, got {show(given)}"
    if kind == "string_too_short":
        return f"must have at least {counted(facts['min_length'], 'character')}, got {show(given)}"
    if kind == "string_pattern_mismatch":
        return f"must look like {facts['pattern']}, got {show(given)}"
    if kind == _RULE:
        return str(facts["text"])
    if kind == "value_error":
        return str(facts["error"])  # the author of the check has said what was given
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {show(given)}"


def _models_at(
    path: KeyPath, data: object, model: type[BaseModel], variants: Variants
) -> list[type[BaseModel]]:
    """Return the settings that `path` may hold, walking types and data side by side."""
    candidates = list(variants.get(model, (model,)))
    here: Any = data
    for key in path:
        here = here[key]
        if isinstance(key, str):
            fields = [item.model_fields for item in candidates]
            annotations = [own[key].annotation for own in fields if key in own]
            candidates = [found for item in annotations for found in _models_in(item, variants)]
        if isinstance(here, dict) and "kind" in here:
            candidates = [item for item in candidates if _kind(item) in (None, here["kind"])]
    return candidates


def _keys_of(models: Iterable[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for item in models for name in item.model_fields))


def _owner(key: str, models: Iterable[type[BaseModel]]) -> str | None:
    """Return the setting that would make `key` one too, such as `method: reconstruction`."""
    for item in models:
        if key in item.model_fields:
            for name, field in item.model_fields.items():
                if name != "kind" and get_args(field.annotation) == (field.default,):
                    return f"{name}: {field.default}"
    return None


def _kind(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def _models_in(annotation: object, variants: Variants) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from variants.get(annotation, (annotation,))
    for inner in get_args(annotation):
        yield from _models_in(inner, variants)
