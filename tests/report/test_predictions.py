"""Terminal, page and Markdown show the same few predictions of both ends."""

from __future__ import annotations

from typing import Any

from compressor.report.predictions import prediction_lines, predictions_view
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain


def record(**changes: Any) -> dict[str, Any]:
    return {
        "row": 4, "text": "a fine film", "image": None, "before": "yes", "after": "yes",
        "before_score": 0.91234, "after_score": 0.9, "label": None, **changes,
    }  # fmt: skip


def test_lines_put_the_artifact_below_the_original(passed: dict[str, Any]):
    passed["predictions"] = [record(), record(text=None, after="no")]
    passed["compared_split"], passed["flips"] = "search", passed["flips"][:2]
    assert list(prediction_lines(from_plain(passed))) == [
        "Predictions, original and artifact (probability):",
        "  a fine film",
        "    original  0.912  yes",
        "    artifact  0.900  the same",
        "  row 4",
        "    original  0.912  yes",
        "    artifact  0.900  no",
        "Of 872 search rows, 2 (0.2%) turned wrong and 0 turned right; the report shows them.",
    ]


def test_without_labels_all_that_changed_is_counted(passed: dict[str, Any]):
    passed["predictions"], passed["compared_split"] = [record()], "search"
    passed["flips"] = [{**item, "kind": "changed"} for item in passed["flips"][:2]]
    *_, line = prediction_lines(from_plain(passed))
    assert line == "Of 872 search rows, 2 (0.2%) got another prediction; the report shows them."


def test_where_nothing_turned_it_is_not_said_that_nothing_changed(passed: dict[str, Any]):
    passed["predictions"], passed["compared_split"] = [record(label="no")], "search"
    passed["flips"] = []
    *_, line = prediction_lines(from_plain(passed))
    assert line == "Of 872 search rows, 0 turned wrong and 0 turned right; the report shows them."


def test_the_right_label_stands_beside_the_example(passed: dict[str, Any]):
    passed["predictions"] = [record(label="no")]
    assert "  a fine film (labelled no)" in list(prediction_lines(from_plain(passed)))
    assert "labelled no" in render_html(from_plain(passed))
    assert "labelled no" in render_markdown(from_plain(passed))


def test_a_long_text_is_cut_and_a_line_break_is_a_space(passed: dict[str, Any]):
    passed["predictions"] = [record(text="one\ntwo " + 100 * "x")]
    line = list(prediction_lines(from_plain(passed)))[1]
    assert line.startswith("  one two xxx")
    assert line.endswith("…")
    assert len(line) <= 80


def test_what_would_move_the_cursor_is_not_printed(passed: dict[str, Any]):
    passed["predictions"] = [record(text="red \x1b[31m")]
    assert "\x1b" not in "".join(prediction_lines(from_plain(passed)))


def test_the_summary_counts_what_is_the_same(passed: dict[str, Any]):
    passed["predictions"] = [record(), record(after="no")]
    view = predictions_view(from_plain(passed))
    assert view is not None
    assert view.summary.endswith("the artifact says the same of 1 of 2.")


def test_an_encoder_speaks_of_neighbors(passed: dict[str, Any]):
    passed["predictions"] = [record()]
    passed["task"] = "sentence-embedding"
    view = predictions_view(from_plain(passed))
    assert view is not None
    assert view.title == "Nearest texts, original and artifact"
    assert view.score == "cosine similarity"


def test_an_image_that_is_none_is_not_drawn(passed: dict[str, Any]):
    passed["predictions"] = [record(text=None, image="javascript:alert(1)")]
    assert "javascript:" not in render_html(from_plain(passed))


def test_without_an_artifact_nothing_is_shown(passed: dict[str, Any]):
    passed["predictions"] = []
    assert list(prediction_lines(from_plain(passed))) == []
    assert "original and artifact" not in render_html(from_plain(passed))
    assert "original and artifact" not in render_markdown(from_plain(passed))


def test_a_text_is_not_taken_for_markup(passed: dict[str, Any]):
    passed["predictions"] = [record(text="<b>bold</b> | `code`")]
    assert "<b>bold" not in render_html(from_plain(passed))
    assert "<b>bold" not in render_markdown(from_plain(passed))
