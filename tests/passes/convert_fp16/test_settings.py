from __future__ import annotations

from compressor.passes.convert_fp16.settings import ConvertFp16


def test_runs_on_gpus_only():
    assert ConvertFp16.providers == ("cuda", "tensorrt")


def test_calibration_is_asked_for_only_when_rows_are_run():
    assert ConvertFp16().required_splits() == {"calibration"}
    assert ConvertFp16(search_ranges=False).required_splits() == frozenset()
    assert ConvertFp16(search_ranges=False, keep_sensitive=1).required_splits() == {"calibration"}


def test_repair_leaves_more_and_more_nodes_in_float():
    assert [step.keep_sensitive for step in ConvertFp16().milder()] == [1, 2, 4, 8, 16]
    assert [step.keep_sensitive for step in ConvertFp16(keep_sensitive=4).milder()] == [8, 16]
