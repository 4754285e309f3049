"""Small data files in every format, written by the tests that read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressor.data import DataSettings

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes text to a file of a given name and returns its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write_file


@pytest.fixture
def reviews(write: Write) -> Callable[[str, int], Path]:
    """Return a function that writes `count` numbered reviews, every fourth one positive."""

    def write_reviews(name: str, count: int) -> Path:
        rows = [f"{int(index % 4 == 0)}\t{name} review {index}" for index in range(count)]
        return write(name, "\n".join(["label\ttext", *rows]) + "\n")

    return write_reviews


@pytest.fixture
def settings() -> Callable[..., DataSettings]:
    """Return a function that builds settings from splits given as paths or mappings."""

    def build(columns: dict[str, Any] | None = None, **splits: Any) -> DataSettings:
        sources = {
            name: {"path": value} if isinstance(value, Path) else value
            for name, value in splits.items()
        }
        return DataSettings.model_validate({**(columns or {}), **sources})

    return build
