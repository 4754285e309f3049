"""Compressed sizes are those of gzip."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from compressor import files
from compressor.files import MappedFile, gzipped_bytes


def test_the_size_is_that_of_a_gzip_file(tmp_path: Path):
    content = np.random.default_rng(0).bytes(100_000) + bytes(3_000_000)
    (tmp_path / "weights").write_bytes(content)
    assert gzipped_bytes(tmp_path / "weights") == len(gzip.compress(content, 6))


def test_a_content_is_compressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[Path] = []
    compress = files._gzipped_bytes
    monkeypatch.setattr(files, "_gzipped_bytes", lambda path: calls.append(path) or compress(path))
    for name, content in (("a", b"first" * 99), ("b", b"first" * 99), ("a", b"second" * 99)):
        (tmp_path / name).write_bytes(content)
        assert gzipped_bytes(tmp_path / name) == len(gzip.compress(content, 6))
    assert calls == [tmp_path / "a"] * 2


def test_a_map_stays_readable_when_its_memory_is_given_back(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as stream:
        mapped = MappedFile(stream)
    view = np.frombuffer(mapped.content, dtype=np.uint8)
    for _ in range(600):
        mapped.count()
        assert view[255] == 255
    mapped.release()
    assert view.sum(dtype=np.int64) == 255 * 128 * 4096
