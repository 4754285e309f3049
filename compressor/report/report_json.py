"""`report.json`: the content of a report as plain JSON, and read back without trusting it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compressor.errors import EnvironmentMismatch, ReportError
from compressor.measurements import SCHEMA_VERSION, RunReport
from compressor.paths import ABSENT, LARGEST_TOKENIZER, is_folder, no_folder, unreadable
from compressor.setting_errors import KeyPath, format_path, names_shown, refuse_constant
from compressor.stored_types import problems, read_facts

REPORT_JSON = "report.json"
SUPPORTED_VERSIONS = (SCHEMA_VERSION,)


def to_plain(report: RunReport) -> dict[str, Any]:
    """Return the content of `report.json` as plain JSON types, without per-example outcomes.

    A number that is not finite becomes null, with the reason in `missing`. Raises `ReportError` for
    a value that JSON does not have.
    """
    found: dict[str, str] = {}
    content: dict[str, Any] = _plain(report, "", found)
    # A reason that the run gave says more than "came out as nan".
    given = content["missing"]
    content["missing"] = {key: why for key, why in found.items() if key not in given} | given
    return content


def to_json(report: RunReport) -> str:
    """Return the text of `report.json`; raises as `to_plain`."""
    return json.dumps(to_plain(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_read(report: RunReport) -> RunReport:
    """Return a report as it is read from its file, so that both are shown alike."""
    return from_plain(to_plain(report))


def from_plain(content: dict[str, Any]) -> RunReport:
    """Return the report with the `content` of a `report.json`; a null for a number becomes NaN.

    Keys that a later version of the same schema added get their defaults. Raises `ValidationError`
    for a key that is missing or has a wrong type, and for a null without a reason in `missing`.
    """
    try:
        return read_facts(RunReport, content)
    except ValidationError as error:
        reasons = content.get("missing")
        unknown = [
            item["loc"]
            for item in error.errors()
            if item["type"] == "float_type" and item["input"] is None
            if isinstance(reasons, dict) and format_path(item["loc"]) in reasons
        ]
        if not unknown:
            raise
    for place in unknown:
        content = _with_nan(content, place)
    return read_facts(RunReport, content)


def read_report(path: Path) -> RunReport:
    """Return the report in a run's `report.json`; `path` is the file or the run's directory.

    Raises `EnvironmentMismatch` when the file is missing or cannot be read, and `ReportError` when
    it is not JSON, has another schema version, or lacks a key or has one of a wrong type (all of
    them are named).
    """
    file = path / REPORT_JSON if is_folder(path) else path
    if (reason := unreadable(file, largest=LARGEST_TOKENIZER)) is not None:
        why = "no such report" if reason == ABSENT else reason
        raise EnvironmentMismatch(
            f"{file}: {why}; give the output directory of a run, or its {REPORT_JSON}"
            f"{_runs_inside(path)}"
        )
    content = _load(file)
    if not isinstance(content, dict):
        raise ReportError(f"{file}: expected a JSON object, got {_json_type(content)}")
    version = content.get("schema_version")
    if isinstance(version, bool) or version not in SUPPORTED_VERSIONS:
        supported = ", ".join(map(str, SUPPORTED_VERSIONS))
        raise ReportError(
            f"{file}: schema_version {json.dumps(version)} cannot be read (supported: {supported});"
            f" read it with the version of compressor that wrote it, or run the recipe again"
        )
    try:
        return from_plain(content)
    except ValidationError as error:
        lines = "\n".join(f"  {problem}" for problem in problems(error))
        raise ReportError(
            f"{file}: not a complete report; run the recipe again\n{lines}"
        ) from error


def _runs_inside(path: Path) -> str:
    """Name the runs that lie in a directory which is none itself."""
    if no_folder(path) is not None:
        return ""
    found = sorted(str(item.parent) for item in path.glob(f"*/{REPORT_JSON}"))
    return f" (there are runs in {names_shown(found)})" if found else ""


def _load(file: Path) -> object:
    try:
        content: object = json.loads(
            file.read_text(encoding="utf-8"), parse_constant=refuse_constant
        )
    except OSError as error:
        raise EnvironmentMismatch(
            f"{file}: cannot be read ({error}); give a {REPORT_JSON} that may be read"
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise ReportError(f"{file}: not JSON ({error}); give the {REPORT_JSON} of a run") from error
    return content


def _with_nan(content: Any, place: KeyPath) -> Any:
    """Return a copy of `content` with NaN at `place`."""
    if not place:
        return math.nan
    copied = content.copy()
    copied[place[0]] = _with_nan(content[place[0]], place[1:])
    return copied


def _plain(value: object, place: str, missing: dict[str, str]) -> Any:
    """Return `value` as JSON types; `place` is its path, such as `passes[0].score_after`."""
    if value is None or isinstance(value, bool | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # What a score keeps of single examples takes no part in comparisons.
        names = [item.name for item in dataclasses.fields(value) if item.compare]
        value = {name: getattr(value, name) for name in names}
    if isinstance(value, Mapping):
        prefix = f"{place}." if place else ""
        return {str(key): _plain(item, f"{prefix}{key}", missing) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]", missing) for index, item in enumerate(value)]
    if isinstance(value, Integral):  # NumPy's integers and floats, too
        return int(value)
    if isinstance(value, Real):
        if math.isfinite(value):
            return float(value)
        missing[place] = f"the measurement came out as {float(value)}"
        return None
    raise ReportError(
        f"report.json: {place}: {type(value).__name__} cannot be written; a report holds text, "
        f"numbers, booleans, lists and mappings"
    )


def _json_type(value: object) -> str:
    names = {str: "text", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
