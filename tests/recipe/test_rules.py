from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from compressor.models.runtime_releases import EXPORTER_OPSET
from compressor.passes import PASSES, OnnxPass, PassEntry, TorchPass
from compressor.passes.base import RoundsAgain, TrainedFor, WeightFormat
from compressor.pipeline.inputs import check_resolution, known_metric
from compressor.recipe.recipe import Recipe
from compressor.recipe.rules import find_conflicts
from compressor.training.distill_settings import DistillSettings


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_int8_on_a_gpu_is_refused_with_the_reason_and_the_alternative(provider: str) -> None:
    data = {
        "passes": [{"kind": "quantize_dynamic"}],
        "benchmark": {"providers": ["cpu", provider]},
    }
    [mistake] = find_conflicts(data, PASSES)
    assert mistake.path == ("passes", 0, "kind")
    assert mistake.message == (
        f"quantize_dynamic gives a model for cpu or openvino, but benchmark.providers asks for "
        f"{provider}; "
        f"change benchmark.providers or remove the pass: CUDA has no kernels for its integer "
        f"matmuls and would leave them to the CPU, slower than float32; convert_fp16 makes a "
        f"model for it, and quantize_tensorrt an int8 one for TensorRT"
    )


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_signed_pairs_are_refused_where_they_would_not_be_int8(provider: str) -> None:
    data = {
        "passes": [{"kind": "quantize_tensorrt"}],
        "export": {"provider": provider},
        "benchmark": {"providers": []},
    }
    [mistake] = find_conflicts(data, PASSES)
    assert mistake.path == ("passes", 0, "kind")
    assert mistake.message == (
        f"quantize_tensorrt gives a model for tensorrt, but export.provider asks for {provider}; "
        f"change export.provider or remove the pass: CUDA has no kernels for int8 matmuls and "
        f"would compute them in float, slower than without this pass; use convert_fp16 there, and "
        f"quantize_dynamic or quantize_static on a CPU"
    )


@pytest.mark.parametrize(
    ("kinds", "places"),
    [
        (["quantize_tensorrt", "convert_fp16"], []),
        (["convert_fp16", "quantize_tensorrt"], [1]),
        (["quantize_tensorrt", "quantize_tensorrt"], [1]),
        (["quantize_aware_train", "quantize_tensorrt"], [0, 1]),
    ],
)
def test_half_precision_may_follow_signed_pairs_and_nothing_else(
    kinds: list[str], places: list[int]
) -> None:
    data = {
        "passes": [{"kind": kind} for kind in kinds],
        "export": {"provider": "tensorrt"},
        "benchmark": {"providers": ["tensorrt"]},
    }
    found = find_conflicts(data, PASSES)
    assert {mistake.path for mistake in found} == {("passes", place, "kind") for place in places}


def test_four_bits_for_what_was_trained_in_eight_are_a_mistake() -> None:
    storing = {"kind": "quantize_dynamic", "once_per_text": "int4"}
    data = {"passes": [{"kind": "quantize_aware_train"}, storing]}
    [mistake] = find_conflicts(data, PASSES)
    assert mistake.path == ("passes", 1, "once_per_text")
    assert mistake.message.endswith(
        "quantize_aware_train trained for int8; leave once_per_text out"
    )


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"teacher": "baseline"}, ["hidden_weight"]),  # 1 by default
        ({"teacher": "baseline", "hidden_weight": 0}, []),
        ({"teacher": "baseline", "hidden_weight": 0, "attention_weight": 1}, ["attention_weight"]),
        ({}, []),
    ],
)
def test_training_for_int8_cannot_compare_layers_over_another_vocabulary(
    settings: dict[str, object], names: list[str]
) -> None:
    passes = [
        {"kind": "trim_vocabulary"},
        {"kind": "quantize_aware_train", **settings},
        {"kind": "quantize_dynamic"},
    ]
    found = find_conflicts({"passes": passes}, PASSES)
    assert [mistake.path for mistake in found] == [("passes", 1, name) for name in names]


def test_rows_of_a_table_may_go_after_training_for_int8() -> None:
    kinds = ("quantize_aware_train", "trim_vocabulary", "quantize_dynamic")
    assert find_conflicts({"passes": [{"kind": kind} for kind in kinds]}, PASSES) == []


class Pack(OnnxPass):
    """A pass that no rule has heard of: it packs float weights, as `Rehearse` trains them."""

    kind: Literal["pack"] = "pack"
    leaves_weights: ClassVar[WeightFormat | None] = "int8"
    takes_weights: ClassVar[tuple[WeightFormat, ...] | None] = ("float32",)
    stores_trained: ClassVar[str | None] = "in_pairs"
    rounds_again: ClassVar[Mapping[str, RoundsAgain]] = {
        "shift": RoundsAgain("moves what {trainer} trained", values=("left",))
    }
    shift: Literal["left", "none"] = Field("none", description="which way")
    width: int = Field(2, description="columns")


class Rehearse(DistillSettings, TorchPass):
    """Trains for `Pack`, after it has renumbered the tokens."""

    kind: Literal["rehearse"] = "rehearse"
    changes_tokens: ClassVar[bool] = True
    learns_from_baseline: ClassVar[tuple[str, object] | None] = ("teacher", "old")
    trains_for: ClassVar[TrainedFor | None] = TrainedFor(
        weights="int8", way="form", same={"width": ("form", "in_pairs")}
    )
    teacher: Literal["old", "new"] = Field("new", description="who teaches")
    form: Literal["in_pairs"] = Field("in_pairs", description="what is simulated")
    width: int = Field(2, description="columns")


@pytest.mark.parametrize(
    ("passes", "place", "message"),
    [
        (
            [{"kind": "pack"}, {"kind": "pack"}],
            (1, "kind"),
            "pack cannot follow pack (passes[0]): the weights are int8 already; keep one of the "
            "two",
        ),
        (
            [{"kind": "pack"}, {"kind": "quantize_weights"}],
            (1, "kind"),
            "quantize_weights cannot follow pack (passes[0]): it needs float32 weights, and these "
            "are int8; keep one of the two",
        ),
        (
            [{"kind": "rehearse"}],
            (0, "kind"),
            "rehearse trains for int8, but no pack after it stores int8; add `- kind: pack`",
        ),
        (
            [{"kind": "rehearse"}, {"kind": "finetune"}, {"kind": "pack"}],
            (1, "kind"),
            "finetune would move the weights off the int8 scales of rehearse (passes[0]); move it "
            "before that pass",
        ),
        (
            [{"kind": "rehearse"}, {"kind": "pack", "width": 4}],
            (1, "width"),
            "is 4, but rehearse before it trains for 2; give both the same width",
        ),
        (
            [{"kind": "rehearse"}, {"kind": "pack", "shift": "left"}],
            (1, "shift"),
            "moves what rehearse trained; leave shift out",
        ),
        (
            [{"kind": "rehearse", "teacher": "old", "hidden_weight": 1}, {"kind": "pack"}],
            (0, "hidden_weight"),
            "compares layers with the untouched checkpoint's, which reads other tokens since "
            "rehearse (passes[0]); move rehearse behind this pass, or set hidden_weight to 0",
        ),
    ],
)
def test_a_new_pass_gets_its_rules_from_what_it_declares(
    passes: list[dict[str, object]], place: tuple[int, str], message: str
) -> None:
    known = {
        **PASSES,
        "pack": PassEntry(Pack, __name__),
        "rehearse": PassEntry(Rehearse, __name__),
    }
    [mistake] = find_conflicts({"passes": passes}, known)
    assert (mistake.path, mistake.message) == (("passes", *place), message)


def test_a_metric_that_only_loading_can_tell_needs_no_labels_yet(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na\nb\nc\n")
    data = {
        "model": {"checkpoint": "sentence-transformers/all-MiniLM-L6-v2"},
        "data": {"search": {"path": str(tmp_path / "rows.csv")}},
        "budget": {"max_drop": 0.01},
        "passes": [],
    }
    recipe = Recipe.model_validate(data)
    assert known_metric(recipe) is None
    check_resolution(recipe)  # which of these rows a score is made of is open


@pytest.mark.parametrize(
    ("settings", "path", "told"),
    [
        (
            {"export": {"precision": "bf16"}},
            ("export", "precision"),
            "bf16 is what OpenVINO computes in, but export.provider is cpu",
        ),
        (
            {"export": {"provider": "openvino", "evaluate_on": "cpu"}},
            ("export", "evaluate_on"),
            "is for machines without the GPU that a graph is for",
        ),
        (
            {
                "export": {"provider": "openvino"},
                "passes": [{"kind": "quantize_dynamic", "embeddings": "int4"}],
            },
            ("passes", 0, "embeddings"),
            "int4 gives a model for cpu or cuda, but export.provider asks for openvino, where "
            "nothing looks rows up in 4 bits",
        ),
        (
            {
                "export": {"provider": "openvino"},
                "passes": [
                    {"kind": "quantize_dynamic", "embeddings": "codes", "refined_rows": 500}
                ],
            },
            ("passes", 0, "refined_rows"),
            "500 gives a model for cpu or cuda, but export.provider asks for openvino, where "
            "nothing looks rows up in 4 bits; leave refined_rows out",
        ),
        (
            {
                "export": {"provider": "openvino"},
                "passes": [{"kind": "quantize_static", "convolutions": "int8"}],
            },
            ("passes", 0, "convolutions"),
            "int8 gives a model for cpu, but export.provider asks for openvino, where they are "
            "written as ONNX Runtime computes them; leave it out",
        ),
        (
            {
                "export": {"provider": "cuda"},
                "benchmark": {"providers": ["cuda"], "runtimes": ["onnxruntime", "openvino"]},
            },
            ("benchmark", "runtimes"),
            "times the artifact on the CPU, but export.provider is cuda; remove it",
        ),
        (
            {
                "benchmark": {"runtimes": ["onnxruntime", "openvino"]},
                "passes": [{"kind": "quantize_dynamic", "embeddings": "int4"}],
            },
            ("passes", 0, "embeddings"),
            "int4 gives a model for cpu or cuda, but benchmark.runtimes asks for openvino",
        ),
        (
            {"benchmark": {"providers": ["openvino"]}, "passes": [{"kind": "convert_fp16"}]},
            ("passes", 0, "kind"),
            "convert_fp16 gives a model for cuda or tensorrt, but benchmark.providers asks for "
            "openvino",
        ),
    ],
)
def test_what_openvino_has_no_use_for_is_refused(
    settings: dict[str, Any], path: tuple[str | int, ...], told: str
) -> None:
    found = {mistake.path: mistake.message for mistake in find_conflicts(settings, PASSES)}
    assert told in found[path]


def test_openvino_takes_int8_tables_and_its_own_precision() -> None:
    data = {
        "export": {"provider": "openvino", "precision": "bf16"},
        "benchmark": {"providers": ["openvino", "cpu"]},
        "passes": [{"kind": "quantize_static"}],
    }
    assert list(find_conflicts(data, PASSES)) == []


@pytest.mark.parametrize(("opset", "count"), [(None, 1), (20, 1), (21, 0), (23, 0), ("new", 0)])
def test_matrices_in_four_bits_need_an_operator_set_that_has_them(opset: object, count: int):
    data = {
        "passes": [{"kind": "quantize_static", "matrices": "int4"}],
        "export": {"opset": opset},
    }
    found = find_conflicts(data, PASSES)
    assert [mistake.path for mistake in found] == count * [("passes", 0, "matrices")]
    said = (
        f"int4 needs operator set 21, but export.opset is {opset or f'{EXPORTER_OPSET} by default'}"
    )
    assert all(said in mistake.message for mistake in found)


def test_matrices_are_stored_in_the_bits_that_they_were_trained_in():
    training = {"kind": "quantize_aware_train", "activations": "static", "matrices": "int4"}
    storing = {"kind": "quantize_static", "matrices": "int4", "matrix_block": 32}
    data = {"passes": [training, storing], "export": {"opset": 23}}
    [mistake] = find_conflicts(data, PASSES)
    assert mistake.path == ("passes", 1, "matrix_block")
    assert "is 32, but quantize_aware_train before it trains for 64" in mistake.message
    assert not find_conflicts(
        {**data, "passes": [{**training, "matrix_block": 32}, storing]}, PASSES
    )


def test_rows_of_a_pass_are_refused_where_a_function_makes_those_of_the_splits() -> None:
    rows = {"path": "more.csv", "text": "text"}
    data = {
        "data": {"preprocess": "rows.py:clean"},
        "passes": [{"kind": "distill", "unlabelled": rows}, {"kind": "distill"}],
    }
    [mistake] = find_conflicts(data, PASSES)
    assert mistake.path == ("passes", 0, "unlabelled")
    assert "remove data.preprocess" in mistake.message
    assert find_conflicts({**data, "data": {}}, PASSES) == []
