"""What the report shows of itself in Python and in a notebook."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from typing import Any

import compressor
from compressor.measurements import ModelRecord
from compressor.report import verdict
from compressor.report.render import render_markdown, render_model_card
from compressor.report.report_json import from_plain

HOSTILE = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Collects the tags of a fragment."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)


def test_a_report_is_one_line_that_says_how_the_run_ended(states: Any):
    assert repr(states["certified"]()) == (
        "<RunReport Passed: at most 0.87 points of accuracy lost, with 95% confidence, on 900 rows "
        "kept apart (budget 1 point); 5.2× smaller, 2.5× faster>"
    )


def test_a_run_without_an_artifact_gained_nothing_to_speak_of(states: Any):
    assert repr(states["stopped-at-second-pass"]()) == (
        "<RunReport Stopped by you after pass 1 of 2; run the same command again to resume>"
    )


def test_a_report_of_every_state_is_one_line(any_report: Any):
    assert "\n" not in repr(any_report)


def test_the_summary_is_what_the_terminal_shows_in_plain_text(states: Any):
    lines = states["certified"]().summary().splitlines()
    assert " ".join(lines[:2]) == (
        "Passed: at most 0.87 points of accuracy lost, with 95% confidence, on 900 rows kept apart "
        "(budget 1 point)."
    )
    assert "\x1b" not in "".join(lines)
    steps = [" ".join(line.split()) for line in lines]
    assert "Final artifact 17.4 17.0 M 89.40% −0.60 — within budget" in steps


def test_the_summary_of_a_failed_run_says_why(states: Any):
    text = states["failed-before-baseline"]().summary()
    assert "checkpoints/minilm: no such directory; give a directory or a Hub id" in text


def test_a_notebook_shows_the_first_screen_of_every_state(any_report: Any):
    page = any_report._repr_html_()
    headline = verdict.headline(from_plain(any_report.to_dict()))
    assert headline.replace("'", "&#39;") in page
    assert set(Tags(page).found) <= {"div", "span", "b"}


def test_hostile_text_stays_text_in_a_notebook(make_report: Any):
    report = make_report(doubts=(HOSTILE,), reason=HOSTILE, verdict="failed", guilty_step=HOSTILE)
    assert "script" not in Tags(report._repr_html_()).found
    assert "&lt;script&gt;" in report._repr_html_()


def test_a_score_that_is_not_a_number_can_be_shown(make_report: Any):
    final = make_report().final
    score = dataclasses.replace(final.score, value=float("nan"))
    broken = make_report(final=ModelRecord(score, final.size), certification=None, certificate=None)
    assert "score was not measured" in repr(broken)
    assert broken.summary()


def test_the_public_report_is_the_one_that_shows_itself(make_report: Any):
    assert isinstance(make_report(), compressor.RunReport)


def test_every_form_begins_with_the_same_sentence(states: Any):
    report = states["uncertified"]()
    data = report.to_dict()
    sentence = verdict.headline(from_plain(data))
    assert f"**{sentence}.**" in render_markdown(from_plain(data)).replace("\\", "")
    assert f"**{sentence}.**" in render_model_card(from_plain(data)).replace("\\", "")
    assert " ".join(report.summary().split()).startswith(f"{sentence}.")
    assert f"{sentence}." in report._repr_html_()
