"""Make int8 files of one checkpoint with other tools, each in an environment of its own.

    tools/peer_files.py CHECKPOINT FOLDER --train FILE --text COLUMN

Exports the checkpoint plain, installs optimum-onnx, Olive and NNCF below FOLDER (some gigabytes),
lets each quantize the export with the options that its documentation recommends for an x86 CPU with
VNNI, per channel everywhere, and prints the `--others` for `tools/compare_int8.py`. NNCF calibrates
on 300 rows of --train. Files that are there already are not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from compare_int8 import encode, read_texts

from compressor.export.to_onnx import export_onnx
from compressor.models.torch_model import load_checkpoint

_CALIBRATION_ROWS = 300
_OPTIMUM = """
import sys
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
plain, out = sys.argv[1:]
for preset in ("avx2", "avx512_vnni"):
    config = getattr(AutoQuantizationConfig, preset)(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(plain, file_name="model.onnx").quantize(
        save_dir=f"{out}/optimum-{preset}", quantization_config=config
    )
"""
_OLIVE = """
import sys
from olive.workflows import run
plain, out = sys.argv[1:]
run({
    "input_model": {"type": "ONNXModel", "model_path": f"{plain}/model.onnx"},
    "passes": {"int8": {"type": "OnnxDynamicQuantization", "per_channel": True}},
    "output_dir": f"{out}/olive",
    "cache_dir": f"{out}/olive-cache",
})
"""
_NNCF = """
import json, sys
import nncf, numpy, onnx
plain, out = sys.argv[1:]
rows = json.load(open(f"{plain}/rows.json"))
inputs = [{name: numpy.array(value) for name, value in row.items()} for row in rows]
data, count = nncf.Dataset(inputs), len(inputs)
quantized = nncf.quantize(
    onnx.load(f"{plain}/model.onnx"), data, model_type=nncf.ModelType.TRANSFORMER, subset_size=count
)
onnx.save(quantized, f"{out}/nncf.onnx")
"""
# What is installed, the script, and the files that it makes: name of the row and path.
_PEERS = {
    "optimum": (
        ("torch>=2.11,<2.14", "optimum-onnx[onnxruntime]==0.1.0"),
        _OPTIMUM,
        {
            f"optimum-onnx 0.1, {preset}, per channel": f"optimum-{preset}/model_quantized.onnx"
            for preset in ("avx2", "avx512_vnni")
        },
    ),
    "olive": (
        ("olive-ai", "onnxruntime", "requests"),
        _OLIVE,
        {"Olive, OnnxDynamicQuantization, per_channel": "olive/model.onnx"},
    ),
    "nncf": (
        ("nncf", "onnx", "onnxruntime"),
        _NNCF,
        {"NNCF, quantize for transformers, 300 rows": "nncf.onnx"},
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a text classifier")
    parser.add_argument("folder", type=Path, help="where environments and files go")
    parser.add_argument("--train", type=Path, required=True, help="file of unlabelled rows")
    parser.add_argument("--text", required=True, help="its column of the texts")
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    plain = folder / "plain"
    write_plain(arguments, plain)
    others = []
    for name, (packages, script, files) in _PEERS.items():
        if not all((folder / path).is_file() for path in files.values()):
            python = environment(folder / f"{name}-environment", packages)
            subprocess.run([python, "-c", script, plain, folder], check=True)
        others += [f"{row}={folder / path}" for row, path in files.items()]
    print("--others " + shlex.join(others))
    return 0


def write_plain(arguments: argparse.Namespace, plain: Path) -> None:
    """Write the export that every tool quantizes, its config and encoded rows."""
    model = load_checkpoint(arguments.checkpoint)
    plain.mkdir(parents=True, exist_ok=True)
    shutil.copy(arguments.checkpoint / "config.json", plain)
    export_onnx(model, plain / "model.onnx", opset=20, fuse=False, threads=1)
    texts = read_texts(arguments.train, arguments.text)
    chosen = np.random.default_rng(0).permutation(len(texts))[:_CALIBRATION_ROWS]
    batches = [encode(model, [texts[row]]) for row in chosen]
    rows = [{name: value.tolist() for name, value in batch.items()} for batch in batches]
    (plain / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of an environment that has `packages`."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


if __name__ == "__main__":
    sys.exit(main())
