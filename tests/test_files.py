"""Files are written whole, and maps of them give their memory back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compressor.files import MappedFile


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
