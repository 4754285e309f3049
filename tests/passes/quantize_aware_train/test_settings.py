from __future__ import annotations

from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain


def test_training_and_measuring_read_a_split_each():
    assert QuantizeAwareTrain().required_splits() == {"train", "calibration"}


def test_rows_are_wanted_for_what_is_measured_and_where_scales_are_fixed_for_those_too():
    assert QuantizeAwareTrain(measured_rows=100).calibration_rows_wanted() == 100
    static = QuantizeAwareTrain(measured_rows=100, activations="static", rows=300)
    assert static.calibration_rows_wanted() == 300


def test_milder_settings_train_longer():
    tries = list(QuantizeAwareTrain().milder())
    assert tries
    assert all(item.epochs > QuantizeAwareTrain().epochs for item in tries)
