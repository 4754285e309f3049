"""Versions of ONNX Runtime, without loading it."""

from __future__ import annotations

import re

Version = tuple[int, int, int]


def parse_version(text: str) -> Version | None:
    """Return the three numbers that a version begins with, None for what is no version.

    >>> parse_version("1.24.1"), parse_version("1.25.0.dev20260101+cpu"), parse_version("newest")
    ((1, 24, 1), (1, 25, 0), None)
    """
    match = re.match(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?!\d)", text)
    if match is None:
        return None
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)
