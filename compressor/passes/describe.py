"""Says which settings a pass has, from the settings themselves, so that no manual goes stale."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from compressor.passes.base import Pass

_WORDS: dict[object, str] = {
    str: "text",
    bool: "true or false",
    int: "integer",
    float: "number",
    Path: "path",
    type(None): "null",
}
_SHARED = ("on_failure",)  # settings of every pass
_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


@dataclass(frozen=True)
class SettingDescription:
    """One setting as `compress passes` prints it; `name` has dots for nested settings."""

    name: str
    type: str
    default: str  # as a recipe spells it, or `required`
    allowed: str  # the range, empty when the type says it all
    description: str


def pass_settings(settings: type[BaseModel]) -> list[SettingDescription]:
    """Return the settings of a pass in their order, without `kind`; what all passes have is last.

    Nested ones, such as `recovery.epochs`, follow the setting that holds them. Where one setting
    decides which others there are, those that belong to one of its values alone say so.
    """
    found = list(_describe(settings, ""))
    variants = settings.variants() if issubclass(settings, Pass) else ()
    if len(variants) > 1:
        found = list(_describe_variants(found, variants))
    return sorted(found, key=lambda item: item.name in _SHARED)


def _describe_variants(
    shared: Sequence[SettingDescription], variants: Sequence[type[Pass]]
) -> Iterator[SettingDescription]:
    """Describe what all variants have, with the default that it has in each, then the others."""
    [tag] = (name for name in variants[0].model_fields if _is_tag(variants[0], name))
    names = [f"{tag} {variant.model_fields[tag].default}" for variant in variants]
    each = [{item.name: item for item in _describe(variant, "")} for variant in variants]
    alone = {name: item for own in each for name, item in own.items()}
    every = {item.name: item for item in shared}
    every |= {name: item for name, item in alone.items() if name not in every}
    for name, item in every.items():
        if name == tag:
            yield item
            continue
        there = [(label, own[name]) for label, own in zip(names, each, strict=True) if name in own]
        defaults = [f"{own.default} with {label}" for label, own in there]
        if len(there) < len(variants):
            item = replace(item, description=f"{item.description} ({there[0][0]})")
        elif len({own.default for _, own in there}) > 1:
            item = replace(item, default=", ".join(defaults))
        yield item


def _is_tag(settings: type[BaseModel], name: str) -> bool:
    """Return whether a setting can have one value alone, which tells a variant from another."""
    field = settings.model_fields[name]
    return name != "kind" and get_args(field.annotation) == (field.default,)


def _describe(settings: type[BaseModel], prefix: str) -> Iterator[SettingDescription]:
    for name, field in settings.model_fields.items():
        if name == "kind":
            continue
        yield SettingDescription(
            name=prefix + name,
            type=_type_text(field.annotation),
            default=_default_text(field),
            allowed=_allowed(field),
            description=field.description or "",
        )
        yield from _describe_nested(field.annotation, f"{prefix}{name}.")


def _describe_nested(annotation: object, prefix: str) -> Iterator[SettingDescription]:
    """Describe the settings of the models in a union; those that its kinds share appear once."""
    models = {_kind(model): model for model in _models_in(annotation)}
    if len(models) > 1:
        yield SettingDescription(
            f"{prefix}kind", "one of " + ", ".join(models), "required", "", "which settings follow"
        )
    seen: set[str] = set()
    for kind, model in models.items():
        for item in _describe(model, prefix):
            if item.name in seen:
                continue
            seen.add(item.name)
            head = item.name.removeprefix(prefix).partition(".")[0]
            is_shared = all(head in other.model_fields for other in models.values())
            note = "" if is_shared else f" (kind {kind})"
            yield replace(item, description=item.description + note)


def _kind(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return "" if field is None else str(field.default)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _type_text(annotation: object) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        values = ", ".join(_plain_text(value) for value in inner)
        return values if len(inner) == 1 else f"one of {values}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(item) for item in inner))
    if origin is tuple and inner[-1:] == (...,):
        # Of a choice a list may hold several.
        return "list of " + re.sub(r"^one of\b", "any of", _type_text(inner[0]))
    if origin is tuple:
        return "[" + ", ".join(_type_text(item) for item in inner) + "]"
    if origin is dict:
        return f"mapping of {_type_text(inner[0])} to {_type_text(inner[1])}"
    if inner:  # Annotated: the first argument is the type
        return _type_text(inner[0])
    return str(annotation)


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return _plain_text(value)


def _plain_text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain_text(item) for item in value) + "]"
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{k}: {_plain_text(v)}" for k, v in value) + "}"
    return str(value)


def _allowed(field: FieldInfo) -> str:
    """Return the range, such as `> 0, < 1`."""
    bounds = [
        f"{sign} {getattr(item, name):.12g}"
        for item in field.metadata
        for name, sign in _BOUNDS
        if getattr(item, name, None) is not None
    ]
    return ", ".join(bounds)
