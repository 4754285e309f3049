"""Print how much faster images are classified once convolutions are computed in int8.

    tools/convolution_speed.py [--only MODEL ...] [--json FILE]

Models of the usual sizes with random weights, 224 x 224 pixels, one thread: CPU time and bytes of
the file that the exporter writes and of `quantize_static` with and without `convolutions: int8`,
which take turns. Speed and size depend on shapes, not on what the weights are; their accuracy means
nothing, and is not measured (`tools/int8_of_families.py` does that with small trained ones).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from results import write_results

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.export.to_onnx import export_onnx
from compressor.models.onnx_model import OnnxModel
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PassContext, apply_pass, settings_of
from compressor.progress import SILENT
from compressor.verify.benchmark import BenchmarkBatch, benchmark
from compressor.verify.timing import TimingPlan

SIDE, BATCHES, CALIBRATION = 224, (1, 8), 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet-18": ("resnet", {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2],
                             "layer_type": "basic"}),
    "ResNet-50": ("resnet", {}),
    "MobileNetV2": ("mobilenet_v2", {}),
    "ConvNeXt-T": ("convnext", {}),
    "Swin-T": ("swin", {}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--json", type=Path, help="results file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chatter: Any = transformers.utils.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
    rows = []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"model": name, **measure(Path(folder), *MODELS[name])})
        print(rows[-1], flush=True)
    if arguments.json is not None:
        write_results(arguments.json, rows, about={"pixels": SIDE, "calibration_rows": CALIBRATION})


def measure(folder: Path, kind: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return megabytes and milliseconds of each file; None where nothing becomes an integer."""
    model = random_model(folder / "checkpoint", kind, sizes)
    random = np.random.default_rng(0)
    images = tuple(random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(16))
    rows = Dataset("calibration", images[:CALIBRATION], None, np.arange(CALIBRATION), "made up")
    files = {"float": export_onnx(model, folder / "float" / "model.onnx", threads=1)}
    for name, convolutions in (("matmuls", False), ("convolutions", "int8")):
        context = PassContext(
            splits={"calibration": rows},
            load_baseline=lambda: model,
            device=torch.device("cpu"),
            seed=0,
            work_dir=folder / name,
            progress=SILENT,
            note=lambda _: None,
        )
        settings = {"kind": "quantize_static", "convolutions": convolutions}
        try:
            files[name] = apply_pass(settings_of(settings), files["float"], context)
        except StepFailed as error:  # such as a ResNet, whose head alone is a matmul
            print(f"{name}: {error}")
    found: dict[str, Any] = {
        name: {"mb": round(files[name].size().bytes_on_disk / 1e6, 1), **times(model, files, name)}
        if name in files
        else None
        for name in ("float", "matmuls", "convolutions")
    }
    return found


def times(model: TorchModel, files: dict[str, OnnxModel], name: str) -> dict[str, float]:
    """Return the CPU time of a file and how many times faster than float it is, by batch size."""
    found: dict[str, float] = {}
    image = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    for count in BATCHES:
        batch = model.task.encode(model.preprocessor, [image] * count)
        batches: list[BenchmarkBatch] = [(count, 0, {"baseline": batch, "final": batch})]
        pair: dict[Literal["baseline", "final"], Path] = {
            "baseline": files["float"].path,
            "final": files[name].path,
        }
        timed = benchmark(
            pair,
            provider="cpu",
            batches=batches,
            plan=TimingPlan(warmup_runs=2, num_runs=12, threads=1),
        )
        by_model = {item.model: item.cpu_p50_ms for item in timed}
        before, after = by_model["baseline"], by_model["final"]
        assert before is not None, "one thread has a CPU clock"
        assert after is not None
        found |= {f"ms_{count}": round(after, 2), f"faster_{count}": round(before / after, 2)}
    return found


def random_model(folder: Path, kind: str, sizes: dict[str, Any]) -> TorchModel:
    """Write a model with random weights, and read it."""
    torch.manual_seed(0)
    labels = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    config = transformers.AutoConfig.for_model(kind, **labels, **sizes)
    module: Any = transformers.AutoModelForImageClassification.from_config(config).eval()
    module.save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return load_checkpoint(folder)


if __name__ == "__main__":
    main()
