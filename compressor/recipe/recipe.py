"""The recipe: what a user asks for, read from YAML and checked before anything is run.

Reading a recipe loads neither torch nor the data, so `compress validate` answers at once, and every
mistake in the file is reported together as `file:line: key: what is wrong, what is allowed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from compressor.data import DataSettings
from compressor.errors import EnvironmentMismatch, RecipeError, raise_all
from compressor.measurements import Runtime
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.settings import ModelSettings
from compressor.own_code import ALLOW, OwnFunction, load_function
from compressor.passes import PASSES, Pass, TorchPass
from compressor.paths import LocalPath, exists, is_folder, no_folder
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.readable import readable_part
from compressor.recipe.rules import MOST_PASSES, find_conflicts
from compressor.recipe.yaml_source import Document, document_of, parse_document, read_text
from compressor.setting_errors import (
    Mistake,
    Variants,
    did_you_mean,
    explain,
    first_repeated,
    is_rule,
    rule_error,
    show,
)

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]
Value = TypeVar("Value")

_MOST_EXPLAINED = 200  # mistakes; finding the word that was meant takes a while
_OPSETS = range(18, 26)  # each of them is exported, run and quantized in the tests
# What stands in a recipe with mistakes for what is missing: names on the Hub are not looked up.
_STAND_INS: Mapping[tuple[str | int, ...], Any] = {
    ("model",): {"checkpoint": "not-given"},
    ("model", "checkpoint"): "not-given",
    ("data",): {"search": {"hub": "not-given"}},
    ("budget",): {"max_drop": 0.0},
    ("budget", "max_drop"): 0.0,
}
# Sections that no rule about repair and goals speaks of.
_APART = {"model", "data", "export", "report", "seed", "output"}
# What else a command may be given by mistake, told by its name.
_ROWS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".conll", ".npz")
_MODELS = (".onnx", ".safetensors", ".bin", ".pt", ".pth", ".gguf")
METRIC, PREPROCESS = "budget.metric", "data.preprocess"  # keys that may name code
_TAKES = {METRIC: "a compressor.MetricInputs", PREPROCESS: "a row as a dict"}


def _each_once(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if (twice := first_repeated(values)) is not None:
        raise ValueError(f"names {twice} twice")
    return values


def _several(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(_each_once(values)) == 1:
        raise ValueError(f"names {values[0]} alone; name two to compare, or none")
    return values


def _exported(opset: int) -> int:
    if opset not in _OPSETS:
        raise ValueError(
            f"must be {_OPSETS[0]} to {_OPSETS[-1]}, got {opset}: others the exporter cannot write "
            f"or ONNX Runtime cannot run"
        )
    return opset


class ExportSettings(BaseModel):
    """The recipe's `export`: how the ONNX file is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Provider = Field(
        default="cpu",
        description="what the graph is made for and judged on: an execution provider of ONNX "
        "Runtime, or openvino, which runs it on an Intel CPU",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        exclude_if=lambda value: value == "fp32",
        description="what OpenVINO computes in where the graph says float32; bf16 is faster on "
        "CPUs with AMX or AVX-512 BF16, rounds to 8 significant bits, and is judged like a pass",
    )
    evaluate_on: Literal["cpu"] | None = Field(
        default=None,
        description="execution provider that scores are taken on in place of `provider`: with cpu, "
        "a machine without the GPU can judge a model for it, and the report says where it was "
        "judged",
    )
    opset: Annotated[int, AfterValidator(_exported)] | None = Field(
        default=None,
        description=f"ONNX operator set, {_OPSETS[0]} to {_OPSETS[-1]}; left out, 20, which ONNX "
        "Runtime 1.18 and newer run; from 23 on (1.24.1 and newer) attention is one operator on "
        "the CPU, which is faster",
    )
    fuse: bool = Field(
        default=True,
        description="join operators such as those of attention, layer norm and GELU into one "
        "for the provider, and for the CPU leave out what is computed and never read",
    )
    max_length: int | None = Field(
        default=None,
        ge=2,
        description="tokens of a text that the artifact reads at most; longer texts are cut, "
        "or read in windows for token classification; left out, as many as the checkpoint reads",
    )
    max_parity_diff: float = Field(
        default=1e-3,
        gt=0,
        lt=1,
        description="largest difference allowed between the exported graph's logits and those "
        "of PyTorch; of outputs in the hundreds and beyond, also a hundred-thousandth of the "
        "largest, which rounding takes",
    )

    token_states: bool = Field(
        default=False,
        description="for sentence encoders: let the graph give last_hidden_state too, the states "
        "of all tokens, for programs that pool by themselves (sentence-transformers, ORTModel, "
        "fastembed)",
    )

    @property
    def judged_on(self) -> Provider:
        """Return the execution provider that graphs are evaluated on."""
        return self.evaluate_on or self.provider


class BenchmarkSettings(BaseModel):
    """The recipe's `benchmark`: which latencies are measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    providers: Annotated[tuple[Provider, ...], AfterValidator(_each_once)] = Field(
        default=("cpu",),
        description="execution providers of ONNX Runtime, and openvino, to time on; an empty list "
        "measures nothing",
    )
    runtimes: Annotated[tuple[Runtime, ...], AfterValidator(_several)] = Field(
        default=(),
        exclude_if=lambda value: not value,
        description="runtimes that the artifact is timed in on the CPU, taking turns, to see which "
        "serves it best on this machine at each batch size and length: [onnxruntime, openvino]; "
        "left out, none",
    )
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=65536)], ...], AfterValidator(_each_once)
    ] = Field(default=(1, 8), min_length=1, max_length=100, description="examples in one call")
    sequence_lengths: Annotated[
        tuple[Annotated[int, Field(ge=2, le=65536)], ...], AfterValidator(_each_once)
    ] = Field(
        default=(32, 128),
        min_length=1,
        max_length=100,
        description="tokens of each text; left out, the defaults are cut to what the model reads; "
        "not used for images",
    )
    warmup_runs: int = Field(
        default=5, ge=1, le=10_000, description="untimed calls before the timed ones"
    )
    num_runs: int = Field(
        default=50, ge=1, le=1_000_000, description="timed calls of each measurement"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="ONNX Runtime's threads; left out, all physical cores",
    )
    cuda_graph: bool = Field(
        default=False,
        description="on cuda and tensorrt, record the kernels of each batch size and length once "
        "and replay them as one, which takes launching them out of the time; an error where a "
        "graph cannot be recorded",
    )

    @property
    def measures(self) -> bool:
        """Return whether anything is timed at the end of a run."""
        return bool(self.providers or self.runtimes)

    def of_first_shape(self) -> Self:
        """Return the settings that time the first batch size and length on the first provider."""
        own = {
            "providers": self.providers[:1],
            "runtimes": (),
            "batch_sizes": self.batch_sizes[:1],
            "sequence_lengths": self.sequence_lengths[:1],
        }
        return self.model_copy(update=own)


class ReportSettings(BaseModel):
    """The recipe's `report`: what the report may show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    examples: bool = Field(
        default=True,
        description="show the texts and images of examples whose prediction changed; false for "
        "data that must not leave its file: row numbers, labels and confidences remain",
    )


class RepairSettings(BaseModel):
    """The recipe's `repair`: how far to look for milder settings of a pass whose gate failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tries: int = Field(
        default=6, ge=1, le=100, description="settings tried besides the recipe's own, for one pass"
    )
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="no further settings of a pass are tried once its tries together have taken "
        "this many minutes; left out, there is no such limit",
    )


def _to_pass(value: Any, info: ValidationInfo) -> Any:
    """Turn a mapping into the pass that its `kind` names."""
    if not isinstance(value, dict):
        if isinstance(value, Pass):
            return value
        raise ValueError(
            f"must be a mapping with the key 'kind' and that pass's settings, got {show(value)}"
        )
    known = PASSES
    kind = value.get("kind")
    if kind is None:
        raise rule_error(
            [Mistake((), f"required key 'kind' is missing (one of: {', '.join(known)})")]
        )
    if not isinstance(kind, str) or kind not in known:
        hint = did_you_mean(str(kind), known)
        raise rule_error([Mistake(("kind",), f"unknown pass {show(kind)}{hint}")])
    settings = known[kind].settings.variant_for(value)
    value = settings.as_left_out(value)
    if info.mode == "json":
        # Strict, so that "0.4" is no number; JSON, so that lists and paths keep their plain form.
        return settings.model_validate_json(json.dumps(value), strict=True, context=info.context)
    return settings.model_validate(value, context=info.context)


class Recipe(BaseModel):
    """What the user asked for, validated.

    Build one with `load_recipe`, or directly from settings objects; then a mistake is pydantic's
    `ValidationError`, and relative paths are relative to the working directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelSettings = Field(description="the checkpoint to compress")
    data: DataSettings = Field(description="columns, labels and splits")
    budget: AccuracyBudget = Field(description="how much the score may drop")
    passes: tuple[Annotated[SerializeAsAny[Pass], BeforeValidator(_to_pass)], ...] = Field(
        max_length=MOST_PASSES,
        description="what is done to the model, in order; an empty list is a plain export",
    )
    on_failure: Literal["stop", "repair"] = Field(
        default="stop",
        description="what happens when a pass loses too much: stop the run, or repair, which tries "
        "milder settings of that pass; a pass can say otherwise",
    )
    repair: RepairSettings | None = Field(
        default=None, description="how far to look for milder settings; left out, six tries"
    )
    export: ExportSettings = Field(
        default_factory=ExportSettings, description="how the ONNX file is made"
    )
    benchmark: BenchmarkSettings = Field(
        default_factory=BenchmarkSettings, description="which latencies are measured"
    )
    report: ReportSettings = Field(
        default_factory=ReportSettings, description="what the report may show"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="number that all random draws of the run follow from"
    )
    output: LocalPath | None = Field(
        default=None, description="directory for artifact and report, relative to the recipe"
    )

    _source: Document | None = PrivateAttr(None)
    _allows_code: bool = PrivateAttr(default=False)
    _functions: dict[str, OwnFunction] = PrivateAttr(default_factory=dict)  # by their keys

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, dict) and info.context.get("is_part"):
            return self  # rules between sections make no sense of a part of a recipe
        mistakes = [*find_conflicts(self.to_dict(), PASSES), *self._rule_mistakes()]
        if mistakes:
            raise rule_error(mistakes)
        return self

    def _rule_mistakes(self) -> list[Mistake]:
        """Return what is contradictory between passes, repair and goals."""
        return [*self._repair_mistakes(), *self._target_mistakes()]

    def _repair_mistakes(self) -> Iterator[Mistake]:
        for position, step in enumerate(self.passes):
            if step.on_failure == "repair" and next(step.milder(), None) is None:
                yield Mistake(
                    ("passes", position, "on_failure"),
                    f"these settings of {step.kind} have no milder ones to repair with; remove it",
                )
        if self.repair is not None and not any(self.may_repair(step) for step in self.passes):
            yield Mistake(
                ("repair",), "nothing may be repaired; set on_failure: repair, or remove it"
            )

    def _target_mistakes(self) -> Iterator[Mistake]:
        if self.budget.target is None:
            return
        place = ("budget", "target")
        if len(found := self._with_fraction()) != 1:
            names = ", ".join(f"passes[{item}] ({self.passes[item].kind})" for item in found)
            yield Mistake(
                place,
                f"searches the fraction of one pass, such as the ratio of prune_structured, and "
                f"{f'here {len(found)} have one: {names}' if found else 'here none has one'}; "
                f"leave one of them in the recipe, or remove target",
            )
        if any(self.may_repair(step) for step in self.passes):
            yield Mistake(
                place,
                "already searches for a fraction with which every gate holds, so a repair would "
                "search within the search; remove on_failure: repair, or remove target",
            )
        if self.budget.target.speedup is not None and not self.benchmark.providers:
            yield Mistake(
                ("benchmark", "providers"),
                "is empty, but budget.target.speedup is measured on the first of them; name one",
            )

    def _with_fraction(self) -> list[int]:
        return [
            position
            for position, step in enumerate(self.passes)
            if isinstance(step, TorchPass) and step.at_share(1.0) is not None
        ]

    @property
    def searched_pass(self) -> int | None:
        """Return the position of the pass whose fraction is searched; None without a target."""
        return None if self.budget.target is None else self._with_fraction()[0]

    def may_repair(self, step: Pass) -> bool:
        """Return whether milder settings of `step` are tried when its gate fails."""
        return (step.on_failure or self.on_failure) == "repair"

    def possible_passes(self) -> Iterator[Pass]:
        """Yield every pass with all settings that the run may come to try."""
        for step in self.passes:
            yield step
            if self.may_repair(step):
                yield from step.milder()

    def allowing_code(self) -> Self:
        """Return the recipe with leave to run the code that it names; nothing runs yet."""
        recipe = self.model_copy()
        recipe._allows_code = True
        return recipe

    @property
    def own_code(self) -> dict[str, str]:
        """Return the functions of the user's own that the recipe names, by their keys."""
        named = {METRIC: self.budget.own_metric, PREPROCESS: self.data.preprocess}
        return {key: reference for key, reference in named.items() if reference is not None}

    @property
    def own_metric(self) -> OwnFunction | None:
        """Return the metric that is the user's own, imported; None where the recipe names none.

        Raises `RecipeError` where nobody allowed it, and as `load_function` does.
        """
        return self._function(METRIC)

    @property
    def preprocess(self) -> OwnFunction | None:
        """Return the user's own function of rows, imported; raises as `own_metric` does."""
        return self._function(PREPROCESS)

    def _function(self, key: str) -> OwnFunction | None:
        reference = self.own_code.get(key)
        if reference is None:
            return None
        if not self._allows_code:
            raise RecipeError(
                self.describe(
                    key,
                    f"{reference} is code of your own, which runs with your rights and only where "
                    f"you allow it; read the file, and add {ALLOW}",
                )
            )
        if key not in self._functions:
            place = self.describe(key, "").removesuffix(": ")
            self._functions[key] = load_function(key, reference, takes=_TAKES[key], place=place)
        return self._functions[key]

    def require_own_code(self) -> list[OwnFunction]:
        """Import all code of the user's own; raises with a line for each that cannot run."""
        found: list[OwnFunction] = []
        mistakes: list[str] = []
        problems: list[str] = []
        for key in self.own_code:
            try:
                function = self._function(key)
            except RecipeError as error:
                mistakes += error.mistakes
            except EnvironmentMismatch as error:
                problems += error.problems
            else:
                assert function is not None, "the recipe names it"
                found.append(function)
        raise_all(self.in_order(mistakes), self.in_order(problems))
        return found

    @property
    def path(self) -> Path | None:
        """Return the file this recipe was read from, None when it was built in Python."""
        return None if self._source is None or not self._source.name else Path(self._source.name)

    @property
    def judged_split(self) -> str:
        """Return the split that slices and flips are taken from in the end."""
        return "search" if self.data.certification is None else "certification"

    @property
    def uses_openvino(self) -> bool:
        """Return whether anything is computed in OpenVINO."""
        timed = (*self.benchmark.providers, *self.benchmark.runtimes)
        return "openvino" in (self.export.provider, *timed)

    def kept_columns(self) -> dict[str, tuple[str, ...]]:
        """Return the columns of the data that slices are made of, by the split they are in."""
        return {self.judged_split: self.budget.slice_columns}

    def describe(self, key: str, message: str) -> str:
        """Return `file:line: key: message` for a mistake found later, such as `budget.max_drop`."""
        if self._source is None:
            return f"{key}: {message}"
        path = tuple(int(word) if word.isdecimal() else word for word in key.split("."))
        return self._source.describe(path, message)

    def placed(self, error: RecipeError) -> RecipeError:
        """Return `error` with the line of each mistake that begins with a key of the recipe."""
        return type(error)([self.placed_line(mistake) for mistake in error.mistakes])

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Raise a `RecipeError` of this block as `placed` returns it."""
        try:
            yield
        except RecipeError as error:
            raise self.placed(error) from error

    def placed_line(self, line: str) -> str:
        """Return a line that begins with a key of the recipe with its place before it."""
        key, _, rest = line.partition(": ")
        is_key = key.split(".")[0] in type(self).model_fields
        return self.describe(key, rest) if is_key else line

    def in_order(self, lines: Iterable[str]) -> list[str]:
        """Return finished lines in the order of the recipe's, each of them once."""
        if self._source is None:
            return list(dict.fromkeys(lines))
        return self._source.in_order(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, defaults filled in and paths resolved."""
        return self.model_dump(mode="json")


def load_recipe(
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()
) -> Recipe:
    """Read a recipe; each of `overrides` is `KEY=VALUE` such as `passes.0.ratio=0.4`.

    `recipe` is the path of a YAML file or the same as a dict. Relative paths, those in overrides
    too, are relative to the file's directory, and to the working directory for a dict. A `Recipe`
    is returned as it is.

    Raises `RecipeError` with every mistake that the file or dict and the overrides hold.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise RecipeError(
                f"overrides: {', '.join(overrides)} cannot be applied to a Recipe, which is "
                f"checked already; give the file or the dict that it was made of"
            )
        return recipe
    if isinstance(recipe, Mapping):
        return _from_document(document_of(recipe), Path.cwd(), overrides)
    path = Path(recipe)
    if (other := not_a_recipe(path)) is not None:
        raise RecipeError(f"{path}: {other}")
    text = read_text(path, "recipe", near=lambda: _recipes_beside(path))
    return parse_recipe(text, path=path, overrides=overrides)


def not_a_recipe(path: Path) -> str | None:
    """Say what a path is that was given in place of a recipe, and what to do; None if unknown."""
    if is_folder(path):
        if exists(path / "report.json"):
            return "is the output directory of a run; give the recipe, a YAML file"
        if exists(path / "config.json") or exists(path / "modules.json"):
            return (
                f"is a checkpoint, not a recipe; write a recipe for it with compress init {path} "
                f"--data ROWS.csv, and run that"
            )
    if path.suffix.lower() in _ROWS:
        return (
            f"is a file of rows, not a recipe; write a recipe with compress init CHECKPOINT "
            f"--data {path}, and run that"
        )
    if path.suffix.lower() in _MODELS:
        return (
            "is a file of a model, not a recipe; a recipe names the checkpoint to begin with, a "
            "folder that save_pretrained wrote: compress init CHECKPOINT --data ROWS.csv writes one"
        )
    return None


def _recipes_beside(path: Path) -> str:
    """Return which recipe may be meant where `path` does not exist."""
    if not is_folder(path.parent) or no_folder(path.parent) is not None:
        return ""
    found = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    if not found:
        return " (compress init CHECKPOINT --data ROWS.csv writes one)"
    return did_you_mean(path.name, found, noun="here")


def parse_recipe(text: str, *, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from its YAML `text`; `path` names it in errors and anchors relative paths.

    Raises `RecipeError` as `load_recipe` does.
    """
    return _from_document(parse_document(text, str(path)), Path(path).absolute().parent, overrides)


def _from_document(document: Document, base_dir: Path, overrides: Sequence[str]) -> Recipe:
    for override in overrides:
        document.override(override)
    data = document.data
    if "space" in data and "recipe" in data:
        place = document.name or "this"
        raise RecipeError(f"{place}: is a sweep, not a recipe; start it with compress sweep")
    context = {"base_dir": base_dir}
    try:
        recipe = Recipe.model_validate_json(json.dumps(data), strict=True, context=context)
    except ValidationError as error:
        mistakes, more = _explain(error, data)
        readable, further = _readable(data, context)
        mistakes += [item for item in further if item not in mistakes]
        lines = [document.describe(mistake.path, mistake.message) for mistake in mistakes]
        refusal = RecipeError(document.in_order([*document.mistakes, *lines]), more=more)
        if readable is not None:
            readable._source = document
            refusal.readable = readable
        raise refusal from error
    recipe._source = document
    if document.mistakes:
        refusal = RecipeError(document.in_order(document.mistakes))
        refusal.readable = recipe
        raise refusal
    return recipe


class _Unread(TorchPass):
    """Stands where a pass cannot be read, so that the others keep their positions."""

    kind: Literal["unread"] = "unread"

    def leaves(self, files: CheckpointFiles) -> None:
        """Return that nobody knows what this pass would leave."""


def _readable(
    data: Mapping[str, Any], context: Mapping[str, Any]
) -> tuple[Recipe | None, list[Mistake]]:
    """Return what is right in a recipe's plain `data`, and all that is wrong with single values.

    In place of what is missing or wrong and has to be there stands something that says nothing.
    """
    known = PASSES
    recipe, mistakes = readable_part(
        Recipe,
        {**data, "passes": []},
        context={**context, "is_part": True},
        stand_ins=_STAND_INS,
        variants={},
    )
    entries = data.get("passes")
    passes: list[Pass] = []
    for index, entry in enumerate(entries[:MOST_PASSES] if isinstance(entries, list) else ()):
        kind = entry.get("kind") if isinstance(entry, dict) else None
        step: Pass | None = None
        if isinstance(kind, str) and kind in known:
            settings = known[kind].settings.variant_for(entry)
            step, found = readable_part(
                settings,
                settings.as_left_out(entry),
                context=context,
                stand_ins={},
                variants=_variants(),
            )
            mistakes += [Mistake(("passes", index, *item.path), item.message) for item in found]
        passes.append(_Unread(on_failure=None) if step is None else step)
    if recipe is None:
        return None, mistakes
    recipe = recipe.model_copy(update={"passes": tuple(passes)})
    wrong = {str(item.path[0]) for item in mistakes if item.path}
    if wrong <= _APART and all(not isinstance(step, _Unread) for step in passes):
        mistakes += recipe._rule_mistakes()
    return recipe, mistakes


def _explain(error: ValidationError, data: dict[str, Any]) -> tuple[list[Mistake], int]:
    """Return what is wrong, and how many more mistakes there are that nobody would read."""
    errors = error.errors(include_url=False)
    known = PASSES
    told = errors[:_MOST_EXPLAINED]
    mistakes = explain(told, data, Recipe, _variants())
    if not all(is_rule(details) for details in errors):
        # The rules between sections have not run; look for what can be told already.
        mistakes += [item for item in find_conflicts(data, known) if item not in mistakes]
    return mistakes, len(errors) - len(told)


def _variants() -> Variants:
    """Return the classes that stand for a pass, and those beside which each of them stands."""
    kinds = [entry.settings.variants() for entry in PASSES.values()]
    beside = {item: variants for variants in kinds for item in variants}
    found: dict[type[BaseModel], tuple[type[Pass], ...]] = {Pass: tuple(beside)}
    return found | beside
