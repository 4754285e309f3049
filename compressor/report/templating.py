"""The two Jinja environments: pages and Markdown.

Whatever comes from a recipe, a data set or an error message is escaped by the environment, not by
the templates, so that no template can forget it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from compressor.words import printable

_MARKDOWN = re.compile(r"([\\`*\[\]|~$])|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What would begin a quotation, a heading, a list or a rule at the start of a line.
_BLOCK_START = re.compile(r"^(>|#{1,6}(?!\S)|[+-](?!\S)|[-=]+$)")
_LIST_NUMBER = re.compile(r"^(\d+)([.)])(?!\S)")

_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+=*")


class Verbatim(str):
    """Markdown that is already safe."""

    __slots__ = ()


def fill_html(name: str, **context: Any) -> str:
    """Fill a template that makes a page; every value is escaped."""
    return _html_environment().get_template(name).render(**context)


def fill_markdown(name: str, **context: Any) -> str:
    """Fill a Markdown template; every value is escaped, and blank lines are evened out."""
    text = _markdown_environment().get_template(name).render(**context)
    return _even_blank_lines(text)


def own_picture(uri: str | None) -> str:
    """Return a picture that lies in the report itself; a report from elsewhere may name another."""
    return uri if uri is not None and _PICTURE.fullmatch(uri) else ""


@cache
def _html_environment() -> Environment:
    return Environment(
        loader=PackageLoader("compressor.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _markdown_environment() -> Environment:
    environment = Environment(  # noqa: S701 - Markdown, escaped by `finalize`
        loader=PackageLoader("compressor.report"),
        undefined=StrictUndefined,
        finalize=lambda value: escape_markdown(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fenced"] = fenced
    environment.filters["verbatim"] = Verbatim
    return environment


def escape_markdown(text: str) -> str:
    r"""Return one line of text that Markdown shows as it is, in a table cell, too.

    >>> print(escape_markdown("a|b `c` <b>\nprune_structured _d_"))
    a\|b \`c\` &lt;b> prune_structured \_d\_
    """
    if isinstance(text, Verbatim):
        return text
    line = " ".join(printable(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    line = _MARKDOWN.sub(lambda match: "\\" + match[0], line)
    return _LIST_NUMBER.sub(r"\1\\\2", _BLOCK_START.sub(r"\\\1", line))


def fenced(text: str, language: str) -> Verbatim:
    """Return a code block whose fence is longer than any run of backticks in `text`."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Verbatim(f"{fence}{language}\n{printable(text).rstrip()}\n{fence}")


def _even_blank_lines(text: str) -> str:
    """Keep one blank line where a template left several, but not inside code blocks."""
    lines: list[str] = []
    fence = ""
    for line in text.split("\n"):
        if not fence and line.startswith("```"):
            fence = re.match("`+", line)[0]  # type: ignore[index] # the line starts with three
        elif fence and line.rstrip() == fence:
            fence = ""
        if line.strip() or fence or (lines and lines[-1]):
            lines.append(line if fence else line.rstrip())
    return "\n".join(lines).strip() + "\n"
