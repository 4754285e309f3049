#!/usr/bin/env python3
"""Run artifacts with ONNX Runtime's arm64 wheel, on processors that qemu emulates.

    tools/check_arm64.py ARTIFACT ... --folder FOLDER [--json FILE]

FOLDER gets a Debian for arm64 (debootstrap, as root) and the wheels of onnxruntime, tokenizers and
numpy in the versions that are installed here; it can be kept. qemu-user-static runs its Python. The
light runtime loads each artifact there, checks its files and predicts; every int8 matrix of the
graph is multiplied with random bytes and compared with the product in 64-bit integers, for a
processor with dot products of bytes (Neoverse N1) and one without (Cortex-A72). What an emulator
says of time is nothing, so nothing is timed.

Exits with 1 when an integer or a prediction is another one than here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from build_runtime import stage
from check_doors import Door, Subject, compare, read_subject
from door_scripts import RUNTIME
from onnx import TensorProto, helper, numpy_helper
from results import write_results

from compressor.artifact import MODEL
from compressor.onnx_graph.onnx_file import load_graph

MIRROR, RELEASE = "http://deb.debian.org/debian", "bookworm"
PACKAGES = ("libpython3.11-stdlib", "libstdc++6", "python3.11-minimal")
WHEELS = ("onnxruntime", "tokenizers", "numpy")
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
ROWS = 5  # of bytes that are multiplied with each matrix
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8)
# What /proc/cpuinfo says there, by which ONNX Runtime chooses kernels: features and part number.
PROCESSORS = {
    "neoverse-n1": ("fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics asimdhp asimddp", "0xd0c"),
    "cortex-a72": ("fp asimd evtstrm aes pmull sha1 sha2 crc32", "0xd08"),
}
_CPUINFO = """\
processor	: 0
BogoMIPS	: 50.00
Features	: {features}
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: {part}
CPU revision	: 1
"""

_PRODUCTS = """
import sys
import numpy, onnxruntime
folder = sys.argv[1]
session = onnxruntime.InferenceSession(folder + "/products.onnx")
given = dict(numpy.load(folder + "/given.npz"))
names = [item.name for item in session.get_outputs()]
numpy.savez(folder + "/found.npz", **dict(zip(names, session.run(names, given))))
"""


def prepare(folder: Path) -> None:
    """Fetch Debian and the wheels where they are not there yet."""
    root = folder / "root"
    if not (root / "usr/bin/python3.11").is_file():
        include = f"--include={','.join(PACKAGES)}"
        command = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", include]
        subprocess.run([*command, RELEASE, str(root), MIRROR], check=True, capture_output=True)
        for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    if not (folder / "site").is_dir():
        wanted = [f"{name}=={version(name)}" for name in WHEELS]
        tags = [f"--platform={tag}_aarch64" for tag in TAGS]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *tags]
        pip += ["--only-binary=:all:", "--python-version=3.11", "-d", str(folder / "wheels")]
        subprocess.run([*pip, *wanted], check=True)
        for wheel in (folder / "wheels").glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder / "site")


def run(folder: Path, processor: str, script: str, arguments: list[str], paths: str) -> None:
    """Run a script of Python there; raises `SystemExit` where it fails."""
    root = folder / "root"
    features, part = PROCESSORS[processor]
    for place, text in {
        "proc/cpuinfo": _CPUINFO.format(features=features, part=part),
        "sys/devices/system/cpu/possible": "0\n",
        "sys/devices/system/cpu/present": "0\n",
    }.items():
        # qemu shows the host's otherwise, which ONNX Runtime cannot read there.
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    modules = f"PYTHONPATH={folder / 'site'}:{paths}"
    command = ["qemu-aarch64-static", "-cpu", processor, "-L", str(root), "-E", modules]
    command += ["-E", "OPENBLAS_NUM_THREADS=1", "-E", "PYTHONDONTWRITEBYTECODE=1"]
    command += [str(root / "usr/bin/python3.11"), "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{processor}: ended with {done.returncode}: {done.stderr[-2000:]}")


def products(path: Path, folder: Path) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """Write a graph that multiplies each int8 matrix with random bytes, and return what is right.

    Matrices are the weights of integer matmuls, with the zero points that they have.
    """
    graph = load_graph(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    random = np.random.default_rng(0)
    nodes, inputs, outputs, kept, right = [], [], [], [], {}
    given: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type not in ("MatMulInteger", "MatMulIntegerToFloat"):
            continue
        tensor = weights[node.input[1]]
        weight = numpy_helper.to_array(tensor).astype(np.int64)
        if tensor.data_type not in _INTEGERS or f"y {tensor.name}" in right:
            continue
        place = 3 if node.op_type == "MatMulInteger" else 5
        name = node.input[place] if len(node.input) > place else ""
        zero = numpy_helper.to_array(weights[name]).astype(np.int64) if name in weights else 0
        values = random.integers(0, 256, (ROWS, len(weight)), dtype=np.uint8)
        x, y, point = f"x {tensor.name}", f"y {tensor.name}", f"z {tensor.name}"
        given[x] = values
        right[y] = (values.astype(np.int64) - 128) @ (weight - zero)
        kept += [tensor, numpy_helper.from_array(np.array(128, np.uint8), point)]
        own = [name] if name in weights else []
        kept += [weights[key] for key in own]
        nodes.append(helper.make_node("MatMulInteger", [x, tensor.name, point, *own], [y]))
        inputs.append(helper.make_tensor_value_info(x, TensorProto.UINT8, values.shape))
        outputs.append(helper.make_tensor_value_info(y, TensorProto.INT32, right[y].shape))
    unique = {tensor.name: tensor for tensor in kept}
    made = helper.make_graph(nodes, "products", inputs, outputs, list(unique.values()))
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=8), folder / "products.onnx")
    np.savez(folder / "given.npz", **given)
    return right


def check(subject: Subject, folder: Path, processor: str) -> dict[str, Any]:
    """Return the row of one artifact on one processor."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        modules = str(stage(scratch / "modules").parent)
        given, written = scratch / "given.json", scratch / "written.json"
        given.write_text(json.dumps(subject.given), encoding="utf-8")
        told = [str(subject.folder), subject.task, str(given), str(written)]
        run(folder, processor, RUNTIME, told, modules)
        rows = json.loads(written.read_text(encoding="utf-8"))["rows"]
        right = products(subject.folder / MODEL, scratch)
        wrong, total = 0, 0
        if right:
            run(folder, processor, _PRODUCTS, [str(scratch)], modules)
            with np.load(scratch / "found.npz") as found:
                wrong = sum(int((found[key] != value).sum()) for key, value in right.items())
            total = sum(value.size for value in right.values())
    found = compare(subject, Door("arm64", "", (), "", ()), rows)
    return {
        "task": subject.task,
        "processor": processor,
        "matrices": len(right),
        "products": total,
        "wrong_products": wrong,
        **found,
    }


def main() -> int:
    """Return 0 when all integers and predictions are those of this machine, 1 otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifacts", type=Path, nargs="+", help="folders with manifest.json")
    parser.add_argument("--folder", type=Path, required=True, help="where Debian is kept (1 GB)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    for program in ("debootstrap", "dpkg", "qemu-aarch64-static"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program}: not found; install debootstrap and qemu-user-static")
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    rows = []
    for artifact in arguments.artifacts:
        subject = read_subject(artifact.resolve())
        for processor in PROCESSORS:
            rows.append(check(subject, folder, processor))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.json is not None:
        qemu = subprocess.run(
            ["qemu-aarch64-static", "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        write_results(arguments.json, rows, about={"qemu": qemu})
    return int(any(row["wrong_products"] or row["alike"] < 1 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
