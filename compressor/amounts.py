"""Amounts with a unit, as users write them: `20 MB`, `1.0 points`."""

from __future__ import annotations

import math
import re

_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*")
# Decimal units as disks and the reports have them, and the binary ones.
_BYTES = {
    "": 1, "b": 1, "byte": 1, "bytes": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_POINTS = {"point": 0.01, "points": 0.01}
_LARGEST = 2**63


def parse_bytes(text: str) -> int:
    """Return a size such as `20 MB` in bytes; a number alone counts bytes.

    >>> parse_bytes("20 MB"), parse_bytes("1.5GiB"), parse_bytes("512")
    (20000000, 1610612736, 512)

    Raises `ValueError` with what is wrong.
    """
    return int(_amount(text, _BYTES, "a size such as 20 MB or 1.5 GiB"))


def parse_points(text: str) -> float:
    """Return a difference of scores such as `1.0 points` as a part of the whole: 0.01.

    >>> parse_points("1 point"), parse_points("0.5 points")
    (0.01, 0.005)

    Raises `ValueError` with what is wrong.
    """
    return _amount(text, _POINTS, "a difference such as 1.0 points (one point is 0.01)")


def _amount(text: str, units: dict[str, int] | dict[str, float], wanted: str) -> float:
    match = _AMOUNT.fullmatch(text)
    factor = None if match is None else units.get(match[2].lower())
    if match is None or factor is None:
        raise ValueError(f"must be {wanted}, got {text[:60]!r}")
    value = float(match[1]) * factor
    if not math.isfinite(value) or value >= _LARGEST:
        raise ValueError(f"must be {wanted}, got {text[:60]!r}, which is too much")
    return round(value, 12)
