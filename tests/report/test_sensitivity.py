from typing import Any

import pytest

from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain
from compressor.report.sensitivity import MAX_SHOWN, sensitivity_views


def layer(name: str, logit_rms: float, kept_in_float: bool = False) -> dict[str, Any]:
    return {
        "name": name, "layer": 0, "logit_rms": logit_rms, "bytes_saved": 1_500_000,
        "kept_in_float": kept_in_float,
    }  # fmt: skip


def test_the_most_sensitive_layer_comes_first(passed: dict[str, Any]):
    passed["passes"][1]["facts"] = {
        "sensitivity": [layer("a", 0.1), layer("b", 0.4, kept_in_float=True), layer("c", 0.2)]
    }
    [found] = sensitivity_views(from_plain(passed))
    assert found.title == "2 · quantize_dynamic"
    assert [(row.name, row.share, row.kept_in_float) for row in found.rows] == [
        ("b", 100.0, True), ("c", 50.0, False), ("a", 25.0, False),
    ]  # fmt: skip
    assert found.rows[0].saved == "1.50"
    assert found.note == "1 of 3 layers was left in float."


def test_of_many_layers_the_least_sensitive_are_left_out(passed: dict[str, Any]):
    layers = [layer(str(index), 1 + index) for index in range(MAX_SHOWN + 10)]
    passed["passes"][0]["facts"] = {"sensitivity": layers}
    [found] = sensitivity_views(from_plain(passed))
    assert len(found.rows) == MAX_SHOWN
    assert "The 10 least sensitive ones are in report.json only." in found.note


def test_layers_that_change_nothing_can_be_drawn(passed: dict[str, Any]):
    passed["passes"][0]["facts"] = {"sensitivity": [layer("a", 0.0)]}
    assert sensitivity_views(from_plain(passed))[0].rows[0].share == 0.0


@pytest.mark.parametrize(
    "value", [[], None, "text", [1], [{"name": "a"}], [layer("a", 0) | {"logit_rms": None}]]
)
def test_facts_of_another_form_are_not_drawn(value: Any, passed: dict[str, Any]):
    passed["passes"][0]["facts"] = {"sensitivity": value}
    assert sensitivity_views(from_plain(passed)) == []


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_page_and_markdown_say_what_stayed_in_float(render, passed: dict[str, Any]):
    passed["passes"][1]["facts"] = {
        "sensitivity": [layer("encoder.0.output", 0.4, kept_in_float=True)]
    }
    text = render(from_plain(passed))
    assert "Sensitivity by layer: 2 · quantize" in text
    assert "encoder.0.output" in text
    assert "1 of 1 layer was left in float" in text


def test_layers_say_what_they_are_stored_as(passed: dict[str, Any]):
    passed["passes"][0]["facts"] = {
        "sensitivity": [layer("a", 0.1) | {"converted_to": "float16"}, layer("b", 0.4)]
    }
    assert sensitivity_views(from_plain(passed))[0].converted_to == "int8"
    passed["passes"][0]["facts"]["sensitivity"].pop()
    assert sensitivity_views(from_plain(passed))[0].converted_to == "float16"
