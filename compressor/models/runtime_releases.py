"""Which release of ONNX Runtime first ran which operator set; free of ONNX and of ONNX Runtime.

`compress validate` asks what is installed without loading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from compressor.runtime.versions import Version as Version
from compressor.runtime.versions import parse_version as parse_version

_BUILDS = ("onnxruntime", "onnxruntime-gpu")
# The oldest release that has wheels for the Pythons we run on; what is older was never tried.
OLDEST: Version = (1, 15, 0)
# The first release that runs a graph of this operator set, where it is not `OLDEST`.
OPSETS: Mapping[int, Version] = {
    19: (1, 16, 0),
    20: (1, 17, 0),
    21: (1, 18, 0),
    22: (1, 21, 0),
    23: (1, 23, 0),
    24: (1, 24, 1),
    25: (1, 24, 1),
    26: (1, 25, 0),
    27: (1, 32, 0),
}
# The operator set that the exporter writes where none is asked for.
EXPORTER_OPSET = 20
# The first release with kernels of `QuantizeLinear` and its inverse as operator set 23 has them.
QUANTIZATION_OF_23: Version = (1, 24, 1)


def surely_runs(opset: int) -> bool:
    """Return whether the installed release is known to run an operator set, quantized or not.

    False too where that is not known: another build, or a set that is not in the table.
    """
    if opset > max(OPSETS):
        return False
    needed = OPSETS.get(opset, OLDEST)
    needed = max(needed, QUANTIZATION_OF_23) if opset >= 23 else needed
    found = [release for build in _BUILDS if (release := _installed(build)) is not None]
    return bool(found) and min(found) >= needed


def _installed(build: str) -> Version | None:
    try:
        return parse_version(version(build))
    except PackageNotFoundError:
        return None
