"""Draws the pages in a real browser, where there is one."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compressor.report.compare import render_comparison_html
from compressor.report.render import render_html
from compressor.report.report_json import from_plain

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
STATES = (
    "passed", "failed-before-baseline", "failed-at-second-pass", "over-budget",
    "without-latencies", "without-passes", "images", "several-providers",
)  # fmt: skip
# Lists every element that sticks out of its page, unless a box around it scrolls; what matters and
# is not on the first screen; and text that a chart cuts off.
MEASURE = """
addEventListener("load", () => {
  const wide = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    for (const element of page.querySelectorAll("body *")) {
      if (element.closest("pre, .chart") || element.parentElement.closest(".scroll")) continue;
      if (element.getBoundingClientRect().right > width + 1)
        wide.push(frame.title + ": " + element.outerHTML.slice(0, 80));
    }
    if (page.styleSheets[0].cssRules.length < 50) wide.push(frame.title + ": no style");
    // What matters stands on the first screen.
    const first = page.querySelector(".cards") || page.querySelector(".banner");
    if (width > 1000 && first && first.getBoundingClientRect().bottom > 700)
      wide.push(frame.title + ": the first screen ends before the cards do");
    for (const text of page.querySelectorAll("svg text")) {
      const box = text.getBBox(), area = text.ownerSVGElement.viewBox.baseVal;
      if (box.x < area.x - 1 || box.x + box.width > area.x + area.width + 1)
        wide.push(frame.title + ": cut off: " + text.textContent);
    }
  }
  document.body.innerHTML = "<pre id=result>" + JSON.stringify(wide).replaceAll("<", "&lt;");
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_pages_fit_a_screen_and_a_telephone_and_begin_with_what_matters(
    tmp_path: Path, report_in_state
):
    pages = {state: render_html(from_plain(report_in_state(state))) for state in STATES}
    runs = [(state, from_plain(report_in_state(state))) for state in STATES[:4]]
    pages["compare"] = render_comparison_html(runs)
    frames = "".join(
        f'<iframe title="{name} at {width}" width="{width}" height="600" '
        f'srcdoc="{html.escape(page)}"></iframe>'
        for name, page in pages.items()
        for width in (360, 1280)
    )
    (tmp_path / "all.html").write_text(
        f"<!doctype html><meta charset=utf-8><script>{MEASURE}</script>{frames}", encoding="utf-8"
    )
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
            (tmp_path / "all.html").as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None
    assert json.loads(html.unescape(result[1])) == []
