from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from compressor.passes.prune_structured.latency_file import LatencyFile, read_latency_file

POINTS = {"attention": [[0, 0.02], [4, 0.4]], "feed_forward": [[0, 0.02], [64, 0.6]]}
CONTENT: dict[str, Any] = {
    "format": 3,
    "situation": {"max_heads": 4, "max_neurons": 64},
    "made_on": {"cpu": "one"},
    "others": POINTS,
    "last": POINTS,
    "measured": {},
}


@pytest.fixture
def written(tmp_path: Path):
    def write(content: object) -> Path:
        path = tmp_path / "table.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def test_a_table_is_read_as_it_was_written(written):
    found = read_latency_file(written(CONTENT))
    times = {"attention": {0: 0.02, 4: 0.4}, "feed_forward": {0: 0.02, 64: 0.6}}
    assert found == LatencyFile(CONTENT["situation"], CONTENT["made_on"], times, times, {})
    assert found.content() == CONTENT


def test_the_table_of_a_report_can_be_given_back(written):
    passes = [{"facts": {}}, {"facts": {"latency_table": CONTENT}}]
    assert read_latency_file(written({"passes": passes})).content() == CONTENT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no latency table of format 3 .found 'list'"),
        ({**CONTENT, "format": 2}, "no latency table of format 3 .found 2"),
        ({"passes": []}, "a report with one latency table is needed, this one has 0"),
        ({**CONTENT, "situation": 1}, "situation must be an object, got 1"),
        (
            {**CONTENT, "last": {**POINTS, "attention": [[0, -1.0]]}},
            "last.attention must list pairs",
        ),
        ({**CONTENT, "last": {**POINTS, "attention": [[4, 1.0]]}}, "number of units once, from 0"),
        (
            {**CONTENT, "others": {**POINTS, "feed_forward": [[0, 0.1], [32, 1.0]]}},
            "others.feed_forward must reach max_neurons, 64, and ends at 32",
        ),
    ],
)
def test_what_is_no_table_is_refused(written, content: object, message: str):
    with pytest.raises(ValueError, match=message):
        read_latency_file(written(content))


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path):
    (tmp_path / "text").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="no such file; give a latency table or a report"):
        read_latency_file(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="is a directory, not a file; give a latency table"):
        read_latency_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a named pipe, not a file; give a latency table"):
        read_latency_file(tmp_path / "pipe")
    with pytest.raises(ValueError, match="cannot be read"):
        read_latency_file(tmp_path / "text")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"measured": {}', '"measured": {"clock": NaN}', r"is not JSON \(NaN is not JSON\)"),
        ("[0, 0.02]", "[0, 1" + "0" * 400 + "]", "at least 0 and finite"),
    ],
)
def test_a_number_that_no_report_can_hold_is_refused(
    tmp_path: Path, old: str, new: str, message: str
):
    text = json.dumps({**CONTENT, "measured": {}})
    (tmp_path / "table.json").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_latency_file(tmp_path / "table.json")
