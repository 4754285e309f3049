"""Looks at a checkpoint: where bytes, FLOPs and time are, and what each pass could save."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compressor.export.to_onnx import export_onnx
from compressor.inspection.facts import INSPECT_VERSION
from compressor.inspection.savings import PassSaving, most_savings
from compressor.inspection.timing import TimeShares, profile
from compressor.measurements import EmbeddingRecord
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.components import COMPONENTS, component_of, layer_of
from compressor.models.families.layers import EncoderLayer, encoder_layers
from compressor.models.families.prunable import UnsupportedArchitecture
from compressor.models.torch_model import TorchModel, load_foreign, try_batch
from compressor.progress import SILENT, Progress
from compressor.tasks import NO_LIMIT, Batch, load_task

_LENGTH = 128  # tokens of the example that FLOPs and time are taken on, where the model reads text


@dataclass(frozen=True)
class PartFacts:
    """One part of the encoder; `flops` of one example, two for each multiply-add."""

    parameters: int
    bytes: int  # in float32
    share: float  # of the parameters
    flops: int


@dataclass(frozen=True)
class LayerFacts:
    """One layer; heads and neurons are null where the architecture's parts are not known."""

    layer: int
    parameters: int
    flops: int
    heads: int | None
    neurons: int | None


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer or image processor; a vocabulary is null for images."""

    type: str
    vocabulary: int | None
    max_length: int | None


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint holds, what it costs to run, and what passes could save."""

    path: str
    model_type: str
    task: str
    labels: tuple[str, ...]
    parameters: int
    nonzero_parameters: int
    not_finite: Mapping[str, int]
    bytes_on_disk: int  # of the weight files
    components: Mapping[str, PartFacts]
    layers: tuple[LayerFacts, ...]
    flops: int
    sequence_length: int | None
    tokenizer: TokenizerFacts
    prunable: bool
    prunable_reason: str  # why not, empty when it is
    savings: tuple[PassSaving, ...]
    time: TimeShares | None  # null when timing was not asked for
    embedding: EmbeddingRecord | None = None  # how vectors are made; null for a classifier
    about_labels: str | None = None  # the scheme of tags of words, in words; null for other labels
    kind: Literal["checkpoint"] = "checkpoint"
    inspect_version: int = INSPECT_VERSION


def inspect_checkpoint(
    checkpoint: str,
    *,
    task: str | None = None,
    timing: bool = True,
    progress: Progress = SILENT,
) -> CheckpointFacts:
    """Return what a directory or Hub id holds; with `timing`, export and profile it too.

    `task` says what it is for, where that is not what its architecture says. Raises
    `EnvironmentMismatch` as `load_checkpoint` does, `ExportError` when it cannot be exported for
    the profile.
    """
    files = find_checkpoint(checkpoint, revision=None)
    progress.stage(f"load {files.name}")
    model = load_foreign(files, load_task(task or files.infer_task()), allow_not_finite=True)
    try_batch(files, model, [model.task.dummy_example(8)])
    batch = _example(model)
    flops = _count_flops(model, batch)
    total = flops.pop("")
    layers, reason = _layers(model, flops)
    inside = sum(count for name, count in flops.items() if layer_of(name) is not None)
    parameters, nonzero = model.parameter_counts()
    pooling = model.task.how_pooled(files.directory)
    return CheckpointFacts(
        path=checkpoint,
        model_type=model.module.config.model_type,
        task=model.task.name,
        labels=model.labels,
        parameters=parameters,
        nonzero_parameters=nonzero,
        not_finite=_not_finite(model),
        bytes_on_disk=sum(path.stat().st_size for path in files.weights),
        components=_components(model, flops, parameters),
        layers=layers,
        flops=total,
        sequence_length=_length(batch),
        tokenizer=_tokenizer(model),
        prunable=not reason,
        prunable_reason=reason,
        savings=most_savings(model, inside / total if total else 0.0),
        time=_time(model, batch, files, progress) if timing else None,
        embedding=None if pooling is None else pooling.record(),
        about_labels=model.task.about_labels(model.labels),
    )


def _example(model: TorchModel) -> Batch:
    """Return one example; a text fills 128 tokens, or what the model can read."""
    if not model.task.reads_tokens:
        return model.task.encode(model.preprocessor, [model.task.dummy_example(0)])
    length = min(_LENGTH, int(model.preprocessor.model_max_length))
    return model.task.benchmark_batch(
        model.preprocessor, [model.task.dummy_example(length)], 1, length
    )


def _length(batch: Batch) -> int | None:
    lengths = [value.shape[1] for value in batch.values() if value.ndim == 2]
    return lengths[0] if lengths else None


def _count_flops(model: TorchModel, batch: Batch) -> dict[str, int]:
    """Return the FLOPs of each module by itself, without its children; "" is the whole model."""
    inputs = {name: torch.from_numpy(value).to(model.device) for name, value in batch.items()}
    # The counter knows matmuls; the fused attention kernels of a CPU hide theirs.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _untrained(model.module), sdpa_kernel(SDPBackend.MATH), counter:
        model.module(**inputs)
    root = type(model.module).__name__
    counts = {
        name.removeprefix(root).removeprefix("."): sum(found.values())
        for name, found in counter.get_flop_counts().items()
        if name.startswith(root)
    }
    own = dict(counts)
    for name, count in counts.items():
        if name:
            own[_parent(name, counts)] -= count
    return {**{name: count for name, count in own.items() if name}, "": counts.get("", 0)}


@contextmanager
def _untrained(module: nn.Module) -> Iterator[None]:
    """Let no parameter of a module have a gradient in a block.

    The counter asks what a layer is given for its gradient function, and a parameter that a layer
    is given as it is, as DeBERTa's table of relative positions, has none where none are recorded.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _parent(name: str, counts: Mapping[str, int]) -> str:
    """Return the nearest module above that was counted; lists of layers are not called."""
    while name:
        name = name.rpartition(".")[0]
        if name in counts:
            return name
    return ""


def _components(
    model: TorchModel, flops: Mapping[str, int], parameters: int
) -> dict[str, PartFacts]:
    sizes: Counter[str] = Counter()
    bytes_of: Counter[str] = Counter()
    for name, value in model.module.named_parameters():
        sizes[component_of(name)] += value.numel()
        bytes_of[component_of(name)] += value.numel() * value.element_size()
    work: Counter[str] = Counter()
    for name, count in flops.items():
        work[component_of(f"{name}.")] += count
    return {
        part: PartFacts(sizes[part], bytes_of[part], sizes[part] / max(parameters, 1), work[part])
        for part in COMPONENTS
    }


def _layers(model: TorchModel, flops: Mapping[str, int]) -> tuple[tuple[LayerFacts, ...], str]:
    """Return each layer, and why heads and neurons cannot be pruned ("" when they can)."""
    sizes: Counter[int] = Counter()
    for name, value in model.module.named_parameters():
        if (index := layer_of(name)) is not None:
            sizes[index] += value.numel()
    work: Counter[int] = Counter()
    for name, count in flops.items():
        if (index := layer_of(name)) is not None:
            work[index] += count
    units: dict[int, EncoderLayer] = {}
    reason = ""
    try:
        units = {layer.index: layer for layer in encoder_layers(model.module)}
    except UnsupportedArchitecture as error:
        reason = error.reason
    found = []
    for index in sorted(sizes):
        unit = units.get(index)
        heads, neurons = (None, None) if unit is None else (unit.num_heads, unit.num_neurons)
        found.append(LayerFacts(index, sizes[index], work[index], heads, neurons))
    return tuple(found), reason


def _not_finite(model: TorchModel) -> dict[str, int]:
    """Return how many weights of a parameter are NaN or infinite, of those that have any."""
    counts = {
        name: int((~value.isfinite()).sum()) for name, value in model.module.named_parameters()
    }
    return {name: count for name, count in counts.items() if count}


def _tokenizer(model: TorchModel) -> TokenizerFacts:
    tool = model.preprocessor
    if not model.task.reads_tokens:
        return TokenizerFacts(tool.kind, None, None)
    backend = getattr(tool, "backend_tokenizer", None)
    kind = type(tool).__name__ if backend is None else type(backend.model).__name__
    limit = int(tool.model_max_length)
    return TokenizerFacts(kind, len(tool), limit if limit < NO_LIMIT else None)


def _time(
    model: TorchModel, batch: Batch, files: CheckpointFiles, progress: Progress
) -> TimeShares:
    progress.stage(f"export {files.name} and profile it on one thread")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with progress.bar("export", None):
            export_onnx(model, path, threads=1)
        return profile(path, batch, progress=progress)
