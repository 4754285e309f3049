"""Compare int8 models in OpenVINO, this package's and NNCF's: speed, changed predictions, kernels.

    tools/compare_openvino.py CHECKPOINT FOLDER --data FILE --text COLUMN --label COLUMN
        --train FILE --train-text COLUMN [--python FILE] [--json docs/results/openvino.json]

Exports a text classifier plain and for OpenVINO, quantizes the latter with `quantize_dynamic` and
`quantize_static`, and lets NNCF quantize the plain export as its documentation says for a
transformer, with both of its presets, on the same 300 rows of --train. NNCF runs in the Python that
--python names, or in an environment that is made in FOLDER. Every model predicts the rows of --data
in batches of 32. Models take turns, in shuffled order, on one thread; a speed is the CPU time of
the plain export in OpenVINO in float32 over the model's, within one round: the median over the
rounds, and the 10th and 90th percentile.

Each int8 form then runs once with the kernels of every instruction set that oneDNN can be limited
to and this CPU has. Where they add up in 16 bits, weights that do not fit give other logits.

Exits with 1 when a model of this package changes more predictions than NNCF's default one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from compare_int8 import (
    BATCH_SIZE,
    SEED,
    Models,
    context,
    predict,
    read_rows,
    read_texts,
    time_in_turns,
    timed_inputs,
)
from numpy.typing import NDArray
from peer_files import environment, write_plain
from results import write_results

from compressor.data import Dataset
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.provider_options import ProviderSettings
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import OnnxPass, apply_pass
from compressor.passes.quantize.settings import QuantizeDynamic, QuantizeStatic
from compressor.runtime.openvino_session import OPENVINO, openvino_version

ROWS_CALIBRATED = 300
FASTER_BY = {1: 1.5, BATCH_SIZE: 1.2}  # than NNCF's default: the goal, by batch size
FLOAT, PEER = "plain export, fp32", "NNCF, default preset"
# What oneDNN is limited to, and the flag of /proc/cpuinfo that this needs. Without VNNI, pairs of
# products are added in 16 bits.
KERNELS = {
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512f",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_AMX": "amx_int8",
}
KERNEL_ROWS = 100
FORMS = {
    "quantize_static": "static/model.onnx",
    "quantize_dynamic": "dynamic/model.onnx",
    "NNCF": "nncf-default.xml",
}

_NNCF = """
import json, sys
import nncf, numpy
import openvino as ov
plain, out = sys.argv[1:]
rows = json.load(open(f"{plain}/rows.json"))
data = nncf.Dataset([{name: numpy.array(value) for name, value in row.items()} for row in rows])
for name, preset in (("default", None), ("performance", nncf.QuantizationPreset.PERFORMANCE)):
    quantized = nncf.quantize(
        ov.Core().read_model(f"{plain}/model.onnx"), data, model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows), preset=preset,
    )
    ov.save_model(quantized, f"{out}/nncf-{name}.xml", compress_to_fp16=False)
print(json.dumps({"nncf": nncf.__version__.partition("+")[0], "openvino": ov.__version__}))
"""


# In a process of its own, because oneDNN is limited once; without torch, which takes a while.
_LOGITS = """
import json, sys
from pathlib import Path
import numpy as np
from compressor.runtime.openvino_session import OpenvinoSession
folder, forms = Path(sys.argv[1]), json.loads(sys.argv[2])
rows = json.loads((folder / "kernel-rows.json").read_text())
batches = [{name: np.array(value, np.int64) for name, value in row.items()} for row in rows]
found = {}
for form, name in forms.items():
    session = OpenvinoSession(folder / name, threads=1, place=name)
    found[form] = np.concatenate([session.run(["logits"], batch)[0] for batch in batches])
np.savez(folder / "kernel-logits.npz", allow_pickle=False, **found)
"""


def main() -> int:
    arguments = read_arguments()
    texts, labels = read_rows(arguments.data, arguments.text, arguments.label, None)
    model = load_checkpoint(arguments.checkpoint)
    folder: Path = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    peer = make_peers(arguments, folder)
    models = make_models(model, folder, calibration_rows(arguments))
    logits = {name: predict(item, model, texts) for name, item in models.items()}
    inputs = timed_inputs(model, texts)
    timings = [time_in_turns(models, group, arguments.rounds) for group in inputs]
    rows = [row_of(name, item, logits, labels, timings) for name, item in models.items()]
    kernels = compare_kernels(model, texts, folder)
    print_tables(rows, kernels)
    if arguments.json is not None:
        about = {
            "rows": len(texts),
            "calibrated_on": ROWS_CALIBRATED,
            "rounds": arguments.rounds,
            "singles": len(inputs[0]),
            "batches": len(inputs[1]),
            "openvino": openvino_version(),
            "onnxruntime": onnxruntime.__version__,
            "nncf": peer["nncf"],
            "goal": {str(size): factor for size, factor in FASTER_BY.items()},
            "kernels": kernels,
            "kernel_rows": KERNEL_ROWS,
        }
        write_results(arguments.json, rows, about=about)
    allowed = next(row["changed"] for row in rows if row["name"] == PEER)
    return int(any(row["changed"] > allowed for row in rows if row["by"] == "compressor"))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a text classifier")
    parser.add_argument("folder", type=Path, help="where files, and NNCF's environment, go")
    parser.add_argument("--data", type=Path, required=True, help=".tsv (unquoted) or .csv file")
    parser.add_argument("--text", required=True, help="column of the texts")
    parser.add_argument("--label", required=True, help="column of the labels, as class numbers")
    parser.add_argument("--train", type=Path, required=True, help="file of unlabelled rows")
    parser.add_argument("--train-text", help="its column, if not the same as --text")
    parser.add_argument("--python", type=Path, help="a Python that has nncf and openvino")
    parser.add_argument("--rounds", type=int, default=15, help="of each timing")
    parser.add_argument("--json", type=Path, help="results file to write, too")
    return parser.parse_args()


def calibration_rows(arguments: argparse.Namespace) -> Dataset:
    """Return the rows that NNCF calibrates on, too."""
    texts = read_texts(arguments.train, arguments.train_text or arguments.text)
    rows = np.random.default_rng(SEED).permutation(len(texts))[:ROWS_CALIBRATED]
    chosen = tuple(texts[row] for row in rows)
    return Dataset("calibration", chosen, None, rows, arguments.train.name)


def make_peers(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """Let NNCF write its models into `folder` where they are not there; return its versions."""
    plain, known = folder / "plain", folder / "versions.json"
    if known.is_file():
        versions: dict[str, str] = json.loads(known.read_text(encoding="utf-8"))
        return versions
    named = argparse.Namespace(
        checkpoint=arguments.checkpoint,
        train=arguments.train,
        text=arguments.train_text or arguments.text,
    )
    write_plain(named, plain)
    python = arguments.python or environment(folder / "environment", ("nncf", "openvino"))
    done = subprocess.run(
        [str(python), "-c", _NNCF, str(plain), str(folder)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    versions = json.loads(done.stdout.strip().splitlines()[-1])
    known.write_text(json.dumps(versions), encoding="utf-8")
    return versions


def make_models(model: TorchModel, folder: Path, calibration: Dataset) -> Models:
    """Return every model of the comparison by its name, the plain float one first."""
    plain = folder / "plain" / "model.onnx"
    exported = export_onnx(model, folder / "rewritten.onnx", provider=OPENVINO, threads=1)
    passes: dict[str, OnnxPass] = {
        "dynamic": QuantizeDynamic.model_validate({"smooth": True}),
        "static": QuantizeStatic.model_validate({"smooth_alpha": 0.8}),
    }
    written = {
        name: apply_pass(step, exported, context(model, folder / name, calibration)).path
        for name, step in passes.items()
    }
    bf16 = ProviderSettings(precision="bf16")
    nncf = folder / "nncf-default.xml"
    models = {
        FLOAT: OnnxModel(plain, OPENVINO, 1),
        "plain export, bf16": OnnxModel(plain, OPENVINO, 1, bf16),
        PEER: OnnxModel(nncf, OPENVINO, 1),
        "NNCF, performance preset": OnnxModel(folder / "nncf-performance.xml", OPENVINO, 1),
        "NNCF, default preset, bf16": OnnxModel(nncf, OPENVINO, 1, bf16),
        "export for openvino": exported,
        "quantize_dynamic": OnnxModel(written["dynamic"], OPENVINO, 1),
        "quantize_static": OnnxModel(written["static"], OPENVINO, 1),
        "quantize_static, bf16": OnnxModel(written["static"], OPENVINO, 1, bf16),
        "quantize_dynamic, in ONNX Runtime": OnnxModel(written["dynamic"], "cpu", 1),
        "quantize_static, in ONNX Runtime": OnnxModel(written["static"], "cpu", 1),
    }
    if "amx_int8" not in cpu_flags() and "avx512_bf16" not in cpu_flags():
        models = {name: item for name, item in models.items() if item.settings != bf16}
    return models


def row_of(
    name: str,
    model: OnnxModel,
    logits: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    timings: Sequence[Mapping[str, NDArray[np.float64]]],
) -> dict[str, Any]:
    """Return what a model changes and how fast it is, beside the plain one and NNCF's."""
    predictions, expected = (logits[key].argmax(axis=1) for key in (name, FLOAT))
    weights = model.path.with_suffix(".bin") if model.path.suffix == ".xml" else None
    size = model.path.stat().st_size + (weights.stat().st_size if weights else 0)
    row: dict[str, Any] = {
        "name": name,
        "by": "compressor" if name.startswith(("quantize_", "export for")) else "other",
        "megabytes": size / 1e6,
        "accuracy": 100 * float(np.mean(predictions == labels)),
        "changed": int(np.sum(predictions != expected)),
        "logit_rms": float(np.sqrt(np.mean(np.square(logits[name] - logits[FLOAT])))),
    }
    for size, spent in zip((1, BATCH_SIZE), timings, strict=True):
        row[f"speed_batch_{size}"] = _spread(spent[FLOAT] / spent[name])
        row[f"over_nncf_batch_{size}"] = _spread(spent[PEER] / spent[name])
    return row


def _spread(ratios: NDArray[np.float64]) -> dict[str, float]:
    middle, low, high = np.percentile(ratios, (50, 10, 90))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def cpu_flags() -> set[str]:
    """Return what /proc/cpuinfo says of the CPU; empty where it says nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())


def compare_kernels(model: TorchModel, texts: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Return, for each int8 form, how far logits of other kernels are from those of this CPU.

    Texts are read one by one, so that no kernel depends on the padding.
    """
    batches = [model.task.encode(model.preprocessor, [text]) for text in texts[:KERNEL_ROWS]]
    rows = [{name: value.tolist() for name, value in batch.items()} for batch in batches]
    (folder / "kernel-rows.json").write_text(json.dumps(rows), encoding="utf-8")
    flags, found = cpu_flags(), {}
    known = [name for name, flag in KERNELS.items() if flag in flags]
    for name in known:
        command = [sys.executable, "-c", _LOGITS, str(folder), json.dumps(FORMS)]
        subprocess.run(command, check=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": name})
        found[name] = dict(np.load(folder / "kernel-logits.npz"))
    best = found[known[-1]]
    return [
        {
            "form": form,
            "kernels": name,
            "largest": float(np.abs(logits[form] - best[form]).max()),
            "rms": float(np.sqrt(np.mean(np.square(logits[form] - best[form])))),
            "changed": int(np.sum(logits[form].argmax(1) != best[form].argmax(1))),
        }
        for form in FORMS
        for name, logits in found.items()
    ]


def print_tables(rows: Sequence[Mapping[str, Any]], kernels: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'':36}   MB  accuracy changed   rms    batch 1 (over NNCF)   batch 32 (over NNCF)")
    for row in rows:
        speeds = "   ".join(
            f"{row[f'speed_batch_{size}']['median']:5.2f} "
            f"({row[f'over_nncf_batch_{size}']['median']:4.2f})"
            for size in (1, BATCH_SIZE)
        )
        print(
            f"{row['name']:36} {row['megabytes']:5.1f} {row['accuracy']:7.2f}% {row['changed']:5d}"
            f" {row['logit_rms']:7.4f}   {speeds}"
        )
    for item in kernels:
        print(
            f"{item['form']:20} {item['kernels']:18} largest {item['largest']:.2g}, rms "
            f"{item['rms']:.2g}, {item['changed']} predictions changed"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    sys.exit(main())
