"""What the documentation quotes occurs in the code, so that no page outlives what it speaks of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import compressor

PACKAGE = Path(compressor.__file__).parent
DOCS = PACKAGE.parent / "docs"
TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^### `(.+)`$", TROUBLESHOOTING, re.MULTILINE)


@cache
def messages() -> str:
    """Return every text in the code on a line of its own, with … for each value put into it."""
    files = sorted(PACKAGE.rglob("*.py"))
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in files)
    return "\n".join(text for tree in trees for text in texts(tree))


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_page_has_messages_to_look_for():
    assert len(QUOTED) > 50


@pytest.mark.parametrize("quoted", QUOTED)
def test_every_message_that_troubleshooting_quotes_occurs_in_the_code(quoted: str):
    parts = [re.escape(part) for part in quoted.split("…")]
    # Between two parts any text may stand, but within one message.
    assert re.search(".*".join(parts), messages()) is not None


def test_no_message_is_quoted_twice():
    assert sorted(QUOTED) == sorted(set(QUOTED))
