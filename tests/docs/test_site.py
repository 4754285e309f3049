"""The documentation as it is built: whole, and readable without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADS = re.compile(
    r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=[\"']?(?P<target>[^\s\"'>]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path):
    pages = sorted(site.rglob("*.html"))
    loaded = {found["target"] for page in pages for found in LOADS.finditer(page.read_text())}
    assert len(loaded) > 5
    assert sorted(target for target in loaded if "//" in target) == []


def test_the_changelog_and_how_to_contribute_are_pages(site: Path):
    assert 'href="changelog.html"' in (site / "contributing.html").read_text(encoding="utf-8")
    assert 'href="contributing.html"' in (site / "design.html").read_text(encoding="utf-8")


def test_a_page_opened_from_disk_has_an_index_to_search(site: Path):
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = ")
    assert (site / "javascripts" / "iframe-worker.js").is_file()
