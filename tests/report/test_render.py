import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compressor.errors import ReportError
from compressor.report.compare import render_comparison_html
from compressor.report.render import (
    read_report,
    render_html,
    render_markdown,
    render_model_card,
    write_report,
)
from compressor.report.report_json import as_read, from_plain

HOSTILE = "<script>alert(1)</script> | `x` {{ 7 * 7 }} \" onload='x'\n# title"
VOID = {"meta", "link", "br", "hr", "img", "input"}
FIXED_TEXT = {"verdict", "kind", "model", "started_at"}


class Page(HTMLParser):
    """Collects what a page holds, and fails when a tag is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(value: Any, key: str = "") -> Any:
    """Put hostile text into every text of a report that is not one of a few fixed words."""
    if isinstance(value, dict):
        return {name: hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    return HOSTILE if isinstance(value, str) and key not in FIXED_TEXT else value


def pages_of(data: dict[str, Any]) -> list[str]:
    return [
        render_html(from_plain(data)),
        render_comparison_html([(HOSTILE, from_plain(data)), ("b", from_plain(data))]),
    ]


def test_every_state_is_a_well_formed_page_that_loads_nothing(any_state: dict[str, Any]):
    page = Page(render_html(from_plain(any_state)))
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "iframe", "object", "embed", "form", "base"})
    loads = [attrs for tag, attrs in page.tags if tag == "link" or "src" in attrs]
    assert [attrs for attrs in loads if "src" not in attrs] == [{"rel": "icon", "href": "data:,"}]
    sources = [str(attrs["src"]) for attrs in loads if "src" in attrs]
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_no_style_loads_anything(passed: dict[str, Any]):
    # A pattern within the page itself is no load.
    assert re.findall(r"url\((?!#)|@import", render_html(from_plain(passed))) == []


def test_a_page_forbids_itself_to_load_anything(passed: dict[str, Any]):
    policies = [
        attrs["content"]
        for tag, attrs in Page(render_html(from_plain(passed))).tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_text_stays_text_in_a_page(any_state: dict[str, Any]):
    data = hostile(any_state)
    for page in map(Page, pages_of(data)):
        assert page.open == []
        assert "script" not in {tag for tag, _ in page.tags}
        assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
        assert "<script>alert(1)</script>" in page.text


def test_hostile_kinds_and_dates_stay_text_in_a_page(passed: dict[str, Any]):
    passed["started_at"] = HOSTILE
    passed["passes"][0]["kind"] = HOSTILE
    for page in map(Page, pages_of(passed)):
        assert page.open == []
        assert "script" not in {tag for tag, _ in page.tags}


def test_hostile_text_cannot_break_out_of_a_markdown_table(any_state: dict[str, Any]):
    data = hostile(any_state)
    text, fence = "", ""
    for line in render_markdown(from_plain(data)).split("\n"):
        mark = re.match("`{3,}", line)
        if mark and (not fence or line == fence):
            fence = "" if fence else mark[0]
        elif not fence:
            text += line + "\n"
    assert "<" not in text
    assert not re.search(r"^# title", text, re.MULTILINE)
    widths: dict[int, set[int]] = {}
    for number, block in enumerate(re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)):
        widths[number] = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
    assert all(len(found) == 1 for found in widths.values())


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_both_forms_show_the_figures_of_the_run(render, passed: dict[str, Any]):
    text = render(from_plain(passed))
    for figure in ("90.8", "17.4", "22.7 M", "90.00%", "89.40%", "−0.60", "12.0", "4.80", "5.28"):
        assert figure in text
    for fact in (
        "Seed 7",
        "50 runs after 5 warm-up runs",
        "2 threads",
        "872",
        "3.1e-06",
        "dev.tsv",
    ):
        assert fact in text


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_what_is_missing_is_named_with_its_reason(render, report_in_state):
    text = Page(render(from_plain(report_in_state("without-latencies")))).text
    assert "Latency" in text
    assert "benchmark.providers is empty" in text.replace("\\", "")


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_a_run_over_budget_names_the_guilty_pass_and_what_to_do(render, report_in_state):
    text = render(from_plain(report_in_state("over-budget")))
    assert "Over budget after pass 1 of 2 (prune_structured)" in text
    assert "Use milder settings for this pass" in text
    assert "not reached" in text


def test_memory_and_graphs_of_a_gpu_are_shown_where_there_are_any(report_in_state, passed):
    on_gpu, on_cpu = report_in_state("several-providers"), passed
    page = Page(render_html(from_plain(on_gpu))).text
    assert "Memory is the most that a model took of the GPU's, MB." in page
    assert "Recorded as CUDA graphs on cuda." in page
    assert page.count("123") >= 8  # 123,456,789 bytes, of both models at four settings
    assert "Memory" not in Page(render_html(from_plain(on_cpu))).text
    assert "| 123 |" in render_markdown(from_plain(on_gpu))
    assert "GPU memory" not in render_markdown(from_plain(on_cpu))


def test_several_providers_each_have_their_latencies(report_in_state):
    page = Page(render_html(from_plain(report_in_state("several-providers"))))
    assert "Latency on cpu, ms" in page.text
    assert "Latency on cuda, ms" in page.text


def test_a_report_without_sequences_has_no_column_of_tokens(report_in_state):
    assert "Tokens" not in Page(render_html(from_plain(report_in_state("images")))).text


def test_what_never_was_measured_is_not_drawn(report_in_state):
    page = Page(render_html(from_plain(report_in_state("failed-before-baseline"))))
    assert "svg" not in {tag for tag, _ in page.tags}


def test_a_report_is_written_in_three_forms(tmp_path: Path, make_report):
    report = make_report()
    write_report(report, tmp_path / "run")
    files = {item.name for item in (tmp_path / "run").iterdir()}
    assert files == {"report.json", "report.md", "report.html"}
    assert read_report(tmp_path / "run") == as_read(report)


def test_a_run_whose_score_is_not_a_number_still_has_a_report(tmp_path: Path, make_report):
    data = make_report().to_dict()
    write_report(make_report(seconds=float("nan")), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["seconds"] is None
    assert math.isnan(read_report(tmp_path).seconds)
    data["baseline"]["score"]["value"] = None
    data["passes"][0]["drop"] = None
    data["missing"] = {"baseline.score.value": "the measurement came out as nan"}
    assert "—" in Page(render_html(from_plain(data))).text
    assert "—" in render_markdown(from_plain(data))
    assert render_model_card(from_plain(data))


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path, make_report):
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    with pytest.raises(ReportError, match="the report cannot be written"):
        write_report(make_report(), tmp_path / "run")


def test_reports_are_drawn_without_torch():
    code = (
        "import sys, compressor.report.render, compressor.report.compare; "
        "print([name for name in ('torch', 'transformers', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_page_title_names_the_run(report_in_state):
    page = render_html(from_plain(report_in_state("certified")))
    assert "<title>Passed: sst2-minilm.yaml</title>" in page


def test_json_is_readable_by_strict_parsers(tmp_path: Path, make_report):
    write_report(make_report(), tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text)["verdict"] == "passed"
    assert text.endswith("}\n")


def test_latencies_of_a_busy_machine_are_said_to_be(passed: dict[str, Any]):
    assert "the machine was busy" not in render_html(from_plain(passed))
    passed["latencies"][0]["noisy"] = True
    assert "Noisy: the machine was busy, and 1 of 8 latencies" in render_html(from_plain(passed))


def test_steps_of_an_earlier_run_are_named_and_damage_is_said(passed: dict[str, Any]):
    page = render_html(from_plain(passed))
    assert "2 of 3 steps were finished by an earlier run" in page
    assert "The stored step &#39;export&#39; was damaged and done again." in page
    passed["steps"] = [dict(step, reused=False) for step in passed["steps"]]
    passed["damaged_steps"] = []
    assert "by an earlier run" not in render_html(from_plain(passed))
