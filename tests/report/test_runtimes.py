"""Which runtime a report calls the fastest, and where it says so."""

from __future__ import annotations

from typing import Any

import pytest

from compressor.measurements import Runtime, RuntimeLatency
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain
from compressor.report.runtimes import (
    RuntimeRow,
    runtime_names,
    runtime_rows,
    runtime_words,
    runtimes_lead,
)
from compressor.report.terminal import summary_text


def timed(runtime: Runtime, batch_size: int, p50_ms: float, cpu_ms: float | None) -> RuntimeLatency:
    version = {"onnxruntime": "1.32.0", "openvino": "2026.4.1"}[runtime]
    return RuntimeLatency(
        runtime=runtime, version=version, batch_size=batch_size, sequence_length=32,
        p50_ms=p50_ms, p95_ms=p50_ms * 1.1, num_runs=50, threads=1, cpu_p50_ms=cpu_ms,
    )  # fmt: skip


# By wall time OpenVINO would be the slower one of both at batch 32: something else was running.
TIMED = (
    timed("onnxruntime", 1, 4.0, 2.0),
    timed("openvino", 1, 5.0, 3.0),
    timed("onnxruntime", 32, 20.0, 19.0),
    timed("openvino", 32, 30.0, 10.0),
    timed("onnxruntime", 64, 40.0, 40.0),
    timed("openvino", 64, 40.0, 40.5),
)


def test_the_fastest_is_told_by_cpu_time_for_each_shape(make_report):
    report = make_report(runtimes=TIMED)
    assert runtime_names(report) == ["ONNX Runtime 1.32.0", "OpenVINO 2026.4.1"]
    assert runtime_rows(report) == [
        RuntimeRow("batch 1, 32 tokens", ("2.00", "3.00"), "ONNX Runtime", "1.5×"),
        RuntimeRow("batch 32, 32 tokens", ("19.0", "10.0"), "OpenVINO", "1.9×"),
        RuntimeRow("batch 64, 32 tokens", ("40.0", "40.5"), "alike", "1.0×"),
    ]
    assert runtime_words(report) == (
        "ONNX Runtime at batch 1, 32 tokens (1.5× as fast); OpenVINO at batch 32, 32 tokens "
        "(1.9× as fast); alike at batch 64, 32 tokens, of CPU time of one thread"
    )


def test_several_threads_are_compared_by_wall_time(make_report):
    report = make_report(
        runtimes=(timed("onnxruntime", 1, 6.0, None), timed("openvino", 1, 3.0, None))
    )
    assert [row.fastest for row in runtime_rows(report)] == ["OpenVINO"]
    assert "wall time" in runtimes_lead(report)


def test_nothing_is_said_where_nothing_was_timed(make_report):
    assert runtime_words(make_report()) is None
    assert "Runtimes" not in render_markdown(make_report())


@pytest.mark.parametrize("render", [render_html, render_markdown, summary_text])
def test_every_form_of_a_report_says_it(make_report, render: Any):
    text = render(make_report(runtimes=TIMED))
    assert "OpenVINO" in text
    assert "1.9×" in text


def test_rows_of_the_table_follow_each_other(make_report):
    lines = render_markdown(make_report(runtimes=TIMED)).splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| Input | ONNX"))
    assert lines[first + 1] == "|:--|--:|--:|:--|--:|"
    assert lines[first + 2] == "| batch 1, 32 tokens | 2.00 | 3.00 | ONNX Runtime | 1.5× |"
    assert lines[first + 4].startswith("| batch 64")
    assert not lines[first + 5]


def test_a_report_is_read_as_it_was_written(make_report):
    report = make_report(runtimes=TIMED)
    assert from_plain(report.to_dict()).runtimes == TIMED
