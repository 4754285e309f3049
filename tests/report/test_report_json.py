import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from compressor.errors import EnvironmentMismatch, ReportError
from compressor.files import write_whole
from compressor.measurements import RunReport
from compressor.report.report_json import as_read, from_plain, read_report, to_json, to_plain
from compressor.stored_types import problems


def write(directory: Path, content: str) -> Path:
    file = directory / "report.json"
    file.write_text(content, encoding="utf-8")
    return file


def test_a_report_is_read_from_its_file_or_from_the_directory_of_the_run(
    tmp_path: Path, passed: dict[str, Any]
):
    file = write(tmp_path, json.dumps(passed))
    assert read_report(file) == read_report(tmp_path) == from_plain(passed)


def test_every_state_of_a_run_can_be_read_back(tmp_path: Path, any_state: dict[str, Any]):
    assert to_plain(read_report(write(tmp_path, json.dumps(any_state)))) == any_state


def test_a_report_that_was_read_is_written_as_it_was(tmp_path: Path, any_report: RunReport):
    text = to_json(any_report)
    assert to_json(read_report(write(tmp_path, text))) == text


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


def test_a_number_that_is_not_finite_becomes_null_with_a_reason(make_report):
    first, second = make_report().passes
    unknown = dataclasses.replace(second, score_after=math.nan, seconds=math.inf)
    report = make_report(passes=(first, unknown))
    data = to_plain(report)
    assert data["passes"][1]["score_after"] is None
    assert data["missing"] == {
        "passes[1].score_after": "the measurement came out as nan",
        "passes[1].seconds": "the measurement came out as inf",
    }
    assert "NaN" not in to_json(report)
    read = as_read(report).passes[1]
    assert read.score_after is None
    assert math.isnan(read.seconds)
    assert to_plain(as_read(report)) == data


def test_a_reason_from_the_run_is_kept(make_report):
    report = make_report(seconds=math.inf, missing={"seconds": "the clock was set back"})
    assert to_plain(report)["missing"] == {"seconds": "the clock was set back"}


def test_numbers_of_numpy_are_written_as_plain_numbers(make_report):
    data = json.loads(to_json(make_report(seconds=np.float32(1.5), rows_to_certify=np.int64(0))))
    assert (data["seconds"], data["rows_to_certify"]) == (1.5, 0)


def test_a_value_that_json_does_not_have_is_refused_with_its_place(make_report):
    report = make_report(recipe={"passes": [{"path": Path("x")}]})
    with pytest.raises(ReportError, match=r"recipe\.passes\[0\]\.path: \w*Path cannot be written"):
        to_json(report)


def test_text_that_utf8_cannot_carry_survives_a_round_trip(tmp_path: Path, make_report):
    labels = ("lone \ud800 surrogate", "größe")
    write_whole(tmp_path / "report.json", to_json(make_report(labels=labels)))
    assert read_report(tmp_path).labels == labels


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


def refused(content: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        from_plain(content)
    return problems(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"verdict": "fine"},
            "verdict: expected 'passed' or 'budget_exceeded' or 'not_certified' or 'failed' or "
            "'stopped' or 'internal_error', got 'fine'",
        ),
        ({"seconds": "long"}, "seconds: expected a number, got 'long'"),
        ({"seconds": True}, "seconds: expected a number, got True"),
        ({"seconds": -1.0}, "seconds: expected a number, 0 or more, got -1.0"),
        ({"seconds": float("inf")}, "seconds: expected a number, got inf"),
        ({"seconds": None}, "seconds: expected a number, got None"),
        ({"passes": {}}, "passes: expected a list, got {}"),
        ({"recipe": []}, "recipe: expected an object, got []"),
        ({"labels": [1]}, "labels[0]: expected text, got 1"),
        ({"missing": {"final": 3}}, "missing.final: expected text, got 3"),
        ({"baseline": "big"}, "baseline: expected an object, got 'big'"),
        ({"parity": {}}, "parity.max_abs_diff: missing"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_with_its_place(passed: dict[str, Any], change: Any, problem: str):
    assert problem in refused(passed | change)


def test_a_long_value_is_cut_in_the_message(passed: dict[str, Any]):
    [problem] = refused(passed | {"seconds": "x" * 500})
    assert len(problem) < 90


def test_null_is_allowed_for_a_measurement_whose_reason_is_given(passed: dict[str, Any]):
    passed["baseline"]["score"]["value"] = None
    assert refused(passed) == ["baseline.score.value: expected a number, got None"]
    passed["missing"] = {"baseline.score.value": "it came out as nan"}
    baseline = from_plain(passed).baseline
    assert baseline is not None
    assert math.isnan(baseline.score.value)


def test_a_key_with_a_default_may_be_absent(passed: dict[str, Any]):
    first = passed["passes"][0]
    del passed["labels"], first["notes"], first["facts"]
    report = from_plain(passed)
    assert (report.labels, report.passes[0].notes, report.passes[0].facts) == ((), (), {})


def test_a_negative_score_is_allowed(passed: dict[str, Any]):
    passed["baseline"]["score"]["value"] = -0.2
    assert from_plain(passed).baseline.score.value == -0.2
