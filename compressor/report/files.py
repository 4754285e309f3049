"""`report.json` on disk: written whole or not at all, and read back without trusting it."""

from __future__ import annotations

import json
import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from compressor.errors import EnvironmentMismatch, ReportError
from compressor.measurements import SCHEMA_VERSION
from compressor.paths import ABSENT, LARGEST_TOKENIZER, is_folder, no_folder, unreadable
from compressor.report.schema import problems
from compressor.setting_errors import listing, refuse_constant

REPORT_JSON = "report.json"
SUPPORTED_VERSIONS = (SCHEMA_VERSION,)


def to_json(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return `RunReport.to_dict()` as plain JSON types, and as the text of `report.json`.

    A number that is not finite becomes null, with the reason in `missing`. Raises `ReportError` for
    a value that JSON does not have.
    """
    missing: dict[str, str] = {}
    cleaned: dict[str, Any] = _plain(data, "", missing)
    # A reason that the run gave says more than "came out as nan".
    cleaned["missing"] = missing | cleaned["missing"]
    return cleaned, json.dumps(cleaned, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a run's `report.json`; `path` is the file or the run's directory.

    Keys that a later version of the same schema added are filled with their defaults.

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
    data = _load(file)
    if not isinstance(data, dict):
        raise ReportError(f"{file}: expected a JSON object, got {_json_type(data)}")
    version = data.get("schema_version")
    if isinstance(version, bool) or version not in SUPPORTED_VERSIONS:
        supported = ", ".join(map(str, SUPPORTED_VERSIONS))
        raise ReportError(
            f"{file}: schema_version {json.dumps(version)} cannot be read (supported: {supported});"
            f" read it with the version of compressor that wrote it, or run the recipe again"
        )
    found = problems(data)
    if found:
        listing = "\n".join(f"  {problem}" for problem in found)
        raise ReportError(f"{file}: not a complete report; run the recipe again\n{listing}")
    return data


def _runs_inside(path: Path) -> str:
    """Name the runs that lie in a directory which is none itself."""
    if no_folder(path) is not None:
        return ""
    found = sorted(str(item.parent) for item in path.glob(f"*/{REPORT_JSON}"))
    return f" (there are runs in {listing(found)})" if found else ""


def _load(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{file}: cannot be read ({error}); give a {REPORT_JSON} that may be read"
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise ReportError(f"{file}: not JSON ({error}); give the {REPORT_JSON} of a run") from error


def _plain(value: Any, place: str, missing: dict[str, str]) -> Any:
    """Return `value` as JSON types; `place` is its path, such as `passes[0].score_after`."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, dict):
        prefix = f"{place}." if place else ""
        return {key: _plain(item, f"{prefix}{key}", missing) for key, item in value.items()}
    if isinstance(value, list):
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


def _json_type(value: Any) -> str:
    names = {str: "text", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
