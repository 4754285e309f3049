"""Compressed sizes are those of gzip."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from compressor.files import gzipped_bytes


def test_the_size_is_that_of_a_gzip_file(tmp_path: Path):
    content = np.random.default_rng(0).bytes(100_000) + bytes(3_000_000)
    (tmp_path / "weights").write_bytes(content)
    assert gzipped_bytes(tmp_path / "weights") == len(gzip.compress(content, 6))
