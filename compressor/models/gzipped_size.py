"""How big a file would be compressed: the only place where the zeros among weights show."""

from __future__ import annotations

import zlib
from pathlib import Path

_CHUNK = 1 << 20  # bytes
_GZIP = zlib.MAX_WBITS | 16  # 16 asks for gzip's framing


def gzipped_bytes(path: Path) -> int:
    """Return the size of a file after gzip at level 6, without storing the result."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    total = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())
