"""Shows CHANGELOG.md and CONTRIBUTING.md of the repository among the pages of the documentation.

They lie in the root, where forges and people look for them. Links between them and `docs/` are
written as they lead in the repository, and turned here into links between pages; mkdocs then checks
those as it does all others.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each of the files, when mkdocs asks for all of them."""
    root = Path(config.docs_dir).parent
    for name in PAGES:
        text = (root / name).read_text(encoding="utf-8").replace("](docs/", "](")
        for other in PAGES:
            text = text.replace(f"]({other}", f"]({other.lower()}")
        files.append(File.generated(config, name.lower(), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links out of `docs/` to one of the files lead to its page."""
    up = "../" * page.file.src_uri.count("/")
    names = "|".join(map(re.escape, PAGES))
    return re.sub(
        rf"\]\({re.escape(up)}\.\./({names})", lambda link: f"]({up}{link[1].lower()}", markdown
    )
