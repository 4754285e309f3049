from __future__ import annotations

import pytest
from pydantic import ValidationError

from compressor.passes.quantize.settings import (
    QuantizeAuto,
    QuantizeDynamic,
    QuantizeStatic,
    QuantizeTensorrt,
    QuantizeWeights,
)


def test_true_is_the_old_spelling_of_int8():
    assert QuantizeDynamic.model_validate({"embeddings": True}) == QuantizeDynamic()
    assert QuantizeDynamic.model_validate({"embeddings": False}).embeddings is False
    with pytest.raises(ValidationError, match="'int8', 'int4', 'codes' or False"):
        QuantizeDynamic.model_validate({"embeddings": "int3"})


def test_runs_on_cpus_only():
    assert QuantizeDynamic.providers == ("cpu", "openvino")


def test_negative_minimum_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        QuantizeDynamic(min_elements=-1)


def test_calibration_rows_are_read_only_to_find_sensitive_weights():
    assert QuantizeDynamic().required_splits() == frozenset()
    assert QuantizeDynamic(keep_sensitive=1).required_splits() == {"calibration"}


def test_calibration_is_always_read_and_only_cpus_run_it():
    assert QuantizeStatic().required_splits() == {"calibration"}
    assert QuantizeStatic.providers == ("cpu", "openvino")


def test_milder_static_settings_leave_more_in_float():
    tries = list(QuantizeStatic().milder())
    assert [item.keep_sensitive for item in tries] == [1, 2, 4, 8, 0]
    assert [item.embeddings for item in tries] == [*["int8"] * 4, False]


@pytest.mark.parametrize("kind", [QuantizeStatic, QuantizeDynamic, QuantizeWeights])
def test_milder_codes_become_int4_where_the_runtime_looks_that_up(
    kind: type[QuantizeStatic | QuantizeDynamic | QuantizeWeights],
):
    def tables(settings: QuantizeStatic | QuantizeDynamic | QuantizeWeights) -> list[object]:
        tries = list(settings.milder())
        return [(each.embeddings, each.code_width, each.refined_rows) for each in tries[:2]]

    refined = kind(embeddings="codes", code_width=8, refined_rows=5)
    assert tables(refined) == [("int4", 12, 5), ("int8", 12, 0)]
    assert tables(kind(embeddings="codes", code_width=4))[0] == ("int8", 12, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"percentile": 50},
        {"percentile": 100.1},
        {"rows": 0},
        {"method": "best"},
        {"smooth_alpha": 1.5},
    ],
)
def test_static_settings_out_of_range_are_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        QuantizeStatic(**bad)


def test_rows_of_train_are_wanted_where_calibration_rows_are_read():
    assert QuantizeStatic().spare_rows_wanted() == 32
    assert QuantizeDynamic(bias_correction=True).spare_rows_wanted() == 32
    assert QuantizeDynamic().spare_rows_wanted() == 0


def test_milder_racing_settings_begin_with_the_most_exact_form():
    first = next(QuantizeAuto().milder())
    assert first.forms == ("per_token",)


@pytest.mark.parametrize(
    "bad", [{"forms": ()}, {"forms": ("fast",)}, {"max_changed": 1.1}, {"rounds": 0}]
)
def test_racing_settings_out_of_range_are_refused(bad: dict[str, object]):
    with pytest.raises(ValidationError):
        QuantizeAuto(**bad)


def test_combination_without_a_kernel_is_refused_before_anything_runs():
    with pytest.raises(ValidationError, match="no kernel on x86"):
        QuantizeWeights(bits=8, activations="float")
    with pytest.raises(ValidationError, match="16, 32, 64, 128 or 256"):
        QuantizeWeights.model_validate({"block_size": 48})


def test_milder_block_settings_lead_to_exact_ones():
    offers = [
        (step.embeddings, step.activations, step.block_size, step.bits)
        for step in QuantizeWeights(embeddings="int4").milder()
    ]
    assert offers == [
        ("int8", "int8", 32, 4),
        ("int8", "float", 32, 4),
        ("int8", "float", 16, 4),
        ("int8", "int8", 16, 8),
        (False, "int8", 16, 8),
    ]


def test_milder_settings_smooth_and_then_keep_weights_in_float():
    kept = [(0.8, count) for count in (1, 2, 4, 8)]
    found = {
        alpha: [
            (item.smooth_alpha, item.keep_sensitive)
            for item in QuantizeTensorrt(smooth_alpha=alpha).milder()
        ]
        for alpha in (0.8, None)
    }
    assert found == {0.8: kept, None: [(0.8, 0), *kept]}


def test_rows_are_asked_for_only_when_they_are_read():
    assert QuantizeWeights().required_splits() == frozenset()
    for settings in (
        QuantizeWeights(rounding="gptq"),
        QuantizeWeights(bias_correction=True),
        QuantizeDynamic(rounding="gptq"),
        QuantizeDynamic(bias_correction=True),
    ):
        assert settings.required_splits() == {"calibration"}


def test_no_rows_and_unknown_roundings_are_refused():
    with pytest.raises(ValidationError, match="greater than 0"):
        QuantizeWeights(rows=0)
    with pytest.raises(ValidationError, match="'nearest' or 'gptq'"):
        QuantizeWeights.model_validate({"rounding": "up"})
