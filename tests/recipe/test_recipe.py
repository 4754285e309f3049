from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from compressor.data import DataSettings, SplitSource
from compressor.errors import RecipeError
from compressor.passes import PASSES, OnnxPass, Pass, PassEntry, TorchPass
from compressor.passes.base import RoundsAgain, TrainedFor, WeightFormat
from compressor.paths import HubName, LocalPath
from compressor.recipe.budget import AccuracyBudget
from compressor.recipe.recipe import ModelSettings, Recipe, load_recipe, parse_recipe

RESCALES = RoundsAgain("rescales the weights that {trainer} put on int8 scales")


class Shrink(TorchPass):
    """A pass over the PyTorch model."""

    kind: Literal["shrink"] = "shrink"
    ratio: float = Field(default=0.5, gt=0, lt=1, description="fraction removed")
    steps: int = Field(default=1, ge=1, description="steps")
    uniform: bool = Field(default=False, description="the same everywhere")
    layers: tuple[int, ...] = Field(default=(), description="layers removed")
    teacher: HubName | None = Field(default=None, description="a checkpoint")
    table: LocalPath | None = Field(default=None, description="a file")


class QuantizeFast(OnnxPass):
    """A pass over the graph that runs on the CPU."""

    kind: Literal["quantize_fast"] = "quantize_fast"
    leaves_weights: ClassVar[WeightFormat | None] = "int8"
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = ("float32",)
    providers: ClassVar[tuple[str, ...] | None] = ("cpu",)


class ConvertFp16(OnnxPass):
    """A pass over the graph for a GPU."""

    kind: Literal["convert_fp16"] = "convert_fp16"
    leaves_weights: ClassVar[WeightFormat | None] = "float16"
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = ("float32", "int8")
    providers: ClassVar[tuple[str, ...] | None] = ("cuda", "tensorrt")


class Tidy(OnnxPass):
    """A pass over the graph that runs everywhere."""

    kind: Literal["tidy"] = "tidy"


class QuantizeAwareTrain(TorchPass):
    """A training that leaves weights on int8 scales."""

    kind: Literal["quantize_aware_train"] = "quantize_aware_train"
    trains_for: ClassVar[TrainedFor | None] = PASSES["quantize_aware_train"].settings.trains_for
    activations: Literal["per_token", "static"] = Field("per_token", description="how rounded")
    embeddings: Literal["int8", "int4"] = Field("int8", description="how tables are rounded")
    freeze_embeddings: bool = Field(True, description="whether tables are rounded")
    rows: int = Field(512, description="rows of static scales")


class QuantizeDynamic(QuantizeFast):
    """Stores weights as int8."""

    kind: Literal["quantize_dynamic"] = "quantize_dynamic"  # type: ignore[assignment]
    stores_trained: ClassVar[str | None] = "per_token"
    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {"smooth": RESCALES}
    embeddings: Literal["int8", "int4"] = Field("int8", description="how tables are stored")


class QuantizeStatic(QuantizeFast):
    """Stores weights as int8, with fixed scales."""

    kind: Literal["quantize_static"] = "quantize_static"  # type: ignore[assignment]
    stores_trained: ClassVar[str | None] = "static"
    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {"smooth_alpha": RESCALES}
    embeddings: Literal["int8", "int4"] = Field("int8", description="how tables are stored")
    rows: int = Field(512, description="rows of static scales")
    smooth_alpha: float | None = Field(None, description="strength of smoothing")


@pytest.fixture(autouse=True)
def known_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    known: tuple[type[Pass], ...] = (
        ConvertFp16,
        QuantizeAwareTrain,
        QuantizeDynamic,
        QuantizeFast,
        QuantizeStatic,
        Shrink,
        Tidy,
    )
    table = {item.model_fields["kind"].default: PassEntry(item, __name__) for item in known}
    monkeypatch.setattr("compressor.recipe.recipe.PASSES", table)


BASE = """\
model: {checkpoint: org/name}
data:
  search: {path: dev.tsv}
budget: {max_drop: 0.01}
passes: []
"""


def parse(text: str = BASE, *overrides: str) -> Recipe:
    return parse_recipe(textwrap.dedent(text), path="/srv/recipes/r.yaml", overrides=overrides)


def mistakes_of(text: str = BASE, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    name = "/srv/recipes/"
    return tuple(mistake.replace(name, "") for mistake in caught.value.mistakes)


def with_passes(*kinds: str, extra: str = "") -> str:
    return BASE.replace(
        "passes: []\n", "passes:\n" + "".join(f"  - kind: {kind}\n" for kind in kinds) + extra
    )


def test_a_plain_export_gets_every_default() -> None:
    recipe = parse()
    assert recipe.passes == ()
    assert recipe.to_dict()["export"] == {
        "provider": "cpu",
        "evaluate_on": None,
        "opset": None,
        "fuse": True,
        "max_length": None,
        "max_parity_diff": 1e-3,
        "token_states": False,
    }
    assert recipe.to_dict()["benchmark"] == {
        "providers": ["cpu"],
        "batch_sizes": [1, 8],
        "sequence_lengths": [32, 128],
        "warmup_runs": 5,
        "num_runs": 50,
        "threads": None,
        "cuda_graph": False,
    }
    assert (recipe.seed, recipe.output) == (0, None)


def test_passes_become_their_own_classes_in_order() -> None:
    recipe = parse(with_passes("shrink\n    ratio: 2e-1", "tidy"))
    assert recipe.passes == (Shrink(ratio=0.2), Tidy())


def test_a_dumped_recipe_is_plain_json_with_the_settings_of_each_pass() -> None:
    dumped = parse(with_passes("shrink")).to_dict()
    assert json.loads(json.dumps(dumped)) == dumped
    assert dumped["passes"] == [
        {
            "kind": "shrink",
            "on_failure": None,
            "ratio": 0.5,
            "steps": 1,
            "uniform": False,
            "layers": [],
            "teacher": None,
            "table": None,
        }
    ]


def test_every_relative_path_is_relative_to_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe = parse(
        BASE,
        "model.checkpoint=./model",
        "data.train.path=../train.tsv",
        "data.certification.path=~/c.tsv",
        "output=runs/one",
        "passes=[{kind: shrink, teacher: ../teacher, table: t.csv}]",
    )
    dumped = recipe.to_dict()
    assert dumped["model"]["checkpoint"] == "/srv/recipes/model"
    assert dumped["data"]["search"]["path"] == "/srv/recipes/dev.tsv"
    assert dumped["data"]["train"]["path"] == "/srv/train.tsv"
    assert dumped["data"]["certification"]["path"] == "/home/me/c.tsv"
    assert dumped["output"] == "/srv/recipes/runs/one"
    assert dumped["passes"][0]["teacher"] == "/srv/teacher"
    assert dumped["passes"][0]["table"] == "/srv/recipes/t.csv"


def test_a_relative_recipe_path_still_gives_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(BASE, encoding="utf-8")
    recipe = load_recipe("r.yaml")
    assert recipe.path == Path("r.yaml")
    assert recipe.to_dict()["data"]["search"]["path"] == str(tmp_path.resolve() / "dev.tsv")


@pytest.mark.parametrize("name", ["org/name", "builtin:digits-vit"])
def test_names_of_checkpoints_are_passed_through(name: str) -> None:
    assert parse(BASE, f"model.checkpoint={name}").model.checkpoint == name


def test_a_recipe_is_built_in_python_from_settings_objects() -> None:
    recipe = Recipe(
        model=ModelSettings(checkpoint="org/name"),
        data=DataSettings(search=SplitSource(path=Path("dev.tsv"))),
        budget=AccuracyBudget(max_drop=0.01),
        passes=(Shrink(ratio=0.4),),
    )
    assert (recipe.passes, recipe.path) == ((Shrink(ratio=0.4),), None)
    assert recipe.describe("seed", "wrong") == "seed: wrong"


def test_a_recipe_built_in_python_obeys_the_same_rules() -> None:
    with pytest.raises(ValidationError, match="tidy before it"):
        Recipe(
            model=ModelSettings(checkpoint="org/name"),
            data=DataSettings(search=SplitSource(path=Path("dev.tsv"))),
            budget=AccuracyBudget(max_drop=0.01),
            passes=(Tidy(), Shrink()),
        )


def test_label_names_that_yaml_1_1_calls_booleans_stay_text() -> None:
    recipe = parse(BASE.replace("data:\n", "data:\n  label_names: [no, yes]\n"))
    assert recipe.data.label_names == ("no", "yes")


def test_every_mistake_is_reported_at_once_with_its_line() -> None:
    text = """\
    model: {chekpoint: org/name}
    data:
      text: 5
      search: {path: dev.tsv, max_rows: 0}
    budget:
      max_drop: 1.5
    passes:
      - kind: shrink
        ratio: 1.5
        raito: 0.4
        steps: true
      - kind: shrnk
      - ratio: 0.5
      - shrink
    export: {provider: gpu, opset: 18.0}
    benchmark: null
    seed: "1"
    sed: 2
    seed: 2
    """
    every = (
        "model, data, budget, passes, on_failure, repair, export, benchmark, report, seed, output"
    )
    shrink = "kind, on_failure, ratio, steps, uniform, layers, teacher, table"
    kinds = (
        "convert_fp16, quantize_aware_train, quantize_dynamic, quantize_fast, quantize_static, "
        "shrink, tidy"
    )
    timing = (
        "providers, runtimes, batch_sizes, sequence_lengths, warmup_runs, num_runs, threads, "
        "cuda_graph"
    )
    assert set(mistakes_of(text)) == {
        "r.yaml:19: key 'seed' appears twice, first in line 17",
        "r.yaml:1: model: required key 'checkpoint' is missing",
        "r.yaml:1: model.chekpoint: unknown key 'chekpoint', did you mean 'checkpoint'? "
        "(allowed: checkpoint, revision, base, task, pooling, normalize, thresholds, "
        "zero_shot)",
        "r.yaml:3: data.text: must be text (put it in quotes) or a list, got 5",
        "r.yaml:4: data.search.max_rows: must be greater than 0, got 0",
        "r.yaml:6: budget.max_drop: must be less than 1, got 1.5; it is a part of the whole score, "
        "so that one point is 0.01",
        "r.yaml:9: passes[0].ratio: must be less than 1, got 1.5",
        f"r.yaml:10: passes[0].raito: unknown key 'raito', did you mean 'ratio'? "
        f"(allowed: {shrink})",
        "r.yaml:11: passes[0].steps: must be an integer, got true",
        f"r.yaml:12: passes[1].kind: unknown pass 'shrnk', did you mean 'shrink'? "
        f"(allowed: {kinds})",
        f"r.yaml:13: passes[2]: required key 'kind' is missing (one of: {kinds})",
        "r.yaml:14: passes[3]: must be a mapping with the key 'kind' and that pass's settings, "
        "got 'shrink'",
        "r.yaml:15: export.provider: must be 'cpu', 'cuda', 'tensorrt' or 'openvino', got 'gpu'",
        "r.yaml:15: export.opset: must be an integer, got 18.0",
        f"r.yaml:16: benchmark: must be a mapping (keys: {timing}), got nothing (null)",
        "r.yaml:17: seed: must be an integer, got '1'",
        f"r.yaml:18: sed: unknown key 'sed', did you mean 'seed'? (allowed: {every})",
    }


def test_missing_sections_are_each_reported() -> None:
    assert mistakes_of("seed: 1\n") == tuple(
        f"r.yaml:1: required key '{key}' is missing"
        for key in ("model", "data", "budget", "passes")
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("passes.0.ratio=1", "must be less than 1, got 1"),
        ("passes.0.ratio=0", "must be greater than 0, got 0"),
        ("passes.0.ratio='0.4'", "must be a number, got '0.4'"),
        ("passes.0.ratio=.nan", "must be a number, got '.nan'"),
        ("passes.0.steps=2.0", "must be an integer, got 2.0"),
        ("passes.0.uniform=1", "must be true or false, got 1"),
        ("passes.0.uniform=yes", "must be true or false, got 'yes'"),
        ("passes.0.layers=1", "must be a list, got 1"),
        ("budget.max_drop=-0.1", "must be at least 0, got -0.1"),
        ("seed=-1", "must be at least 0, got -1"),
        ("seed=4294967296", "must be less than 4294967296, got 4294967296"),
        ("model.checkpoint=5", "must be text (put it in quotes), got 5"),
        ("model.checkpoint=''", "must have at least 1 character, got ''"),
        ("model.task=text-clasification", "unknown task 'text-clasification', did you mean"),
        ("data.text=[a]", "must be text or a list of at least 2 entries, got a list of 1 entry"),
        ("data.search=dev.tsv", "must be a mapping (keys: path, "),
        ("benchmark.num_runs=0", "must be at least 1, got 0"),
        ("benchmark.providers=[cpu, cpu]", "names cpu twice"),
        ("benchmark.providers=cpu", "must be a list, got 'cpu'"),
        ("benchmark.batch_sizes=[]", "must be a list of at least 1 entry, got an empty list"),
        (
            "budget.max_missed={}",
            "must be a number or a mapping of at least 1 entry, got an empty mapping",
        ),
        ("benchmark=false", "must be a mapping"),
        ("export.max_parity_diff=0", "must be greater than 0, got 0"),
        ("passes.1.ratio=0.5", "passes is a list, '1' must be an index 0..0"),
    ],
)
def test_a_mistake_in_an_override_quotes_the_override(override: str, message: str) -> None:
    found = mistakes_of(with_passes("shrink"), override)
    [mistake] = [line for line in found if line.startswith(f"--set {override}: ")]
    assert message in mistake


def test_overrides_make_sections_that_the_file_leaves_out() -> None:
    recipe = parse(BASE, "export.opset=18", "benchmark.providers=[]", "data.train.sklearn=digits")
    assert (recipe.export.opset, recipe.benchmark.providers) == (18, ())
    assert recipe.data.train == SplitSource(sklearn="digits")


def test_mistakes_in_overrides_come_with_those_in_the_file() -> None:
    found = mistakes_of(with_passes("shrink\n    ratio: 2"), "seed", "passes.0.steps=0")
    assert found == (
        "r.yaml:7: passes[0].ratio: must be less than 1, got 2",
        "--set seed: must look like KEY=VALUE, such as passes.0.ratio=0.4",
        "--set passes.0.steps=0: must be at least 1, got 0",
    )


def test_a_torch_pass_after_a_graph_pass_is_a_mistake() -> None:
    assert mistakes_of(with_passes("tidy", "shrink")) == (
        "r.yaml:7: passes[1].kind: shrink changes the PyTorch model, but tidy before it "
        "(passes[0]) works on the exported graph; move shrink before it",
    )


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            ("quantize_fast", "quantize_fast"),
            "quantize_fast cannot follow quantize_fast (passes[0]): the weights are int8 already",
        ),
        (
            ("convert_fp16", "quantize_fast"),
            "quantize_fast cannot follow convert_fp16 (passes[0]): it needs float32 weights, and",
        ),
        (
            ("convert_fp16", "convert_fp16"),
            "convert_fp16 cannot follow convert_fp16 (passes[0]): the weights are float16 already",
        ),
    ],
)
def test_number_formats_that_exclude_each_other_are_a_mistake(
    kinds: Sequence[str], message: str
) -> None:
    found = mistakes_of(with_passes(*kinds))
    assert any(line.startswith(f"r.yaml:7: passes[1].kind: {message}") for line in found)


def test_training_for_int8_without_storing_int8_is_a_mistake() -> None:
    [mistake] = mistakes_of(with_passes("quantize_aware_train"))
    assert mistake.startswith("r.yaml:6: passes[0].kind: quantize_aware_train trains for int8, but")


def test_a_torch_pass_after_training_for_int8_is_a_mistake() -> None:
    [mistake] = mistakes_of(with_passes("quantize_aware_train", "shrink", "quantize_dynamic"))
    assert mistake == (
        "r.yaml:7: passes[1].kind: shrink would move the weights off the int8 scales of "
        "quantize_aware_train (passes[0]); move it before that pass"
    )


def test_int4_tables_after_training_for_int8_are_a_mistake() -> None:
    passes = ("quantize_aware_train", "quantize_dynamic")
    [mistake] = mistakes_of(with_passes(*passes, extra="    embeddings: int4\n"))
    assert mistake == (
        "r.yaml:8: passes[1].embeddings: is int4, but quantize_aware_train before it trains for "
        "int8; give both the same embeddings"
    )


def test_int4_tables_may_be_stored_where_they_were_trained_for_or_not_rounded() -> None:
    steps = with_passes("quantize_aware_train", "quantize_dynamic", extra="    embeddings: int4\n")
    for trained in ("embeddings: int4", "freeze_embeddings: false"):
        training = f"quantize_aware_train\n    {trained}\n"
        assert parse(steps.replace("quantize_aware_train\n", training)).passes


def trained_for_fixed_grids(storing: str) -> str:
    steps = with_passes("quantize_aware_train", storing)
    return steps.replace(
        "quantize_aware_train\n", "quantize_aware_train\n    activations: static\n"
    )


def test_training_for_fixed_grids_is_stored_with_fixed_grids() -> None:
    assert parse(trained_for_fixed_grids("quantize_static")).passes
    [mistake] = mistakes_of(trained_for_fixed_grids("quantize_dynamic"))
    assert mistake.endswith(
        "no quantize_static after it stores int8; add `- kind: quantize_static`"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rows: 100", "rows: is 100, but quantize_aware_train before it trains for 512"),
        ("smooth_alpha: 0.5", "smooth_alpha: rescales the weights that quantize_aware_train put"),
    ],
)
def test_fixed_grids_are_observed_as_in_training(setting: str, message: str) -> None:
    text = trained_for_fixed_grids("quantize_static") + f"    {setting}\n"
    [mistake] = mistakes_of(text)
    assert mistake.startswith(f"r.yaml:9: passes[1].{message}")


def test_weights_trained_for_int8_are_not_smoothed() -> None:
    steps = with_passes("quantize_aware_train", "quantize_dynamic")
    found = mistakes_of(steps.replace("quantize_dynamic\n", "quantize_dynamic\n    smooth: true\n"))
    rescaled = "r.yaml:8: passes[1].smooth: rescales the weights that quantize_aware_train"
    assert any(mistake.startswith(rescaled) for mistake in found)


def test_training_for_int8_is_followed_by_storing_it() -> None:
    recipe = parse(with_passes("shrink", "quantize_aware_train", "quantize_dynamic"))
    assert [step.kind for step in recipe.passes][1:] == ["quantize_aware_train", "quantize_dynamic"]


def test_a_pass_whose_result_cannot_run_where_it_should_is_a_mistake() -> None:
    text = with_passes("convert_fp16", extra="benchmark: {providers: [cuda, cpu]}\n")
    assert mistakes_of(text) == (
        "r.yaml:6: passes[0].kind: convert_fp16 gives a model for cuda or tensorrt, but "
        "export.provider asks for cpu; change export.provider or remove the pass",
        "r.yaml:6: passes[0].kind: convert_fp16 gives a model for cuda or tensorrt, but "
        "benchmark.providers asks for cpu; change benchmark.providers or remove the pass",
    )


@pytest.mark.parametrize("settings", ["{cuda_graph: true}", "{providers: [], cuda_graph: true}"])
def test_cuda_graphs_need_a_gpu_to_time_on(settings: str) -> None:
    text = with_passes("shrink", extra=f"benchmark: {settings}\n")
    assert mistakes_of(text) == (
        "r.yaml:7: benchmark.cuda_graph: records the kernels of a GPU, but benchmark.providers "
        "names neither cuda nor tensorrt; name one, or remove cuda_graph",
    )


@pytest.mark.parametrize("providers", ["[cpu, cuda]", "[tensorrt]"])
def test_cuda_graphs_are_allowed_where_a_gpu_is_timed(providers: str) -> None:
    extra = f"benchmark: {{providers: {providers}, cuda_graph: true}}\n"
    assert parse(with_passes("shrink", extra=extra)).benchmark.cuda_graph


def test_a_pass_runs_on_the_providers_it_names() -> None:
    text = with_passes("convert_fp16")
    recipe = parse(text, "export.provider=cuda", "benchmark.providers=[cuda]")
    assert recipe.passes == (ConvertFp16(),)


def test_order_is_checked_even_when_a_setting_is_wrong() -> None:
    found = mistakes_of(with_passes("tidy", "shrink\n    ratio: 7"))
    assert [line.split(": ")[1] for line in found] == ["passes[1].kind", "passes[1].ratio"]


def test_metric_and_columns_are_checked_against_the_task() -> None:
    text = BASE.replace("max_drop: 0.01", "max_drop: 0.01, metric: acuracy").replace(
        "data:\n", "data:\n  image: picture\n"
    )
    assert mistakes_of(text, "model.task=text-classification") == (
        "r.yaml:3: data.image: text-classification reads text, not image; set data.text",
        "r.yaml:5: budget.metric: text-classification has no metric 'acuracy', did you mean "
        "'accuracy'? (allowed: accuracy, f1_macro, matthews_correlation, agreement)",
    )


def test_a_mistake_found_later_still_names_its_line() -> None:
    assert parse().describe("budget.max_drop", "too fine") == (
        "/srv/recipes/r.yaml:4: budget.max_drop: too fine"
    )


def test_a_contradiction_in_data_names_its_line() -> None:
    assert mistakes_of(BASE, "data.certification.path=dev.tsv") == (
        "--set data.certification.path=dev.tsv: data.certification: reads the same rows as "
        "data.search, but rows that were used before certify nothing; give it rows of its own, or "
        "leave it out, and nothing is proven",
    )


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", ":1: the recipe is empty"),
        (b"model: \xff", ":1: not UTF-8"),
        (b"a: 1\nb: [\n", ":3: not valid YAML"),
        (
            b" " * (1 << 20) + b"x",
            ": holds 1048577 bytes, more than the 1048576 that are read at most",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_one_mistake(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    [mistake] = caught.value.mistakes
    assert mistake.startswith(f"{path}{part}")


def test_an_absent_recipe_is_a_recipe_error(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.mistakes == (
        f"{path}: does not exist; give the path of a recipe, a YAML file below 1 MiB (compress "
        f"init CHECKPOINT --data ROWS.csv writes one)",
    )


def test_loading_a_recipe_of_real_passes_loads_no_heavy_library(tmp_path: Path) -> None:
    assert PASSES  # the real ones: the fake discovery is compressor.recipe.recipe's alone
    path = tmp_path / "r.yaml"
    path.write_text(with_passes(*PASSES), encoding="utf-8")
    code = (
        "import sys\nfrom compressor.errors import RecipeError\n"
        "from compressor.recipe.recipe import load_recipe\n"
        f"try:\n    load_recipe({str(path)!r}, ['model.task=text-classification'])\n"
        "except RecipeError:\n    pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'pyarrow', 'datasets', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_pass_without_milder_settings_cannot_repair() -> None:
    text = with_passes("shrink", extra="    on_failure: repair\n")
    [mistake] = mistakes_of(text)
    assert "passes[0].on_failure: these settings of shrink have no milder ones" in mistake


def test_limits_of_a_repair_that_nothing_asks_for_are_a_mistake() -> None:
    [mistake] = mistakes_of(with_passes("shrink") + "repair: {max_tries: 3}\n")
    assert "repair: nothing may be repaired; set on_failure: repair" in mistake


def test_repair_is_off_unless_the_recipe_or_the_pass_says_so() -> None:
    stopping = parse(with_passes("shrink"))
    repairing = parse(with_passes("shrink") + "on_failure: repair\nrepair: {max_tries: 3}\n")
    assert not stopping.may_repair(stopping.passes[0])
    assert repairing.may_repair(repairing.passes[0])
    assert repairing.repair is not None
    assert (repairing.repair.max_tries, repairing.repair.max_minutes) == (3, None)


_MINIMAL = "model: {checkpoint: x}\ndata: {search: {path: a.tsv}}\nbudget: {max_drop: 0.1}\n"


def test_a_recipe_that_is_a_pipe_or_a_device_is_refused_without_being_opened(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(RecipeError, match="is a named pipe, not a file"):
        load_recipe(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError, match="is a device, not a file"):
        load_recipe(tmp_path / "zero.yaml")


def test_a_thousand_repeated_mistakes_are_told_in_forty_lines_and_a_count() -> None:
    passes = ", ".join(["{kind: quantize_fast}"] * 1000)
    text = f"{_MINIMAL}passes: [{passes}]\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, path="r.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "r.yaml:4: passes: must be a list of at most 100 entries, got a list of 1,000 entries"
    )
    # The list, and each of its first hundred passes but the first, which follows nothing.
    assert len(caught.value.mistakes) == 100
    assert lines[40:] == ["... and 60 more mistakes like these"]


def test_ten_thousand_unknown_keys_are_refused_within_seconds() -> None:
    text = f"{_MINIMAL}passes: []\n" + "".join(f"k{number}: 1\n" for number in range(10_000))
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, path="r.yaml")
    assert str(caught.value).splitlines()[-1] == "... and 9,960 more mistakes like these"


def test_a_key_of_half_a_megabyte_is_shortened_in_its_mistake() -> None:
    text = f"{_MINIMAL}passes: []\n? {'z' * 500_000}\n: 1\n"
    with pytest.raises(RecipeError, match=r"z{57}\.\.\.: unknown key 'z{57}\.\.\.'") as caught:
        parse_recipe(text, path="r.yaml")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("opset", [0, 17, 26, 30])
def test_an_operator_set_that_cannot_be_made_is_refused_with_the_allowed_ones(opset: int):
    with pytest.raises(RecipeError, match=rf"export\.opset=\d+: must be 18 to 25, got {opset}"):
        parse(BASE, f"export.opset={opset}")


def test_texts_are_not_measured_beyond_what_the_artifact_reads() -> None:
    [mistake] = mistakes_of(BASE, "data.max_length=64", "export.max_length=32")
    assert "measures texts of up to 64 tokens, and the artifact reads 32 of them" in mistake


PLAIN: dict[str, Any] = {
    "model": {"checkpoint": "org/name"},
    "data": {"text": "text", "label": "label", "search": {"path": "rows.csv"}},
    "budget": {"max_drop": 0.01},
    "passes": [{"kind": "quantize_dynamic"}],
}


def test_a_dict_is_a_recipe_whose_paths_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe({**PLAIN, "output": Path("run")})
    assert (recipe.data.search.path, recipe.output) == (tmp_path / "rows.csv", tmp_path / "run")
    assert recipe.path is None


def test_a_dict_is_read_as_strictly_as_a_file_and_its_mistakes_name_their_place():
    with pytest.raises(RecipeError) as raised:
        load_recipe({**PLAIN, "budget": {"max_drop": "0.01"}, "passes": [{"kind": "quantise"}]})
    assert raised.value.mistakes[0].startswith("budget.max_drop: must be a number")
    assert raised.value.mistakes[1].startswith("passes[0].kind: unknown pass 'quantise'")


def test_overrides_apply_to_a_dict_and_leave_the_callers_own_as_it_was():
    recipe = load_recipe(PLAIN, ["budget.max_drop=0.02"])
    assert recipe.budget.max_drop == 0.02
    assert PLAIN["budget"] == {"max_drop": 0.01}


def test_what_no_file_could_hold_is_refused_by_its_place():
    with pytest.raises(RecipeError, match=r"data\.text: is a set, and a recipe holds text"):
        load_recipe({**PLAIN, "data": {**PLAIN["data"], "text": {"a"}}})
    with pytest.raises(RecipeError, match=r"budget\.max_drop: must be finite, got nan"):
        load_recipe({**PLAIN, "budget": {"max_drop": float("nan")}})


def test_a_recipe_is_returned_as_it_is_and_takes_no_overrides():
    recipe = load_recipe(PLAIN)
    assert load_recipe(recipe) is recipe
    with pytest.raises(RecipeError, match=r"budget\.max_drop=0\.02 cannot be applied to a Recipe"):
        load_recipe(recipe, ["budget.max_drop=0.02"])
