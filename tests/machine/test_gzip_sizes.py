"""Compressed sizes are those of gzip, measured once for each content."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from compressor.machine import gzip_sizes
from compressor.machine.gzip_sizes import gzipped_bytes


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are compressed, with a cache of their own."""
    found: list[str] = []
    compress = gzip_sizes._gzipped_bytes

    def counted(path: Path) -> int:
        found.append(path.name)
        return compress(path)

    monkeypatch.setattr(gzip_sizes, "_gzipped_bytes", counted)
    monkeypatch.setattr(gzip_sizes, "_MEASURED", {})
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return found


def large(path: Path) -> bytes:
    """Write a file that is large enough for its size to be kept, and return its content."""
    content = np.random.default_rng(0).bytes(100_000) + bytes(5_000_000)
    path.write_bytes(content)
    return content


def test_the_size_is_that_of_a_gzip_file(tmp_path: Path, measured: list[str]):
    content = large(tmp_path / "weights")
    assert gzipped_bytes(tmp_path / "weights") == len(gzip.compress(content, 6))
    assert measured == ["weights"]


def test_a_content_is_compressed_once(tmp_path: Path, measured: list[str]):
    for name, content in (("a", b"first" * 99), ("b", b"first" * 99), ("a", b"second" * 99)):
        (tmp_path / name).write_bytes(content)
        assert gzipped_bytes(tmp_path / name) == len(gzip.compress(content, 6))
    assert measured == ["a", "a"]


def test_another_process_knows_the_size_of_a_large_file(tmp_path: Path, measured: list[str]):
    content = large(tmp_path / "weights")
    first = gzipped_bytes(tmp_path / "weights")
    gzip_sizes._MEASURED.clear()  # as in a process that begins
    assert gzipped_bytes(tmp_path / "weights") == first == len(gzip.compress(content, 6))
    assert measured == ["weights"]


@pytest.mark.parametrize("damaged", ["", "12a", "-5"])
def test_a_damaged_size_is_measured_again(tmp_path: Path, measured: list[str], damaged: str):
    content = large(tmp_path / "weights")
    gzipped_bytes(tmp_path / "weights")
    [kept] = (tmp_path / "cache" / "gzip").iterdir()
    kept.write_text(damaged)
    gzip_sizes._MEASURED.clear()
    assert gzipped_bytes(tmp_path / "weights") == len(gzip.compress(content, 6))
    assert measured == ["weights"] * 2
    assert int(kept.read_text()) == len(gzip.compress(content, 6))


def test_a_size_is_found_where_nothing_can_be_kept(tmp_path: Path, measured: list[str]):
    (tmp_path / "cache").write_text("a file where the folder would be")
    content = large(tmp_path / "weights")
    assert gzipped_bytes(tmp_path / "weights") == len(gzip.compress(content, 6))
    assert measured == ["weights"]
