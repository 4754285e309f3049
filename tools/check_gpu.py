"""Check on one GPU everything that the tests cannot, and write one table of what was found.

Environment, the execution providers that really run, parity of float32, float16 and bfloat16 with
PyTorch, latency and memory over batch sizes and lengths with and without CUDA graphs, TensorRT
in float16 and int8 where it is installed, and every pass that trains or prunes: on a tiny and a
BERT-base-sized random model, which need no download. The table names date, card, driver and
versions, so that it can be kept. One of the lengths is no multiple of 8: there ONNX Runtime's fused
attention takes another kernel.

Exit code 0 when every check passed, 4 when one failed, 3 without a GPU. `--provider cpu` runs the
same checks on the CPU, to test the script itself.

Usage: tools/check_gpu.py [--output FOLDER] [--checkpoint FOLDER] [--only CHECK ...]
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from gpu_table import Record, write
from random_models import NUM_TEXTS, SEED, SIZES, subjects, texts_for

from compressor.data import Dataset
from compressor.errors import CompressorError, EnvironmentMismatch
from compressor.export.to_onnx import export_onnx
from compressor.machine.environment import describe_environment
from compressor.models.gpu_memory import GpuMemory
from compressor.models.onnx_model import OnnxModel, check_provider
from compressor.models.provider_options import AS_WRITTEN, ProviderSettings
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.passes import PASSES, PassContext, TorchPass, apply_pass
from compressor.passes.convert_fp16.settings import ConvertFp16
from compressor.passes.quantize.settings import QuantizeTensorrt
from compressor.progress import SILENT
from compressor.tasks import Batch
from compressor.training.checkpoints import digest_of_tensors
from compressor.verify.benchmark import benchmark, default_threads
from compressor.verify.timing import TimingPlan

logger = logging.getLogger(__name__)

# Largest difference of a logit allowed, as a share of the largest logit: about forty roundings in a
# row of 2^-24, 2^-11 and 2^-8.
TOLERANCES = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.15}
# Every pass over the PyTorch model, as short as it goes.
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "fine-tuning": ("finetune", {"max_steps": 3, "batch_size": 8}),
    "distillation": ("distill", {"max_steps": 3, "batch_size": 8, "hidden_weight": 1.0}),
    "scores by Fisher": ("prune_structured", {"ratio": 0.25, "importance": "fisher"}),
    "scores by Taylor": ("prune_structured", {"ratio": 0.25, "importance": "taylor"}),
    "reconstruction": ("prune_structured", {"ratio": 0.25, "method": "reconstruction"}),
    "magnitude": ("prune_magnitude", {"sparsity": 0.5, "finetune": {"max_steps": 3}}),
    "int8-aware training": ("quantize_aware_train", {"epochs": 0.1}),
}


@dataclass(frozen=True)
class Situation:
    """What the checks run on."""

    provider: str
    device: torch.device
    folder: Path
    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    runs: int
    subjects: Mapping[str, TorchModel]


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_arguments(arguments)
    logging.basicConfig(level=logging.ERROR)
    transformers.logging.disable_progress_bar()
    try:
        device = find_device(options.provider)
    except EnvironmentMismatch as error:
        print(f"check_gpu: {error}", file=sys.stderr)
        return error.exit_code
    record = Record(datetime.now(UTC).isoformat(timespec="seconds"), environment_of(device))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        situation = Situation(
            options.provider,
            device,
            folder,
            tuple(options.batch_sizes),
            tuple(options.lengths),
            options.runs,
            subjects(folder, options.checkpoint, options.sizes),
        )
        for name in options.only or CHECKS:
            run_check(name, situation, record)
    write(record, options.output)
    return 4 if record.failed else 0


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="folder for gpu.md and gpu.json")
    parser.add_argument("--checkpoint", type=Path, help="folder of a text classifier to check too")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 128])
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 127, 128, 512])
    parser.add_argument("--runs", type=int, default=50, help="timed runs of each measurement")
    parser.add_argument("--only", nargs="+", choices=CHECKS, help="leave the other checks out")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    return parser.parse_args(arguments)


def find_device(provider: str) -> torch.device:
    """Return where PyTorch works; raises `EnvironmentMismatch` without a GPU for ONNX Runtime."""
    if provider == "cpu":
        return torch.device("cpu")
    GpuMemory()
    check_provider(provider)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def environment_of(device: torch.device) -> dict[str, Any]:
    facts = describe_environment(seed=SEED, device=device, threads=default_threads())
    driver = Path("/proc/driver/nvidia/version")
    found = driver.read_text(encoding="ascii").splitlines()[0] if driver.is_file() else None
    return {
        **facts,
        "gpu": None if device.type == "cpu" else torch.cuda.get_device_name(),
        "driver": found,
        "cuda": torch.version.cuda,
    }


def run_check(name: str, situation: Situation, record: Record) -> None:
    """Run one check; an error of one does not keep the others from being run."""
    try:
        CHECKS[name](situation, record)
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's own have no narrower type
        record.add(name, "ran", False, f"{type(error).__name__}: {error}")


def check_providers(situation: Situation, record: Record) -> None:
    """Which providers start and compute; TensorRT may be missing."""
    for provider in (situation.provider, "tensorrt"):
        try:
            check_provider(provider)
        except EnvironmentMismatch as error:
            missing = None if provider == "tensorrt" else False
            record.add("providers", provider, missing, f"does not run: {error}")
        else:
            record.add("providers", provider, True, "computes a product")


def check_parity(situation: Situation, record: Record) -> None:
    """Logits of each precision against PyTorch in float32 on the CPU."""
    for name, model in situation.subjects.items():
        batches = [_encode(model, texts) for texts in _groups(texts_for(model))]
        model.module.cpu()
        expected = np.concatenate([model.predict(batch) for batch in batches])
        for precision, graph in graphs(situation, name, model):
            if precision == "bfloat16" and situation.provider == "cpu":
                record.add("parity", f"{name}, {precision}", None, "has no kernels on the CPU")
                continue
            found = np.concatenate([graph.predict(batch) for batch in batches])
            difference, largest = np.abs(found - expected).max(), np.abs(expected).max()
            flips = int(np.sum(found.argmax(axis=1) != expected.argmax(axis=1)))
            record.add(
                "parity",
                f"{name}, {precision}",
                bool(difference <= TOLERANCES[precision] * largest),
                f"logits up to {largest:.3g} differ by up to {difference:.2g}, "
                f"{flips} of {len(expected)} answers change",
            )


def check_latency(situation: Situation, record: Record) -> None:
    """Latency and memory of each precision against float32, with and without CUDA graphs."""
    graph_modes = (False,) if situation.provider == "cpu" else (False, True)
    for name, model in situation.subjects.items():
        made = dict(graphs(situation, name, model))
        made["pruned, float16"] = pruned(situation, name)
        for precision, graph in made.items():
            if precision == "float32" or (precision == "bfloat16" and situation.provider == "cpu"):
                continue
            for recorded in graph_modes:
                ends = {"baseline": made["float32"].path, "final": graph.path}
                add_latencies(situation, record, name, model, precision, ends, recorded)


def check_tensorrt(situation: Situation, record: Record) -> None:
    """The same grid on TensorRT in float16 and in int8 against float32."""
    try:
        check_provider("tensorrt")
    except EnvironmentMismatch as error:
        record.add("tensorrt", "provider", None, f"does not run: {error}")
        return
    for name, model in situation.subjects.items():
        plain, *made = tensorrt_graphs(situation, name, model)
        for precision, path in made:
            for recorded in (False, True):
                ends = {"baseline": plain[1], "final": path}
                add_latencies(
                    situation, record, name, model, precision, ends, recorded, provider="tensorrt"
                )


def check_training(situation: Situation, record: Record) -> None:
    """Each pass over the PyTorch model twice: it ends, its logits are finite, and it repeats."""
    for name in situation.subjects:
        for title, (kind, settings) in STEPS.items():
            step = PASSES[kind].settings.of(settings)
            assert isinstance(step, TorchPass)
            try:
                detail, finite = apply_twice(situation, name, title, step)
            except (CompressorError, RuntimeError, ValueError, TypeError) as error:
                record.add(
                    "training", f"{name}, {title}", False, f"{type(error).__name__}: {error}"
                )
            else:
                record.add("training", f"{name}, {title}", finite, detail)
            _free()


CHECKS: dict[str, Callable[[Situation, Record], None]] = {
    "providers": check_providers,
    "parity": check_parity,
    "latency": check_latency,
    "tensorrt": check_tensorrt,
    "training": check_training,
}


def apply_twice(situation: Situation, name: str, title: str, step: TorchPass) -> tuple[str, bool]:
    digests, seconds, finite = [], [], True
    if situation.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for attempt in range(2):
        model = load_checkpoint(situation.folder / name / "checkpoint")
        model.move_to(situation.device)
        work_dir = situation.folder / "work" / f"{name}-{title}-{attempt}"
        started = time.monotonic()
        torch.manual_seed(SEED)
        changed = apply_pass(step, model, context(situation, name, work_dir))
        seconds.append(time.monotonic() - started)
        finite &= bool(np.isfinite(changed.predict(_encode(changed, texts_for(changed)[:8]))).all())
        digests.append(digest_of_tensors(changed.module.state_dict()))
    memory = ""
    if situation.device.type == "cuda":
        memory = f", at most {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB of the GPU"
    repeats = "the same bits twice" if len(set(digests)) == 1 else "other bits each time"
    return f"{min(seconds):.1f} s on {situation.device.type}, {repeats}{memory}", finite


def add_latencies(
    situation: Situation,
    record: Record,
    name: str,
    model: TorchModel,
    precision: str,
    ends: Mapping[Any, Path],
    recorded: bool,
    provider: str | None = None,
) -> None:
    provider = provider or situation.provider
    limit = int(model.preprocessor.model_max_length)
    grid: list[tuple[int, int | None, dict[Any, Batch]]] = []
    for size in situation.batch_sizes:
        for length in situation.lengths:
            if length <= limit:
                inputs = model.task.benchmark_batch(
                    model.preprocessor, texts_for(model), size, length
                )
                grid.append((size, length, {"baseline": inputs, "final": inputs}))
    how = f"{precision} on {provider}{', CUDA graphs' if recorded else ''}"
    try:
        measured = benchmark(
            ends,
            provider=provider,
            batches=grid,
            plan=TimingPlan(warmup_runs=5, num_runs=situation.runs, threads=default_threads()),
            settings=ProviderSettings(
                cuda_graph=recorded, cache_dir=situation.folder / "engines" / f"{name}-{how}"
            ),
        )
    except CompressorError as error:
        record.add("latency", f"{name}, {how}", False, str(error))
        return
    record.add("latency", f"{name}, {how}", True, f"{len(grid)} settings timed")
    record.latencies += [
        {"subject": name, "precision": precision if item.model == "final" else "float32",
         "beside": precision, **asdict(item)}
        for item in measured
    ]  # fmt: skip


def graphs(situation: Situation, name: str, model: TorchModel) -> Iterator[tuple[str, OnnxModel]]:
    """Yield the graph of a model in each precision, exported for the provider."""
    path = situation.folder / name / "float32" / "model.onnx"
    if not path.is_file():
        export_onnx(model, path, provider=situation.provider)
    plain = OnnxModel(path, provider=situation.provider)
    yield "float32", plain
    for precision in ("float16", "bfloat16"):
        yield precision, convert(situation, model, plain, name, precision)


def tensorrt_graphs(situation: Situation, name: str, model: TorchModel) -> list[tuple[str, Path]]:
    """Return the graph of a model for TensorRT in each precision, made on the CPU."""
    exported = export_onnx(
        model, situation.folder / name / "tensorrt" / "model.onnx", provider="tensorrt"
    )
    plain = OnnxModel(exported.path, settings=AS_WRITTEN)
    step = QuantizeTensorrt.model_validate({"rows": NUM_TEXTS})
    work_dir = situation.folder / f"{name}-int8" / "float32"
    int8 = apply_pass(step, plain, context(situation, name, work_dir, model))
    return [
        ("float32", plain.path),
        ("float16", convert(situation, model, plain, f"{name}-tensorrt", "float16").path),
        ("int8, float16", convert(situation, model, int8, f"{name}-int8", "float16").path),
    ]


def convert(
    situation: Situation, model: TorchModel, plain: OnnxModel, name: str, precision: str
) -> OnnxModel:
    work_dir = situation.folder / name / precision
    done = work_dir / "model.onnx"
    if done.is_file():
        return OnnxModel(done, provider=plain.provider)
    step = ConvertFp16.model_validate({"dtype": precision})
    return apply_pass(step, plain, context(situation, name, work_dir, model))


def pruned(situation: Situation, name: str) -> OnnxModel:
    """Return half of a model's FLOPs in float16."""
    step = PASSES["prune_structured"].settings.of(
        {"ratio": 0.5, "method": "reconstruction", "calibration_rows": NUM_TEXTS}
    )
    assert isinstance(step, TorchPass)
    copy = load_checkpoint(situation.folder / name.partition("-")[0] / "checkpoint")
    copy.move_to(situation.device)
    smaller = apply_pass(
        step, copy, context(situation, name, situation.folder / "work" / f"{name}-half")
    )
    path = situation.folder / f"{name}-pruned" / "float32" / "model.onnx"
    plain = export_onnx(smaller, path, provider=situation.provider)
    return convert(situation, smaller, plain, f"{name}-pruned", "float16")


def context(
    situation: Situation, name: str, work_dir: Path, model: TorchModel | None = None
) -> PassContext:
    checkpoint = situation.folder / name.partition("-")[0] / "checkpoint"
    read = model or load_checkpoint(checkpoint)
    labels = np.arange(NUM_TEXTS) % 2
    splits = {
        split: Dataset(split, tuple(texts_for(read)), labels, np.arange(NUM_TEXTS), "generated")
        for split in ("train", "calibration")
    }
    work_dir.mkdir(parents=True, exist_ok=True)

    def load_baseline() -> TorchModel:
        loaded = load_checkpoint(checkpoint)
        loaded.move_to(situation.device)
        return loaded

    return PassContext(
        splits=splits,
        load_baseline=load_baseline,
        device=situation.device,
        seed=SEED,
        work_dir=work_dir,
        progress=SILENT,
        note=logger.info,
    )


def _encode(model: TorchModel, texts: Sequence[str]) -> Batch:
    return model.task.encode(model.preprocessor, list(texts))


def _groups(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + 16] for start in range(0, len(texts), 16)]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    raise SystemExit(main())
