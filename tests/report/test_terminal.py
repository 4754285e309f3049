from typing import Any

import pytest
from rich.console import Console, RenderableType

from compressor.report.report_json import from_plain
from compressor.report.terminal import render_summary


def shown(renderable: RenderableType, width: int = 100) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_a_summary_says_the_headline_and_shows_each_step(passed: dict[str, Any]):
    text = shown(render_summary(from_plain(passed)), width=140)
    assert "Passed without proof: accuracy fell by 0.5 points" in text
    assert "gained    5.2× smaller (90.8 → 17.4 MB), 2.5× faster" in text
    assert "2 · quantize_dynamic" in text
    assert "within budget" in text


def test_a_run_that_measured_nothing_shows_no_table(report_in_state):
    assert "Baseline" not in shown(
        render_summary(from_plain(report_in_state("failed-before-baseline")))
    )


@pytest.mark.parametrize("width", [80, 100])
def test_every_state_fits_the_terminal(any_state: dict[str, Any], width: int):
    lines = shown(render_summary(from_plain(any_state)), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)


def test_a_pass_stays_in_one_line_beside_a_long_metric(report_in_state):
    lines = shown(render_summary(from_plain(report_in_state("embeddings"))), width=80).splitlines()
    [row] = [line for line in lines if line.startswith("1 · prune_structured ")]
    assert "within budget" in row


def test_neither_markup_nor_control_characters_have_an_effect(report_in_state):
    data = report_in_state("failed-at-second-pass")
    data["passes"][1]["kind"] = "[red]x[/red]\x1b[2J"
    text = shown(render_summary(from_plain(data)))
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_a_doubt_stands_under_the_headline_in_amber(passed: dict[str, Any]):
    assert passed["doubts"] == []
    group = render_summary(from_plain({**passed, "doubts": ["A model passes that knows nothing"]}))
    [doubt] = [item for item in group.renderables if str(item).startswith("A model passes")]
    assert (str(doubt), doubt.style) == ("A model passes that knows nothing.", "yellow")
    assert [span.style for span in group.renderables[0].spans] == ["bold yellow"]
