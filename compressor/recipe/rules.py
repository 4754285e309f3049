"""Rules between the sections of a recipe, which no single setting can break alone.

They work on plain data, because they also look at recipes whose sections are not all valid: a user
should hear of everything at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from compressor.models.checkpoint import find_checkpoint
from compressor.models.packaged import is_trained_here, local_folder
from compressor.models.runtime_releases import EXPORTER_OPSET
from compressor.own_code import is_reference
from compressor.passes import OnnxPass, Pass, PassEntry, TorchPass
from compressor.passes.base import TrainedFor
from compressor.setting_errors import KeyPath, Mistake, did_you_mean, show
from compressor.tasks import task_class, task_names
from compressor.training.distill_settings import DistillSettings
from compressor.words import counted

MOST_PASSES = 100  # of a recipe; more are a mistake of their own, and rules compare pairs of them
_TRAINED_TASK = "image-classification"  # of every model that the package trains
_PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino")
_DEFAULT_PROVIDER = "cpu"


@dataclass(frozen=True)
class _Step:
    """A pass of a recipe whose settings need not all be valid."""

    index: int
    declares: type[Pass]
    given: Mapping[str, object]

    @property
    def kind(self) -> str:
        return _kind(self.declares)

    @property
    def place(self) -> KeyPath:
        return ("passes", self.index, "kind")

    def value(self, name: str) -> object:
        """Return what the recipe says of a setting, or else its default; None if there is none."""
        field = self.declares.model_fields.get(name)
        return self.given.get(name, None if field is None else field.get_default())

    def __str__(self) -> str:
        return f"{self.kind} (passes[{self.index}])"


def find_conflicts(data: Mapping[str, object], known: Mapping[str, PassEntry]) -> list[Mistake]:
    """Return what is contradictory in a recipe's plain `data`; what is malformed is passed over.

    Which pass goes with which follows from what the `known` ones declare of themselves.
    """
    entries = data.get("passes")
    steps = [
        _Step(index, known[entry["kind"]].settings.variant_for(entry), entry)
        for index, entry in enumerate(entries[:MOST_PASSES] if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str) and entry["kind"] in known
    ]
    return [
        *_order_conflicts(steps),
        *_vocabulary_conflicts(steps),
        *_table_conflicts(steps),
        *_training_conflicts(steps, known),
        *_provider_conflicts(data, steps),
        *_export_conflicts(data),
        *_opset_conflicts(data, steps),
        *_graph_conflicts(data),
        *_length_conflicts(data),
        *_rows_conflicts(data, steps),
        *_task_conflicts(data),
    ]


def expected_task(data: Mapping[str, object]) -> str | None:
    """Return the task of a valid recipe's plain `data`; None when only loading it can tell.

    Raises `EnvironmentMismatch` when a checkpoint that lies here is for no task.
    """
    checkpoint = str(_setting(data, "model", "checkpoint", ""))
    task = _setting(data, "model", "task", None)
    if task is not None:
        return str(task)
    if is_trained_here(checkpoint):
        return _TRAINED_TASK
    if local_folder(checkpoint) is None:
        return None
    base = _setting(data, "model", "base", None)
    return find_checkpoint(checkpoint, base=None if base is None else str(base)).infer_task()


def _order_conflicts(steps: Sequence[_Step]) -> Iterator[Mistake]:
    on_graph: list[_Step] = []  # so far
    for step in steps:
        if issubclass(step.declares, TorchPass) and on_graph:
            first = on_graph[0]
            yield Mistake(
                step.place,
                f"{step.kind} changes the PyTorch model, but {first.kind} before it (passes"
                f"[{first.index}]) works on the exported graph; move {step.kind} before it",
            )
        if not issubclass(step.declares, OnnxPass):
            continue
        for earlier in on_graph:
            if reason := _format_conflict(earlier.declares, step.declares):
                yield Mistake(step.place, f"{step.kind} cannot follow {earlier}: {reason}")
                break  # the same is wrong with every pass between the two
        on_graph.append(step)


def _format_conflict(earlier: type[Pass], later: type[OnnxPass]) -> str | None:
    if issubclass(earlier, OnnxPass) and earlier.ends_graph:
        return "it needs outputs in float, and these are integers; move it before that pass"
    found = earlier.leaves_weights if issubclass(earlier, OnnxPass) else None
    wanted = later.takes_weights
    if found is None or wanted is None or found in wanted:
        return None
    if found == later.leaves_weights:
        return f"the weights are {found} already; keep one of the two"
    return f"it needs {' or '.join(wanted)} weights, and these are {found}; keep one of the two"


def _training_conflicts(
    steps: Sequence[_Step], known: Mapping[str, PassEntry]
) -> Iterator[Mistake]:
    """Check that what was trained for a format is stored in it, as it was trained."""
    for position, training in enumerate(steps):
        if (goal := training.declares.trains_for) is None:
            continue
        stores = {
            kind: way
            for kind, each in ((kind, entry.settings) for kind, entry in known.items())
            if issubclass(each, OnnxPass)
            and each.leaves_weights == goal.weights
            and (way := each.stores_trained) is not None
        }
        trained = training.value(goal.way)
        if trained not in stores.values():  # it is no value of this setting
            trained = training.declares.model_fields[goal.way].get_default()
        later = steps[position + 1 :]
        found = [step for step in later if stores.get(step.kind) == trained]
        if not found:
            [wanted, *_] = [kind for kind, way in stores.items() if way == trained]
            yield Mistake(
                training.place,
                f"{training.kind} trains for {goal.weights}, but no {wanted} after it stores "
                f"{goal.weights}; add `- kind: {wanted}`",
            )
        for step in later:
            if step in found:
                yield from _storing_conflicts(step, training, goal)
                break
            if step.kind not in stores and not step.declares.keeps_weights:
                yield Mistake(
                    step.place,
                    f"{step.kind} would move the weights off the {goal.weights} scales of "
                    f"{training}; move it before that pass",
                )


def _storing_conflicts(storing: _Step, training: _Step, goal: TrainedFor) -> Iterator[Mistake]:
    """Find settings with which a pass would round otherwise than was trained."""
    assert issubclass(storing.declares, OnnxPass), "others store nothing"
    for name, again in storing.declares.rounds_again.items():
        value = storing.value(name)
        if value not in (None, False) if again.values is None else value in again.values:
            why = again.why.format(trainer=training.kind)
            yield Mistake(("passes", storing.index, name), f"{why}; leave {name} out")
    for name, condition in goal.same.items():
        if any(
            name not in {*step.declares.model_fields, *step.given} for step in (storing, training)
        ):
            continue
        applies = condition is None or training.value(condition[0]) == condition[1]
        wanted, found = (
            goal.weights if step.value(name) is True else step.value(name)
            for step in (training, storing)
        )
        if applies and found != wanted:
            yield Mistake(
                ("passes", storing.index, name),
                f"is {found}, but {training.kind} before it trains for {wanted}; give both the "
                f"same {name}",
            )


def _vocabulary_conflicts(steps: Sequence[_Step]) -> Iterator[Mistake]:
    """Find what compares layers with those of a teacher that reads other tokens."""
    changing = next((step for step in steps if step.declares.changes_tokens), None)
    for step in steps:
        if changing is None or step.index < changing.index:
            continue
        for name in _compared_layers(step):
            yield Mistake(
                ("passes", step.index, *name.split(".")),
                f"compares layers with the untouched checkpoint's, which reads other tokens "
                f"since {changing}; move {changing.kind} behind this pass, or set "
                f"{name.rpartition('.')[2]} to 0",
            )


def _table_conflicts(steps: Sequence[_Step]) -> Iterator[Mistake]:
    """Find what needs the table of words whole, behind what makes it a product of two."""
    factored = next((step for step in steps if step.declares.factors_table), None)
    for step in steps:
        if factored is not None and step.index > factored.index and step.declares.needs_whole_table:
            yield Mistake(
                step.place,
                f"needs the table of words whole, and it is a product of two since {factored}; "
                + (
                    "remove one of them"
                    if step.kind == factored.kind
                    else f"move {factored.kind} behind this pass"
                ),
            )


def _compared_layers(step: _Step) -> Iterator[str]:
    """Yield settings that weigh losses on layers of the untouched checkpoint.

    A training within a pass, such as its recovery, always learns from it.
    """
    for name, field in step.declares.model_fields.items():
        nested = step.given.get(name)
        if not isinstance(nested, dict):
            continue
        for kind in _distillations(field.annotation):
            yield from (
                f"{name}.{key}" for key in kind.layer_weights if _is_above_0(nested.get(key))
            )
    teacher = step.declares.learns_from_baseline
    if (
        issubclass(step.declares, DistillSettings)
        and teacher is not None
        and step.value(teacher[0]) == teacher[1]
    ):
        yield from (key for key in step.declares.layer_weights if _is_above_0(step.value(key)))


def _distillations(annotation: object) -> Iterator[type[DistillSettings]]:
    """Yield the settings of distillation that a value of this type may be."""
    if isinstance(annotation, type) and issubclass(annotation, DistillSettings):
        yield annotation
    for inner in get_args(annotation):
        yield from _distillations(inner)


def _is_above_0(value: object) -> bool:
    return isinstance(value, int | float) and value > 0


def _provider_conflicts(data: Mapping[str, object], steps: Sequence[_Step]) -> Iterator[Mistake]:
    export = _setting(data, "export", "provider", _DEFAULT_PROVIDER)
    timed = _setting(data, "benchmark", "providers", (_DEFAULT_PROVIDER,))
    wanted = [("export.provider", export)]
    if isinstance(timed, list | tuple):
        wanted += [("benchmark.providers", name) for name in timed]
    compared = _setting(data, "benchmark", "runtimes", ())
    if isinstance(compared, list | tuple) and "openvino" in compared:
        wanted.append(("benchmark.runtimes", "openvino"))
    for step in steps:
        allowed, why = step.declares.providers, step.declares.not_elsewhere
        # A name that no provider has is a mistake of its own.
        known = [(setting, name) for setting, name in wanted if name in _PROVIDERS]
        for key, only in step.declares.narrowed_by.items():
            for setting, name in known if only.is_meant(step.value(key)) else ():
                if name not in only.providers and (allowed is None or name in allowed):
                    yield Mistake(
                        ("passes", step.index, key),
                        f"{step.value(key)} gives a model for {' or '.join(only.providers)}, but "
                        f"{setting} asks for {name}, where {only.why}",
                    )
        if allowed is None:
            continue
        for setting, name in known:
            if name not in allowed:
                yield Mistake(
                    step.place,
                    f"{step.kind} gives a model for {' or '.join(allowed)}, but "
                    f"{setting} asks for {name}; change {setting} or remove the pass"
                    f"{why and ': ' + why}",
                )


def _export_conflicts(data: Mapping[str, object]) -> Iterator[Mistake]:
    """Yield settings of the export that the provider has no use for."""
    provider = _setting(data, "export", "provider", _DEFAULT_PROVIDER)
    if provider == "openvino" and _setting(data, "export", "evaluate_on", None) is not None:
        yield Mistake(
            ("export", "evaluate_on"),
            "is for machines without the GPU that a graph is for, but export.provider is openvino, "
            "which runs on this CPU; remove it",
        )
    if provider in ("cuda", "tensorrt") and _setting(data, "benchmark", "runtimes", ()):
        yield Mistake(
            ("benchmark", "runtimes"),
            f"times the artifact on the CPU, but export.provider is {provider}; remove it",
        )
    precision = _setting(data, "export", "precision", "fp32")
    if precision == "bf16" and provider in _PROVIDERS and provider != "openvino":
        yield Mistake(
            ("export", "precision"),
            f"bf16 is what OpenVINO computes in, but export.provider is {provider}; set openvino, "
            f"or remove precision (convert_fp16 makes a graph in half precision for a GPU)",
        )


def _opset_conflicts(data: Mapping[str, object], steps: Sequence[_Step]) -> Iterator[Mistake]:
    """Yield settings whose result the operator set of the export cannot say."""
    asked = _setting(data, "export", "opset", None)
    opset = EXPORTER_OPSET if asked is None else asked
    for step in steps:
        for key, needed in step.declares.needs_opset.items():
            if type(opset) is int and opset < needed.oldest and step.value(key) == needed.value:
                yield Mistake(
                    ("passes", step.index, key),
                    f"{needed.value} needs operator set {needed.oldest}, but export.opset is "
                    f"{opset}{' by default' if asked is None else ''}; set it to {needed.oldest} "
                    f"or more",
                )


def _length_conflicts(data: Mapping[str, object]) -> Iterator[Mistake]:
    """Yield that texts are measured longer than the artifact reads them."""
    measured = _setting(data, "data", "max_length", None)
    shipped = _setting(data, "export", "max_length", None)
    if type(measured) is int and type(shipped) is int and measured > shipped:
        yield Mistake(
            ("data", "max_length"),
            f"measures texts of up to {counted(measured, 'token')}, and the artifact reads "
            f"{shipped} of them (export.max_length); set {shipped} or less, or remove it",
        )


def _rows_conflicts(data: Mapping[str, object], steps: Sequence[_Step]) -> Iterator[Mistake]:
    """Yield that a pass would read rows of its own in another form than those of the splits."""
    if _setting(data, "data", "preprocess", None) is None:
        return
    for step in steps:
        name = step.declares.rows_of_its_own
        if name is not None and step.value(name) is not None:
            yield Mistake(
                ("passes", step.index, name),
                "its rows are read as they stand in the file, and those of the splits through "
                "data.preprocess; write what the function gives for the splits into files of "
                "their own and remove data.preprocess, or leave these rows out",
            )


def _graph_conflicts(data: Mapping[str, object]) -> Iterator[Mistake]:
    timed = _setting(data, "benchmark", "providers", (_DEFAULT_PROVIDER,))
    wanted = _setting(data, "benchmark", "cuda_graph", False)
    if wanted is True and isinstance(timed, list | tuple) and set(timed) <= {"cpu", "openvino"}:
        yield Mistake(
            ("benchmark", "cuda_graph"),
            "records the kernels of a GPU, but benchmark.providers names neither cuda nor "
            "tensorrt; name one, or remove cuda_graph",
        )


def _task_conflicts(data: Mapping[str, object]) -> Iterator[Mistake]:
    """Check metric and input column against the task, when the recipe names one."""
    name = _setting(data, "model", "task", None)
    if isinstance(name, str) and name in task_names():
        yield from task_conflicts(data, name)


def task_conflicts(data: Mapping[str, object], name: str) -> Iterator[Mistake]:
    """Check metric and input column of a recipe's plain `data` against the task called `name`."""
    task = task_class(name)
    metric = _setting(data, "budget", "metric", None)
    is_own = isinstance(metric, str) and is_reference(metric)
    if isinstance(metric, str) and not is_own and metric not in task.metric_names():
        hint = did_you_mean(metric, task.metric_names())
        yield Mistake(("budget", "metric"), f"{name} has no metric {show(metric)}{hint}")
    if not task.reads_groups and _setting(data, "data", "group", None) is not None:
        yield Mistake(
            ("data", "group"), f"{name} takes every row by itself; remove it, or set model.task"
        )
    for column in ("text", "image", "audio"):
        if column != task.input_column and _setting(data, "data", column, None) is not None:
            yield Mistake(
                ("data", column),
                f"{name} reads {task.input_column}, not {column}; set data.{task.input_column}",
            )


def _setting(data: Mapping[str, object], section: str, key: str, default: object) -> object:
    """Return `data[section][key]`, or `default` when either is left out."""
    values = data.get(section, {})
    return values.get(key, default) if isinstance(values, dict) else default


def _kind(entry: type[Pass]) -> str:
    return str(entry.model_fields["kind"].default)
