"""Rules between the sections of a recipe, which no single setting can break alone.

They work on plain data, because they also look at recipes whose sections are not all valid: a user
should hear of everything at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compressor.measurements import LABEL_FREE
from compressor.models.checkpoint import find_checkpoint
from compressor.models.packaged import is_trained_here, local_folder
from compressor.passes import OnnxPass, Pass, TorchPass
from compressor.setting_errors import Mistake, did_you_mean, show
from compressor.tasks import task_class, task_names
from compressor.words import counted

MOST_PASSES = 100  # of a recipe; more are a mistake of their own, and rules compare pairs of them
_QUANTIZE = "quantize_"  # how the kinds of all passes over the graph that store int8 weights begin
_TRAIN_FOR_INT8 = "quantize_aware_train"  # leaves float weights on int8 grids
# Stores those grids, by how the training rounds activations.
_STORE_INT8 = {"per_token": "quantize_dynamic", "static": "quantize_static"}
# Settings of the same name in both, and the training's setting under which they have to be alike.
_AGREED: Mapping[str, tuple[str, Any] | None] = {
    "activations": None,
    "method": ("activations", "static"),
    "percentile": ("method", "percentile"),
    "rows": ("activations", "static"),
    "embeddings": ("freeze_embeddings", True),
    "embedding_block": ("embeddings", "int4"),
}
_FP16 = "convert_fp16"
_TRAINED_TASK = "image-classification"  # of every model that the package trains
_PROVIDERS = ("cpu", "cuda", "tensorrt")
_DEFAULT_PROVIDER = "cpu"
_TRIM = "trim_vocabulary"
_DISTILL = "distill"
# The losses of distillation that compare more than answers.
_LAYER_WEIGHTS = ("hidden_weight", "attention_weight", "sublayer_weight", "relation_weight")


def find_conflicts(data: Mapping[str, Any], known: Mapping[str, type[Pass]]) -> list[Mistake]:
    """Return what is contradictory in a recipe's plain `data`; what is malformed is passed over."""
    entries = data.get("passes")
    passes = [
        (index, known[entry["kind"]])
        for index, entry in enumerate(entries[:MOST_PASSES] if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and entry["kind"] in known
    ]
    return [
        *_order_conflicts(passes),
        *_vocabulary_conflicts(passes, entries),
        *_grid_conflicts(passes, entries),
        *_provider_conflicts(data, passes),
        *_graph_conflicts(data),
        *_length_conflicts(data),
        *_task_conflicts(data),
    ]


def needs_labels(data: Mapping[str, Any]) -> bool:
    """Return whether the metric of a valid recipe's plain `data` is surely taken on labels.

    Raises `EnvironmentMismatch` as `expected_metric` does.
    """
    metric = expected_metric(data)
    return metric is not None and metric not in LABEL_FREE


def expected_metric(data: Mapping[str, Any]) -> str | None:
    """Return the metric of a valid recipe's plain `data`; None when only loading it can tell.

    Where the recipe names neither metric nor task, a checkpoint that lies here tells the task.
    Raises `EnvironmentMismatch` when it cannot be read.
    """
    metric: str | None = _setting(data, "budget", "metric", None)
    if metric is None:
        task = expected_task(data)
        metric = None if task is None else task_class(task).metrics[0]
    return metric


def expected_task(data: Mapping[str, Any]) -> str | None:
    """Return the task of a valid recipe's plain `data`; None when only loading it can tell.

    Raises `EnvironmentMismatch` when a checkpoint that lies here is for no task.
    """
    checkpoint = str(_setting(data, "model", "checkpoint", ""))
    task: str | None = _setting(data, "model", "task", None)
    if task is None and is_trained_here(checkpoint):
        task = _TRAINED_TASK
    elif task is None and local_folder(checkpoint) is not None:
        task = find_checkpoint(checkpoint).infer_task()
    return task


def _order_conflicts(passes: Sequence[tuple[int, type[Pass]]]) -> Iterator[Mistake]:
    onnx: list[tuple[int, str]] = []  # the passes over the graph so far
    for index, entry in passes:
        kind = _kind(entry)
        place = ("passes", index, "kind")
        if issubclass(entry, TorchPass) and onnx:
            yield Mistake(
                place,
                f"{kind} changes the PyTorch model, but {onnx[0][1]} before it (passes"
                f"[{onnx[0][0]}]) works on the exported graph; move {kind} before it",
            )
        if not issubclass(entry, OnnxPass):
            continue
        for earlier, other in onnx:
            reason = _format_conflict(other, kind)
            if reason:
                yield Mistake(place, f"{kind} cannot follow {other} (passes[{earlier}]): {reason}")
                break  # the same is wrong with every pass between the two
        onnx.append((index, kind))


def _grid_conflicts(passes: Sequence[tuple[int, type[Pass]]], entries: Any) -> Iterator[Mistake]:
    """Check that what was trained for int8 is stored as int8, as it was trained."""
    for position, (index, entry) in enumerate(passes):
        if _kind(entry) != _TRAIN_FOR_INT8:
            continue
        training = _effective(entries[index], entry)
        wanted = _STORE_INT8.get(str(training.get("activations")), _STORE_INT8["per_token"])
        stores = [place for place, other in passes[position + 1 :] if _kind(other) == wanted]
        if not stores:
            yield Mistake(
                ("passes", index, "kind"),
                f"{_TRAIN_FOR_INT8} trains for int8, but no {wanted} after it stores int8; "
                f"add `- kind: {wanted}`",
            )
        for place, other in passes[position + 1 :]:
            if place in stores:
                yield from _storing_conflicts(place, _effective(entries[place], other), training)
                break
            if _kind(other) not in _STORE_INT8.values():
                yield Mistake(
                    ("passes", place, "kind"),
                    f"{_kind(other)} would move the weights off the int8 grids of "
                    f"{_TRAIN_FOR_INT8} (passes[{index}]); move it before that pass",
                )


def _storing_conflicts(
    place: int, storing: Mapping[str, Any], training: Mapping[str, Any]
) -> Iterator[Mistake]:
    """Find settings with which a pass at `place` would round otherwise than was trained."""
    for name in ("smooth", "smooth_alpha"):
        if storing.get(name) not in (None, False):
            yield Mistake(
                ("passes", place, name),
                f"rescales the weights that {_TRAIN_FOR_INT8} put on int8 grids, so they would be "
                f"rounded once more; leave {name} out",
            )
    if storing.get("once_per_text") == "int4":
        yield Mistake(
            ("passes", place, "once_per_text"),
            f"stores in 4 bits what {_TRAIN_FOR_INT8} put on int8 grids; leave once_per_text out",
        )
    for name, condition in _AGREED.items():
        if name not in storing or name not in training:
            continue
        applies = condition is None or training.get(condition[0]) == condition[1]
        wanted, found = (
            "int8" if item[name] is True else item[name] for item in (training, storing)
        )
        if applies and found != wanted:
            yield Mistake(
                ("passes", place, name),
                f"is {found}, but {_TRAIN_FOR_INT8} before it trains for {wanted}; give both the "
                f"same {name}",
            )


def _effective(entry: Mapping[str, Any], kind: type[Pass]) -> dict[str, Any]:
    """Return what an entry says, and the defaults of what it leaves out."""
    defaults = {name: field.get_default() for name, field in kind.model_fields.items()}
    return {**defaults, **entry}


def _format_conflict(earlier: str, later: str) -> str | None:
    if later.startswith(_QUANTIZE) and earlier == _FP16:
        return "int8 scales must come from float32 weights; quantize, or convert, not both"
    if later.startswith(_QUANTIZE) and earlier.startswith(_QUANTIZE):
        return "the weights are int8 already; keep one of the two"
    if later == earlier == _FP16:
        return "the weights are float16 already; keep one of the two"
    return None


def _vocabulary_conflicts(
    passes: Sequence[tuple[int, type[Pass]]], entries: Any
) -> Iterator[Mistake]:
    """Find what compares layers with those of a teacher that reads other tokens."""
    known = dict(passes)
    kinds = {index: _kind(entry) for index, entry in passes}
    trimmed = [index for index, kind in kinds.items() if kind == _TRIM]
    for index, kind in kinds.items():
        if not trimmed or index < trimmed[0]:
            continue
        own = entries[index]
        parts: dict[tuple[str | int, ...], Any] = {
            ("passes", index, "recovery"): own.get("recovery")
        }
        if kind == _DISTILL and own.get("teacher") is None:
            parts[("passes", index)] = own
        if kind == _TRAIN_FOR_INT8 and own.get("teacher") == "baseline":
            parts[("passes", index)] = _effective(own, known[index])
        for place, part in parts.items():
            for name in _layer_weights(part):
                yield Mistake(
                    (*place, name),
                    f"compares layers with the untouched checkpoint's, which reads other tokens "
                    f"since {_TRIM} (passes[{trimmed[0]}]); move {_TRIM} behind this pass, or set "
                    f"{name} to 0",
                )


def _layer_weights(settings: Any) -> list[str]:
    """Return which losses on layers are asked for."""
    if not isinstance(settings, dict):
        return []
    given = {name: settings.get(name) for name in _LAYER_WEIGHTS}
    return [name for name, value in given.items() if isinstance(value, int | float) and value > 0]


def _provider_conflicts(
    data: Mapping[str, Any], passes: Sequence[tuple[int, type[Pass]]]
) -> Iterator[Mistake]:
    export = _setting(data, "export", "provider", _DEFAULT_PROVIDER)
    timed = _setting(data, "benchmark", "providers", (_DEFAULT_PROVIDER,))
    wanted = [("export.provider", export)]
    if isinstance(timed, list | tuple):
        wanted += [("benchmark.providers", name) for name in timed]
    for index, entry in passes:
        if entry.providers is None:
            continue
        for setting, name in wanted:
            # A name that no provider has is a mistake of its own.
            if name in _PROVIDERS and name not in entry.providers:
                yield Mistake(
                    ("passes", index, "kind"),
                    f"{_kind(entry)} gives a model for {' or '.join(entry.providers)}, but "
                    f"{setting} asks for {name}; change {setting} or remove the pass"
                    f"{entry.not_elsewhere and ': ' + entry.not_elsewhere}",
                )


def _length_conflicts(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield that texts are measured longer than the artifact reads them."""
    measured = _setting(data, "data", "max_length", None)
    shipped = _setting(data, "export", "max_length", None)
    if type(measured) is type(shipped) is int and measured > shipped:
        yield Mistake(
            ("data", "max_length"),
            f"measures texts of up to {counted(measured, 'token')}, and the artifact reads "
            f"{shipped} of them (export.max_length); set {shipped} or less, or remove it",
        )


def _graph_conflicts(data: Mapping[str, Any]) -> Iterator[Mistake]:
    timed = _setting(data, "benchmark", "providers", (_DEFAULT_PROVIDER,))
    wanted = _setting(data, "benchmark", "cuda_graph", False)
    if wanted is True and isinstance(timed, list | tuple) and set(timed) <= {"cpu"}:
        yield Mistake(
            ("benchmark", "cuda_graph"),
            "records the kernels of a GPU, but benchmark.providers names neither cuda nor "
            "tensorrt; name one, or remove cuda_graph",
        )


def _task_conflicts(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Check metric and input column against the task, when the recipe names one."""
    name = _setting(data, "model", "task", None)
    if isinstance(name, str) and name in task_names():
        yield from task_conflicts(data, name)


def task_conflicts(data: Mapping[str, Any], name: str) -> Iterator[Mistake]:
    """Check metric and input column of a recipe's plain `data` against the task called `name`."""
    task = task_class(name)
    metric = _setting(data, "budget", "metric", None)
    if isinstance(metric, str) and metric not in task.metrics:
        hint = did_you_mean(metric, task.metrics)
        yield Mistake(("budget", "metric"), f"{name} has no metric {show(metric)}{hint}")
    for column in ("text", "image"):
        if column != task.input_column and _setting(data, "data", column, None) is not None:
            yield Mistake(
                ("data", column),
                f"{name} reads {task.input_column}, not {column}; set data.{task.input_column}",
            )


def _setting(data: Mapping[str, Any], section: str, key: str, default: Any) -> Any:
    """Return `data[section][key]`, or `default` when either is left out."""
    values = data.get(section, {})
    return values.get(key, default) if isinstance(values, dict) else default


def _kind(entry: type[Pass]) -> str:
    return str(entry.model_fields["kind"].default)
