"""Every result that was read off a certification split, so that a second look does not go unsaid.

The file survives `--force`: a fresh start makes the model anew, not the rows unseen.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

from pydantic import ValidationError

from compressor.errors import EnvironmentMismatch
from compressor.files import write_whole
from compressor.measurements import CertificateReading, Score
from compressor.paths import ABSENT, unreadable
from compressor.stored_types import problems, read_facts, to_plain

READINGS = "readings.json"


def record_reading(
    path: Path, baseline: Score, final: Score, data_fingerprint: str, artifact_sha256: str
) -> tuple[CertificateReading, ...]:
    """Add a reading to the file at `path` and return all readings of the same rows, oldest first.

    The same result of the same artifact, read again, is no second reading. Raises
    `EnvironmentMismatch` when the file is damaged, because what it says must not be lost without a
    word.
    """
    history = _load(path)
    same_rows = [item for item in history if item.data_fingerprint == data_fingerprint]
    reading = CertificateReading(
        number=len(same_rows) + 1,
        read_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        data_fingerprint=data_fingerprint,
        artifact_sha256=artifact_sha256,
        metric=final.metric,
        num_examples=final.num_examples,
        baseline=baseline.value,
        final=final.value,
        is_this_run=False,
    )
    this = next((item for item in same_rows if _result(item) == _result(reading)), reading)
    if this is reading:
        same_rows.append(reading)
        _save(path, [*history, reading])
    return tuple(dataclasses.replace(item, is_this_run=item is this) for item in same_rows)


def _result(reading: CertificateReading) -> tuple[str, str, float, float]:
    return (reading.artifact_sha256, reading.metric, reading.baseline, reading.final)


def check_readings(path: Path) -> None:
    """Raise `EnvironmentMismatch` when the file is damaged: before the work, not after it."""
    _load(path)


def _load(path: Path) -> list[CertificateReading]:
    reason = unreadable(path)
    if reason == ABSENT:
        return []
    try:
        if reason is not None:
            raise ValueError(reason)
        return read_facts(list[CertificateReading], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        why = "; ".join(problems(error)) if isinstance(error, ValidationError) else error
        raise EnvironmentMismatch(
            f"{path}: not a readable history of certificate readings ({why}); restore it, or "
            f"move it away and say so where you show the certificate"
        ) from error


def _save(path: Path, readings: list[CertificateReading]) -> None:
    write_whole(path, json.dumps(to_plain(readings, {}), indent=1) + "\n")
