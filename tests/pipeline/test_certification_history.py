from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Score
from compressor.pipeline.certification_history import READINGS, check_readings, record_reading

ROWS, OTHER_ROWS = "aa" * 32, "bb" * 32


def score(value: float) -> Score:
    return Score("accuracy", value, 100, np.zeros(100, dtype=np.int64))


def test_the_first_reading_is_number_one(tmp_path: Path):
    [reading] = record_reading(tmp_path / "readings.json", score(0.9), score(0.89), ROWS, "ee")
    assert (reading.number, reading.is_this_run) == (1, True)
    assert (reading.baseline, reading.final, reading.num_examples) == (0.9, 0.89, 100)


def test_the_same_result_of_the_same_artifact_is_no_second_reading(tmp_path: Path):
    path = tmp_path / "readings.json"
    first = record_reading(path, score(0.9), score(0.89), ROWS, "ee")
    assert record_reading(path, score(0.9), score(0.89), ROWS, "ee") == first


def test_another_artifact_on_the_same_rows_is_a_second_reading(tmp_path: Path):
    path = tmp_path / "readings.json"
    record_reading(path, score(0.9), score(0.8), ROWS, "ee")
    readings = record_reading(path, score(0.9), score(0.89), ROWS, "ff")
    assert [(item.number, item.final, item.is_this_run) for item in readings] == [
        (1, 0.8, False),
        (2, 0.89, True),
    ]


def test_going_back_to_the_first_artifact_points_at_the_first_reading(tmp_path: Path):
    path = tmp_path / "readings.json"
    record_reading(path, score(0.9), score(0.8), ROWS, "ee")
    record_reading(path, score(0.9), score(0.89), ROWS, "ff")
    readings = record_reading(path, score(0.9), score(0.8), ROWS, "ee")
    assert [item.is_this_run for item in readings] == [True, False]


def test_other_rows_have_readings_of_their_own(tmp_path: Path):
    path = tmp_path / "readings.json"
    record_reading(path, score(0.9), score(0.8), ROWS, "ee")
    [reading] = record_reading(path, score(0.9), score(0.8), OTHER_ROWS, "ee")
    assert reading.number == 1


@pytest.mark.parametrize("content", ["", "{", '[{"number": 1}]', "3", "{}", "[3]", "[" * 100_000])
def test_a_damaged_history_is_not_forgotten(tmp_path: Path, content: str):
    path = tmp_path / "readings.json"
    path.write_text(content)
    with pytest.raises(EnvironmentMismatch, match="not a readable history"):
        record_reading(path, score(0.9), score(0.8), ROWS, "ee")
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("name", "value"),
    [("number", "1"), ("number", True), ("baseline", None), ("read_at", 5), ("is_this_run", 0)],
)
def test_a_reading_with_a_value_of_another_kind_is_damage(tmp_path: Path, name: str, value: object):
    path = tmp_path / "readings.json"
    record_reading(path, score(0.9), score(0.8), ROWS, "ee")
    [reading] = json.loads(path.read_text())
    path.write_text(json.dumps([{**reading, name: value}]))
    with pytest.raises(EnvironmentMismatch, match=rf"readings\.json: .*\(\[0\]\.{name}: expected"):
        check_readings(path)


def test_a_folder_in_place_of_the_history_is_damage(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="not a readable history"):
        check_readings(tmp_path)


def test_no_history_and_a_whole_one_are_in_order(tmp_path: Path):
    path = tmp_path / "readings.json"
    check_readings(path)
    record_reading(path, score(1), score(0.8), ROWS, "ee")
    check_readings(path)


def test_a_history_that_is_a_pipe_is_refused_without_being_opened(tmp_path: Path):
    os.mkfifo(tmp_path / READINGS)
    with pytest.raises(EnvironmentMismatch, match="is a named pipe, not a file"):
        check_readings(tmp_path / READINGS)
