"""Recompute int8 files with ONNX Runtime's kernels for CPUs without VNNI, whatever this one has.

    tools/check_avx2.py MODEL.onnx [...]

Valgrind emulates an x86 CPU with AVX2 and without VNNI or AVX-512, so ONNX Runtime takes the
kernels that add two products in 16 bits, and they saturate there as they do on such a CPU. Every
integer matmul of each file, as ONNX Runtime optimizes it, multiplies random activations and those
that overflow 16 bits first, and is compared with NumPy in 32 bits and more; so is every row of the
tables. A product with weights of full range goes first: if that does not saturate, the emulation
shows nothing and this is an error. Exits with 1 when a number is wrong, 3 when it cannot be told.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bare_operators import CONTRIB
from integer_exactness import ExactnessCheck, check_integers
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CANNOT_TELL = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help=".onnx files")
    parser.add_argument("--emulated", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.emulated:
        return check(arguments.models)
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("valgrind is not installed; install it with your system's package manager")
        return CANNOT_TELL
    with tempfile.TemporaryDirectory() as folder:
        paths = [optimized(path, Path(folder)) for path in arguments.models]
        command = [valgrind, "--tool=none", "--quiet", sys.executable, __file__, "--emulated"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.run([*command, *paths], env=environment, check=False).returncode


def optimized(path: Path, folder: Path) -> str:
    """Write the graph that ONNX Runtime runs; here, because the emulation takes long."""
    from compressor.models.onnx_model import optimized_graph

    written = folder / f"{len(list(folder.iterdir()))}.onnx"
    graph = optimized_graph(path)
    graph.doc_string = str(path)
    onnx.save(graph, written)
    return str(written)


def check(paths: Sequence[Path]) -> int:
    """Check every product and table, in this process."""
    [full] = check_integers(full_range(), [])
    if not full.wrong:
        print("weights of full range do not saturate here, so this CPU has VNNI all the same")
        return CANNOT_TELL
    print(f"weights of full range: {full.wrong} of {full.compared} numbers wrong, as expected")
    wrong = compared = 0
    for path in paths:
        graph = onnx.load(path)
        for item in check_integers(graph, []):
            wrong, compared = wrong + item.wrong, compared + item.compared
            report(graph.doc_string, item)
    print(f"{len(paths)} files without VNNI: {compared:,} numbers compared, {wrong} wrong")
    return 1 if wrong else 0


def report(name: str, item: ExactnessCheck) -> None:
    if item.wrong:
        print(f"{name}: {item.operator} {item.node}: {item.wrong} wrong")


def full_range() -> onnx.ModelProto:
    """Return a graph of one product whose pairs of weights leave 16 bits."""
    constants: dict[str, NDArray[Any]] = {
        "scale": np.ones((), np.float32),
        "weight": np.full((32, 8), 127, np.int8),
        "weight_scale": np.ones(8, np.float32),
    }
    names = ["integers", "weight", "scale", "weight_scale"]
    product = helper.make_node("MatMulIntegerToFloat", names, ["sums"], domain=CONTRIB)
    graph = helper.make_graph(
        [product],
        "full range",
        [helper.make_tensor_value_info("integers", TensorProto.UINT8, [None, 32])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(CONTRIB, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


if __name__ == "__main__":
    sys.exit(main())
