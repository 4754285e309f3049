from typing import Any

import pytest
from rich.console import Console

from compressor.errors import ReportError
from compressor.measurements import RunReport
from compressor.report.compare import render_comparison_html, render_comparison_text
from compressor.report.report_json import from_plain


def shown(reports: list[tuple[str, RunReport]], width: int = 120) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(render_comparison_text(reports))
    return capture.get()


def test_runs_stand_side_by_side(passed: dict[str, Any], report_in_state):
    text = shown(
        [("runs/a", from_plain(passed)), ("runs/b", from_plain(report_in_state("without-passes")))]
    )
    assert "1 runs/a" in text
    assert "5.2× smaller" in text
    assert "2.5× faster" in text
    assert "export only" in text
    assert "p50 ms: batch 1, 32 tokens, cpu" in text


def test_figures_stay_whole_on_a_narrow_terminal(passed: dict[str, Any], report_in_state):
    runs = [
        ("runs/a-long-name", from_plain(passed)),
        ("runs/b", from_plain(report_in_state("not-certified"))),
    ]
    lines = shown(runs, width=60).splitlines()
    assert max(map(len, lines)) <= 60
    assert ["1", "final", "17.4", "17.0", "M", "89.40%", "−0.60", "4.80"] in map(str.split, lines)
    assert "…" not in "".join(lines)
    assert "1 runs/a-long-name: prune_structured (2 tries) →" in "\n".join(lines)


def test_runs_that_can_be_compared_carry_no_warning(passed: dict[str, Any]):
    reports = [("a", from_plain(passed)), ("b", from_plain(passed))]
    assert "different" not in shown(reports)
    assert 'class="warning"' not in render_comparison_html(reports)


def test_a_difference_is_named_in_both_forms(passed: dict[str, Any], make_report):
    environment = passed["environment"] | {"threads": 8}
    reports = [("a", from_plain(passed)), ("b", make_report(environment=environment))]
    assert "threads: 1: 2; 2: 8" in shown(reports)
    page = render_comparison_html(reports)
    assert "The latencies were taken on different machines or software" in page
    assert '<th scope="row">threads</th><td>2</td><td>8</td>' in page


def test_a_run_that_stopped_says_why(passed: dict[str, Any], report_in_state):
    reports = [("a", from_plain(passed)), ("b", from_plain(report_in_state("over-budget")))]
    assert "  Over budget after pass 1 of 2 (prune_structured)" in shown(reports, width=160)
    assert "Over budget after pass 1 of 2" in render_comparison_html(reports)


def test_latencies_at_settings_that_only_some_runs_have_are_not_lost(passed, report_in_state):
    reports = [("a", from_plain(passed)), ("b", from_plain(report_in_state("several-providers")))]
    page = render_comparison_html(reports)
    assert "Latency on cpu, ms" in page
    assert "Latency on cuda, ms" in page


def test_the_chart_uses_a_setting_that_all_runs_have(passed: dict[str, Any], make_report):
    other = make_report().to_dict()
    other["latencies"] = [e for e in other["latencies"] if e["batch_size"] == 8]
    page = render_comparison_html([("a", from_plain(passed)), ("b", from_plain(other))])
    assert "latency p50, ms (batch 8, 32 tokens, cpu)" in page


def test_runs_without_a_common_setting_have_no_chart(passed: dict[str, Any], report_in_state):
    reports = [("a", from_plain(passed)), ("b", from_plain(report_in_state("images")))]
    assert "Not drawn" in render_comparison_html(reports)
    assert "no setting was timed in all runs" in shown(reports)


def test_every_state_can_be_compared(passed: dict[str, Any], any_state: dict[str, Any]):
    reports = [("a", from_plain(passed)), ("b", from_plain(any_state))]
    assert "2 runs side by side" in render_comparison_html(reports)
    assert max(map(len, shown(reports, 80).splitlines())) <= 80


def test_no_run_is_an_error():
    with pytest.raises(ReportError, match="no run was given"):
        render_comparison_html([])
    with pytest.raises(ReportError, match="no run was given"):
        render_comparison_text([])


def test_neither_markup_nor_control_characters_have_an_effect(passed: dict[str, Any]):
    text = shown([("[red]x[/red]\x1b[2J", from_plain(passed))])
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_tries_proof_and_front_are_told(passed: dict[str, Any], make_report):
    worse = make_report(certificate=None, certification=None).to_dict()
    worse["final"]["score"]["value"] = 0.88
    text = shown([("a", from_plain(passed)), ("b", from_plain(worse))], width=160)
    assert "prune_structured (2 tries) → quantize_dynamic" in text
    assert "Passed without proof: accuracy fell by 0.5 points" in text
    # The second run's result is as fast as the first one's and worse.
    assert "Pareto front, Accuracy against latency p50" in text
    assert "run 1 baseline; run 1 final" in text
    page = render_comparison_html([("a", from_plain(passed)), ("b", from_plain(worse))])
    assert page.count("inconclusive: at most 1.23 points of accuracy lost") == 1
    assert page.count('class="ring"') == 2
