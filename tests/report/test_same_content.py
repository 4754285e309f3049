"""Whoever reads the Markdown report learns what whoever opens the page does."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from compressor.report.render import render_html, render_markdown
from compressor.report.report_json import from_plain


class Cells(HTMLParser):
    """Collects the text of table cells, definitions and list items of a page."""

    KEPT = ("td", "dd", "dt", "li")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[list[str]] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in self.KEPT:
            self.open.append([])

    def handle_endtag(self, tag: str) -> None:
        if tag in self.KEPT and self.open:
            self.found.append(" ".join(self.open.pop()))

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].append(data)


def words(text: str) -> set[str]:
    """Return the words and numbers of a text, without the marks of Markdown."""
    return set(re.findall(r"[\w.,%×−+-]*\w[%×]?", text.replace("\\", "")))


def test_every_figure_of_the_page_is_in_the_markdown_too(any_state: dict[str, Any]):
    cells = Cells()
    cells.feed(render_html(from_plain(any_state)))
    known = words(render_markdown(from_plain(any_state)))
    figures = {word for cell in cells.found for word in words(cell) if re.search(r"\d", word)}
    assert figures
    assert figures - known == set()
