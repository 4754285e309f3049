"""Shows CHANGELOG.md and CONTRIBUTING.md of the repository among the pages of the documentation.

They lie in the root, where forges and people look for them. Their links into `docs/` are made
relative to it; mkdocs then checks them as it does those of any page.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each of the root's files, as mkdocs asks before it reads any page."""
    root = Path(config.docs_dir).parent
    for name in PAGES:
        text = (root / name).read_text(encoding="utf-8")
        page = re.sub(r"\]\(docs/", "](", text)
        files.append(File.generated(config, name.lower(), content=page))
    return files
