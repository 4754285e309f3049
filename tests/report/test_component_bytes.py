from typing import Any

import pytest

from compressor.report.component_bytes import components_view
from compressor.report.report_json import from_plain

BEFORE = {
    "embeddings": 50_000_000,
    "attention": 20_000_000,
    "feed_forward": 29_000_000,
    "other": 1_000_000,
}
AFTER = {
    "embeddings": 12_500_000,
    "attention": 2_500_000,
    "feed_forward": 7_250_000,
    "other": 500_000,
}


def with_components(data: dict[str, Any], before: Any, after: Any) -> dict[str, Any]:
    data["baseline"]["components"], data["final"]["components"] = before, after
    return data


def test_widths_are_proportional_to_bytes_in_both_bars(passed: dict[str, Any]):
    found = components_view(from_plain(with_components(passed, BEFORE, AFTER)))
    assert found is not None
    before, after = ([part.width for part in stack.parts] for stack in found.stacks)
    assert before[0] / before[1] == pytest.approx(2.5, abs=0.01)
    assert before[0] / after[0] == pytest.approx(4.0, abs=0.01)
    assert [stack.total for stack in found.stacks] == ["100 MB", "22.8 MB"]


def test_the_rows_say_what_each_part_saved(passed: dict[str, Any]):
    found = components_view(from_plain(with_components(passed, BEFORE, AFTER)))
    assert found is not None
    assert found.rows == (
        ("embeddings", "50.0", "12.5", "4.0× smaller"),
        ("attention", "20.0", "2.50", "8.0× smaller"),
        ("feed-forward", "29.0", "7.25", "4.0× smaller"),
        ("other", "1.00", "0.500", "2.0× smaller"),
    )


def test_a_part_too_narrow_for_its_name_carries_no_label(passed: dict[str, Any]):
    found = components_view(from_plain(with_components(passed, BEFORE, AFTER)))
    assert found is not None
    assert [part.label for part in found.stacks[0].parts][-1] == ""
    assert found.stacks[0].parts[-1].title == "other: 1.00 MB"


def test_one_end_alone_is_shown_and_none_is_not(passed: dict[str, Any]):
    found = components_view(from_plain(with_components(passed, BEFORE, None)))
    assert found is not None
    assert [stack.name for stack in found.stacks] == ["before"]
    assert found.rows[0] == ("embeddings", "50.0", "—", "—")
    assert components_view(from_plain(with_components(passed, None, None))) is None
