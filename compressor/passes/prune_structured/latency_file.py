"""Files of latency tables: those of the cache, and those that a recipe gives.

A report holds the table that its run used, so a `report.json` can be given back as it is. Nothing
here needs torch: `compress validate` reads the file that a recipe names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.paths import ABSENT, LARGEST_JSON, unreadable
from compressor.setting_errors import refuse_constant

FORMAT = 3
_PARTS = ("attention", "feed_forward")
_LAYERS = ("others", "last")

Points = dict[int, float]


@dataclass(frozen=True)
class LatencyFile:
    """A table as it is stored.

    `situation` is what was timed, `made_on` where and by what. `others` and `last` are what
    sub-layers take in the last layer and in the others, by part (`attention`, `feed_forward`) and
    number of units; a whole layer takes 1. `measured` is what that was rounded from.
    """

    situation: Mapping[str, object]
    made_on: Mapping[str, object]
    others: Mapping[str, Points]
    last: Mapping[str, Points]
    measured: Mapping[str, object]

    def content(self) -> dict[str, object]:
        """Return the table as plain JSON."""
        return {
            "format": FORMAT,
            "situation": dict(self.situation),
            "made_on": dict(self.made_on),
            **{
                layers: {
                    part: [[count, value] for count, value in sorted(points[part].items())]
                    for part in _PARTS
                }
                for layers, points in (("others", self.others), ("last", self.last))
            },
            "measured": dict(self.measured),
        }


def read_latency_file(path: Path) -> LatencyFile:
    """Read a table, or the one in a `report.json`; raises `ValueError` that says what is wrong."""
    if (reason := unreadable(path, largest=LARGEST_JSON)) is not None:
        why = "no such file" if reason == ABSENT else reason
        raise ValueError(f"{path}: {why}; give a latency table or a report.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from error
    if isinstance(content, dict) and isinstance(content.get("passes"), list):
        content = _of_report(content["passes"], path)
    return table_of(content, path)


def table_of(content: object, path: Path) -> LatencyFile:
    """Return the table that plain JSON holds; raises `ValueError` that says what is wrong."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path}: is no latency table of format {FORMAT} (found {found!r}); give a table of "
            f"this version, or leave it out to measure one"
        )
    for name in ("situation", "made_on", "measured"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"{path}: {name} must be an object, got {content.get(name)!r}")
    layers = {name: _points_of(content.get(name), f"{path}: {name}") for name in _LAYERS}
    situation = content["situation"]
    for part, limit in zip(_PARTS, ("max_heads", "max_neurons"), strict=True):
        for name in _LAYERS:
            if max(layers[name][part]) != situation.get(limit):
                raise ValueError(
                    f"{path}: {name}.{part} must reach {limit}, {situation.get(limit)!r}, and ends "
                    f"at {max(layers[name][part])}"
                )
    return LatencyFile(
        situation, content["made_on"], layers["others"], layers["last"], content["measured"]
    )


def _of_report(passes: list[object], path: Path) -> object:
    tables = [
        item["facts"]["latency_table"]
        for item in passes
        if isinstance(item, dict)
        and isinstance(item.get("facts"), dict)
        and "latency_table" in item["facts"]
    ]
    if len(tables) != 1:
        raise ValueError(
            f"{path}: a report with one latency table is needed, this one has {len(tables)}; give "
            f"the table as a file of its own"
        )
    return tables[0]


def _points_of(content: object, place: str) -> dict[str, Points]:
    found = {}
    for part in _PARTS:
        listed = content.get(part) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(map(_is_point, listed)) or not listed:
            raise ValueError(
                f"{place}.{part} must list pairs of a number of units and what they take, at least "
                f"0 and finite"
            )
        points = {int(count): float(value) for count, value in listed}
        if 0 not in points or len(points) != len(listed):
            raise ValueError(f"{place}.{part} must list each number of units once, from 0 on")
        found[part] = points
    return found


def _is_point(item: object) -> bool:
    if not isinstance(item, list) or len(item) != 2:
        return False
    count, value = item
    is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 0
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_count and is_number and 0 <= value <= sys.float_info.max
