"""How each number was taken is said in words that follow from the figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from rich.console import Console

from compressor.measurements import LengthRecord
from compressor.report.model_card import render_model_card
from compressor.report.provenance import length_words, noise_words
from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain
from compressor.report.terminal import render_summary

CUT = LengthRecord(512, 512, 64, 64, 1872, 31)
CUT_WORDS = (
    "The artifact reads up to 512 tokens of a text, as the checkpoint does. It was measured on "
    "texts of up to 64 tokens: 31 of the 1,872 (1.7%) are longer, and data.max_length cut them. "
    "Longer texts were not measured."
)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (CUT, CUT_WORDS),
        (
            LengthRecord(512, 128, 128, 55, 872, 0),
            "The artifact reads up to 128 tokens of a text, as the recipe says; the checkpoint "
            "reads 512. It was measured on texts of up to 55 tokens. Longer texts were not "
            "measured.",
        ),
        (
            LengthRecord(None, 512, 512, 512, 872, 3),
            "The artifact reads up to 512 tokens of a text, as export.max_length says: the "
            "checkpoint names no limit. It was measured up to that length: 3 of the 872 (0.3%) are "
            "longer, and neither model read the rest of them.",
        ),
        (
            LengthRecord(512, 128, 128, 128, 872, 0, "passes.1.student"),
            "The artifact reads up to 128 tokens of a text, as the student does "
            "(passes.1.student); the checkpoint reads 512. It was measured up to that length.",
        ),
        (
            LengthRecord(None, 128, 128, 128, 872, 0, "passes.1.student"),
            "The artifact reads up to 128 tokens of a text, as the student does "
            "(passes.1.student); the checkpoint names no limit. It was measured up to that length.",
        ),
        (
            LengthRecord(512, 128, 128, 128, 872, 0, "export.max_length"),
            "The artifact reads up to 128 tokens of a text, as the recipe says; the checkpoint "
            "reads 512. It was measured up to that length.",
        ),
        (
            LengthRecord(5519, 5519, 5519, 5519, 40, 3, unit="sample"),
            "The artifact reads up to 5,519 samples of a sound, as the checkpoint does. It was "
            "measured up to that length: 3 of the 40 (7.5%) are longer, and neither model read the "
            "rest of them.",
        ),
        (
            LengthRecord(None, 6000, 6000, 4300, 40, 0, unit="sample"),
            "The artifact reads up to 6,000 samples of a sound, as export.max_length says: the "
            "checkpoint names no limit. It was measured on sounds of up to 4,300 samples. Longer "
            "sounds were not measured.",
        ),
    ],
)
def test_what_is_read_and_what_was_measured_are_told_apart(
    lengths: LengthRecord, words: str, make_report
):
    assert length_words(make_report(lengths=lengths)) == words


def test_images_have_no_words_for_lengths(make_report):
    assert length_words(make_report(lengths=None)) is None


def test_a_run_without_an_artifact_has_no_words_for_what_it_reads(make_report):
    assert length_words(make_report(lengths=CUT, final=None)) is None


def test_the_first_screens_say_how_long_a_text_was_measured(passed: dict[str, Any]):
    data = {**passed, "lengths": dataclasses.asdict(CUT)}
    console = Console(width=1000, no_color=True)
    with console.capture() as capture:
        console.print(render_summary(from_plain(data)))
    first_screen, _, _ = render_markdown(from_plain(data)).partition("## From the baseline")
    banner, _, _ = render_html(from_plain(data)).partition("From the baseline")
    assert f"reads     {CUT_WORDS}" in capture.get()
    assert CUT_WORDS in first_screen
    assert CUT_WORDS in banner
    assert CUT_WORDS in render_model_card(from_plain(data))
    assert "max_length=512" in render_model_card(from_plain(data))


@pytest.mark.parametrize(
    ("num_runs", "words"),
    [
        (
            2,
            "Each latency is the median of 2 runs, too few to tell a speed-up from chance; set "
            "benchmark.num_runs to 10 or more.",
        ),
        (10, ""),
    ],
)
def test_a_speed_up_from_few_runs_is_no_fact(num_runs: int, words: str, make_report):
    latencies = [dataclasses.replace(item, num_runs=num_runs) for item in make_report().latencies]
    assert noise_words(make_report(latencies=latencies)) == words
