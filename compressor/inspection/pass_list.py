"""The passes and their settings as `compress passes` prints them: a screen for all, a page for one.

Everything is read from the settings classes, so that nothing here can go stale.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from rich.text import Text

from compressor.errors import RecipeError
from compressor.passes import (
    PASSES,
    OnnxPass,
    Pass,
    PassGroup,
    SettingDescription,
    pass_settings,
)
from compressor.recipe.recipe import Provider
from compressor.setting_errors import did_you_mean

_GROUPS: Mapping[PassGroup, str] = {
    "train": "train the weights",
    "prune": "remove weights",
    "vocabulary": "shorten the vocabulary",
    "quantize": "store weights in fewer bits",
    "precision": "compute in half precision",
}
_SETTINGS = {kind: entry.settings for kind, entry in PASSES.items()}
_EVERY_PROVIDER: tuple[str, ...] = get_args(Provider)
_WIDEST = 100  # columns of running text; longer lines are hard to read
_MEANING = " " * 6  # before the meaning of a setting


def render_passes() -> Text:
    """Return one line for each pass, by group, for a terminal of 80 columns and 24 lines."""
    found = _SETTINGS
    text = Text("  pass                 what it does                              runs on\n")
    for group, meaning in _GROUPS.items():
        text.append(f"{group}: {meaning}\n", "bold")
        for kind, entry in found.items():
            if entry.about.group == group:
                line = f"  {kind:<20} {entry.about.summary:<41} {_in_short(entry)}\n"
                text.append(line)
    text.append("compress passes KIND shows the settings of one, with an example.")
    return text


def render_pass(name: str, width: int) -> Text:
    """Return what a pass is, its settings and an example, for a terminal of `width` columns.

    `name` is a kind such as `prune_structured`, or a setting of one such as
    `prune_structured.recovery`. Raises `RecipeError` for another.
    """
    kind, _, setting = name.partition(".")
    found = _SETTINGS
    if kind not in found:
        raise RecipeError(f"unknown pass '{name}'{did_you_mean(kind, found)}")
    entry, width = found[kind], min(width, _WIDEST)
    settings = pass_settings(entry)
    if setting:
        return _render_setting(kind, setting, settings, width)
    model = "exported graph" if issubclass(entry, OnnxPass) else "PyTorch model"
    text = Text()
    text.append(f"{kind}", "bold")
    text.append(f": {entry.about.summary}\n")
    text.append(f"changes the {model}; runs on: {_runs_on(entry)}\n\n")
    text.append(f"{textwrap.fill(entry.about.explanation, width)}\n\n")
    text.append("Settings\n", "bold")
    for item in settings:
        if "." not in item.name:
            text.append(_render_line(kind, item, settings, width))
    text.append("\nExample, to go with the model, data and budget of a recipe\n", "bold")
    text.append(textwrap.indent(entry.about.example.rstrip(), "  "))
    return text


def describe_passes(kind: str | None) -> list[dict[str, Any]]:
    """Return every pass, or the one called `kind`, as plain JSON values.

    Raises `RecipeError` for a kind that there is not.
    """
    found = _SETTINGS
    if kind is not None and kind not in found:
        raise RecipeError(f"unknown pass '{kind}'{did_you_mean(kind, found)}")
    return [
        {
            "kind": name,
            **vars(entry.about),
            "changes": "graph" if issubclass(entry, OnnxPass) else "torch",
            "providers": None if entry.providers is None else list(entry.providers),
            "settings": [vars(item) for item in pass_settings(entry)],
        }
        for name, entry in found.items()
        if kind in (None, name)
    ]


def _render_setting(
    kind: str, setting: str, settings: Sequence[SettingDescription], width: int
) -> Text:
    """Return one setting and, where it holds others, those."""
    wanted = [item for item in settings if f"{item.name}.".startswith(f"{setting}.")]
    if not wanted:
        names = [item.name for item in settings]
        raise RecipeError(f"{kind} has no setting '{setting}'{did_you_mean(setting, names)}")
    text = Text()
    text.append(f"{kind}.{setting}\n", "bold")
    for item in wanted:
        text.append(_render_line(kind, item, (), width))
    return text


def _render_line(
    kind: str, item: SettingDescription, settings: Sequence[SettingDescription], width: int
) -> Text:
    """Return name, type and default of a setting in a line, and below it what it means."""
    text = Text("  ")
    text.append(item.name, "bold")
    text.append(f"  {'; '.join(_facts(item))}\n")
    told = _sentence(item.description)
    if inner := [other for other in settings if other.name.startswith(f"{item.name}.")]:
        told += f" It has {len(inner)} settings of its own: compress passes {kind}.{item.name}"
    filled = textwrap.fill(told, width, initial_indent=_MEANING, subsequent_indent=_MEANING)
    text.append(f"{filled}\n")
    return text


def _facts(item: SettingDescription) -> Iterator[str]:
    """Yield type and range, then the default, as a recipe spells it."""
    is_optional = item.default == "null"
    kind = item.type.removesuffix(" or null") if is_optional else item.type
    yield f"{kind} {item.allowed}".rstrip()
    if is_optional:
        yield "optional"
    elif item.default == "required":
        yield "required"
    else:
        yield f"default {item.default}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _in_short(entry: type[Pass]) -> str:
    """Return where the result runs, or where alone it does not."""
    others = [name for name in _EVERY_PROVIDER if name not in (entry.providers or _EVERY_PROVIDER)]
    return f"not {others[0]}" if len(others) == 1 else _runs_on(entry)


def _runs_on(entry: type[Pass]) -> str:
    return "any" if entry.providers is None else ", ".join(entry.providers)


assert set(_GROUPS) == set(get_args(PassGroup)), "every group has its heading"
