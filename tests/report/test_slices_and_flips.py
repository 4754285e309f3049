from typing import Any

import pytest

from compressor.report import verdict
from compressor.report.model_card import render_model_card
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain
from compressor.report.slices_and_flips import (
    MAX_CHARACTERS,
    MAX_SHOWN,
    flips_view,
    slice_rows,
    slices_summary,
)


def flip(kind: str, row: int, text: str | None = "a text") -> dict[str, Any]:
    return {
        "kind": kind, "row": row, "text": text, "label": None if kind == "changed" else "positive",
        "before": "positive", "after": "negative", "before_confidence": 0.93,
        "after_confidence": 0.999, "lost_confidence": 0.9, "image": None,
    }  # fmt: skip


def test_the_summary_counts_what_turned_wrong_and_right(passed: dict[str, Any]):
    found = flips_view(from_plain(passed))
    assert found is not None
    assert found.summary.startswith("On the certification split")
    assert "2 predictions turned wrong and 1 prediction turned right" in found.summary
    assert [row.row for row in found.rows] == ["17", "803", "40"]
    assert (found.rows[0].before_confidence, found.rows[0].after) == ("93%", "negative")


def test_changes_on_the_search_split_say_so(passed: dict[str, Any]):
    found = flips_view(from_plain(passed | {"compared_split": "search", "flips": []}))
    assert found is not None
    assert found.summary == (
        "On the search split, which the gates and all choices were made on, no prediction turned "
        "wrong and none turned right."
    )
    assert found.rows == ()


def test_a_run_that_compared_nothing_shows_nothing(report_in_state):
    assert flips_view(from_plain(report_in_state("failed-before-baseline"))) is None


def test_of_many_flips_the_worst_are_shown_and_the_rest_is_pointed_to(passed: dict[str, Any]):
    many = [flip("lost", row) for row in range(100)] + [flip("won", row) for row in range(50)]
    found = flips_view(from_plain(passed | {"flips": many}))
    assert found is not None
    kinds = [row.kind for row in found.rows]
    assert (kinds.count("lost"), kinds.count("won")) == (20, 5)
    assert found.note.startswith(f"{MAX_SHOWN} of 150 are shown; all are in report.json.")


def test_few_lost_predictions_leave_their_room_to_the_won_ones(passed: dict[str, Any]):
    many = [flip("lost", 1)] + [flip("won", row) for row in range(50)]
    found = flips_view(from_plain(passed | {"flips": many}))
    assert found is not None
    assert [row.kind for row in found.rows].count("won") == MAX_SHOWN - 1
    many = [flip("lost", row) for row in range(50)] + [flip("won", 1)]
    found = flips_view(from_plain(passed | {"flips": many}))
    assert found is not None
    assert [row.kind for row in found.rows].count("lost") == MAX_SHOWN - 1


def test_a_long_text_is_cut(passed: dict[str, Any]):
    found = flips_view(from_plain(passed | {"flips": [flip("lost", 1, "word " * 90)]}))
    assert found is not None
    assert len(found.rows[0].text) <= MAX_CHARACTERS
    assert found.rows[0].text.endswith("…")


def test_without_labels_there_is_no_column_for_the_right_one(passed: dict[str, Any]):
    page = render_html(from_plain(passed | {"flips": [flip("changed", 1)]}))
    assert "1 prediction changed" in page
    assert ">Right<" not in page


def test_texts_are_in_page_and_markdown_but_never_in_the_model_card(passed: dict[str, Any]):
    assert "a gripping film" in render_html(from_plain(passed))
    assert "a gripping film" in render_markdown(from_plain(passed))
    assert "a gripping film" not in render_model_card(from_plain(passed))


def test_the_worst_slice_stands_first_with_its_bound_and_budget(passed: dict[str, Any]):
    first, second, third = slice_rows(from_plain(passed))
    assert (first.name, first.verdict, first.change, first.bound) == (
        "label = negative", "refuted", "−3.10", "5.80",
    )  # fmt: skip
    assert (first.examples, first.counts) == ("450", "15 lost, 1 won")
    # The axis runs from the lowest bound, -2 points, to the highest, 5.8.
    assert (third.low, first.high) == (0.0, 100.0)
    assert first.zero == round(100 * 2 / 7.8, 2)
    assert second.budget == round(100 * 3 / 7.8, 2)


def test_the_summary_of_slices_counts_the_verdicts(passed: dict[str, Any]):
    words = slices_summary(from_plain(passed))
    assert "Of 3 slices, 1 is proven to lose more than 1 point of accuracy" in words
    assert "and 1 to lose less; the other has too few examples to tell" in words


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_slices_are_in_page_and_markdown(render, passed: dict[str, Any]):
    assert "label = negative" in render(from_plain(passed))
    assert "length = 1 to 7 words" not in render(from_plain(passed | {"slices": []}))


def test_a_run_that_a_slice_stopped_names_it(passed: dict[str, Any]):
    stopped = passed | {"verdict": "budget_exceeded", "guilty_step": "slices"}
    assert verdict.headline(from_plain(stopped)) == (
        "Over budget in a slice: the 450 rows of label = negative lost 3.1 points, a slice may "
        "lose 1 point (proven: at least 1.2 points)"
    )
    assert "budget.max_slice_drop" in verdict.next_step(from_plain(stopped))


def test_a_picture_is_shown_only_when_it_lies_in_the_report(passed: dict[str, Any]):
    inside = flip("lost", 1, None) | {"image": "data:image/png;base64,iVBORw0KGgo="}
    page = render_html(from_plain(passed | {"flips": [inside]}))
    assert '<img src="data:image/png;base64,iVBORw0KGgo=" alt="the image of row 1">' in page
    for elsewhere in ("https://example.org/a.png", 'data:image/png;base64,a" onload="b', ""):
        other = flip("lost", 1, None) | {"image": elsewhere}
        assert "<img" not in render_html(from_plain(passed | {"flips": [other]}))
