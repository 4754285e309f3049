import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.errors import EnvironmentMismatch, ReportError
from compressor.files import write_whole
from compressor.report.files import read_report, to_json


def write(directory: Path, content: str) -> Path:
    file = directory / "report.json"
    file.write_text(content, encoding="utf-8")
    return file


def test_a_report_is_read_from_its_file_or_from_the_directory_of_the_run(
    tmp_path: Path, passed: dict[str, Any]
):
    file = write(tmp_path, json.dumps(passed))
    assert read_report(file) == read_report(tmp_path) == passed


def test_every_state_of_a_run_can_be_read_back(tmp_path: Path, any_state: dict[str, Any]):
    assert read_report(write(tmp_path, json.dumps(any_state))) == any_state


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got a list"),
        ('"text"', "expected a JSON object, got text"),
        ('{"schema_version": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "schema_version null cannot be read (supported: 1)"),
        ('{"schema_version": 2}', "schema_version 2 cannot be read (supported: 1)"),
        ('{"schema_version": true}', "schema_version true cannot be read (supported: 1)"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str, complaint: str):
    with pytest.raises(ReportError) as caught:
        read_report(write(tmp_path, content))
    assert complaint in str(caught.value)
    assert str(tmp_path / "report.json") in str(caught.value)


def test_a_report_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="no such report"):
        read_report(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="not JSON"):
        read_report(tmp_path)


def test_every_missing_key_is_named_at_once(tmp_path: Path, passed: dict[str, Any]):
    del passed["verdict"], passed["baseline"]["size"]["bytes_on_disk"]
    with pytest.raises(ReportError) as caught:
        read_report(write(tmp_path, json.dumps(passed)))
    assert "verdict: missing" in str(caught.value)
    assert "baseline.size.bytes_on_disk: missing" in str(caught.value)


def test_a_number_that_is_not_finite_becomes_null_with_a_reason(passed: dict[str, Any]):
    passed["passes"][1]["score_after"] = math.nan
    data, text = to_json(passed)
    assert data["passes"][1]["score_after"] is None
    assert data["missing"] == {"passes[1].score_after": "the measurement came out as nan"}
    assert "NaN" not in text


def test_a_reason_from_the_run_is_kept(passed: dict[str, Any]):
    passed |= {"seconds": math.inf, "missing": {"seconds": "the clock was set back"}}
    assert to_json(passed)[0]["missing"] == {"seconds": "the clock was set back"}


def test_numbers_of_numpy_are_written_as_plain_numbers(passed: dict[str, Any]):
    passed |= {"seconds": np.float32(1.5), "max_drop": np.int64(0)}
    data = json.loads(to_json(passed)[1])
    assert (data["seconds"], data["max_drop"]) == (1.5, 0)


def test_a_value_that_json_does_not_have_is_refused_with_its_place(passed: dict[str, Any]):
    passed["recipe"] = {"passes": [{"path": Path("x")}]}
    with pytest.raises(ReportError, match=r"recipe\.passes\[0\]\.path: \w*Path cannot be written"):
        to_json(passed)


def test_text_that_utf8_cannot_carry_survives_a_round_trip(tmp_path: Path, passed: dict[str, Any]):
    passed["labels"] = ["lone \ud800 surrogate", "größe"]
    write_whole(tmp_path / "report.json", to_json(passed)[1])
    assert read_report(tmp_path)["labels"] == passed["labels"]


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "report.md"
    file.write_text("old", encoding="utf-8")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "new")
    assert [item.name for item in tmp_path.iterdir()] == ["report.md"]
    assert file.read_text(encoding="utf-8") == "old"


def test_a_report_that_is_a_pipe_or_a_device_is_refused_without_being_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "report.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with pytest.raises(EnvironmentMismatch, match="is a named pipe, not a file"):
        read_report(tmp_path)
    with pytest.raises(EnvironmentMismatch, match="is a device, not a file"):
        read_report(tmp_path / "zero.json")
