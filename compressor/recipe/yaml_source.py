"""Reads a recipe's YAML and remembers where each value stands, so that errors can say file:line.

YAML 1.1 has traps that a recipe must not fall into (`no` is false, `1e-4` is text, dates), so plain
words are read by the YAML 1.2 core rules. Aliases and tags are refused: a recipe needs neither, and
they are how a small file becomes a huge one or runs code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from compressor.errors import RecipeError
from compressor.paths import ABSENT, unreadable
from compressor.setting_errors import KeyPath, format_path, show

_MAX_BYTES = 1 << 20  # a file beyond this is not a recipe, it is a mistaken argument
_MAX_DEPTH = 32  # of nested lists and mappings; recipes use 5
_MAX_VALUES = 50_000  # keys counted too; the longest lists are names of classes, 21,843 in ImageNet
_INTEGER = re.compile(r"[-+]?[0-9]+")
_MAX_DIGITS = 18  # of an integer that fits in 64 bits; longer ones stay text and fail as one
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INDEX = re.compile(r"\[(\d+)\]")


class _Loader(yaml.SafeLoader):
    """Composes nodes and constructs nothing; refuses aliases, tags and bottomless nesting."""

    _depth = 0
    _values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML leaves it out
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"alias '*{event.anchor}' is not allowed; write the value out", event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            raise _refusal(f"tag '{short}' is not allowed; a recipe holds plain values only", event)
        if self._depth >= _MAX_DEPTH:
            raise _refusal(f"nested deeper than {_MAX_DEPTH} levels", event)
        self._values += 1
        if self._values > _MAX_VALUES:
            raise _refusal(f"more than {_MAX_VALUES} keys and values, which is no recipe", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _refusal(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = event.start_mark  # types-PyYAML says it may be the C parser's kind of mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


@dataclass
class Document:
    """A YAML mapping as plain data, with the place of every value in it.

    `mistakes` are finished lines about what is wrong in the YAML or in an override without
    stopping the reading, such as a key that appears twice.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    _places: dict[KeyPath, str] = field(default_factory=dict)
    _overrides: dict[str, KeyPath] = field(default_factory=dict)

    def describe(self, path: KeyPath, message: str) -> str:
        """Return `file:line: key: message`, or `--set key=value: message` for an override."""
        place = next(self._places[head] for head in _heads(path) if head in self._places)
        if not place:
            return f"{format_path(path)}: {message}" if path else message
        if not path or self._overrides.get(place) == path:
            return f"{place}: {message}"
        return f"{place}: {format_path(path)}: {message}"

    def in_order(self, lines: Iterable[str]) -> list[str]:
        """Return finished lines in the order of the file, each once; others follow as they came."""
        place = re.compile(rf"{re.escape(self.name)}:(\d+):")
        found = [(place.match(line), line) for line in dict.fromkeys(lines)]
        return [
            line
            for _, line in sorted(
                found, key=lambda item: math.inf if item[0] is None else int(item[0][1])
            )
        ]

    def override(self, text: str) -> None:
        """Apply one `KEY=VALUE`; what is wrong with it is added to `mistakes`."""
        place = f"--set {text.encode('utf-8', 'backslashreplace').decode()}"
        try:
            path, created = self._replace(*self._parse_override(text))
        except ValueError as error:
            self.mistakes.append(f"{place}: {error}")
            return
        stale = [known for known in self._places if known[: len(path)] == path]
        for known in stale:
            del self._places[known]
        self._places.update(dict.fromkeys((*created, path), place))
        self._overrides[place] = path

    def _parse_override(self, text: str) -> tuple[KeyPath, Any]:
        key, equals, value = text.partition("=")
        words = _INDEX.sub(r".\1", key.strip()).split(".")
        if not _is_unicode(text):
            raise ValueError("is not valid Unicode text; check the encoding of the terminal")
        if not equals or not all(words):
            raise ValueError("must look like KEY=VALUE, such as passes.0.ratio=0.4")
        return tuple(int(word) if word.isdecimal() else word for word in words), parse_value(value)

    def _replace(self, path: KeyPath, value: Any) -> tuple[KeyPath, list[KeyPath]]:
        """Put `value` at `path`; return that path as data spells it, and the paths made for it."""
        here: Any = self.data
        taken: list[str | int] = []
        created: list[KeyPath] = []
        for depth, key in enumerate(path):
            _check_step(here, tuple(taken), key)
            taken.append(str(key) if isinstance(here, dict) else key)
            if depth == len(path) - 1:
                here[taken[-1]] = value
            elif isinstance(here, dict) and here.get(taken[-1]) is None:
                here[taken[-1]] = [] if isinstance(path[depth + 1], int) else {}
                created.append(tuple(taken))
            here = here[taken[-1]]
        return tuple(taken), created


def _heads(path: KeyPath) -> Iterator[KeyPath]:
    return (path[:end] for end in range(len(path), -1, -1))


def _check_step(here: Any, parent: KeyPath, key: str | int) -> None:
    """Raise `ValueError` when `key` cannot follow into `here`, the value at `parent`."""
    name = format_path(parent)
    if isinstance(here, dict):
        return
    if not isinstance(here, list):
        raise ValueError(f"{name} is {show(here)}, it has no key '{key}'")
    if not here:
        raise ValueError(f"{name} is an empty list, there is no entry {key} to set")
    if not isinstance(key, int) or key >= len(here):
        raise ValueError(f"{name} is a list, '{key}' must be an index 0..{len(here) - 1}")


def read_text(path: Path, noun: str, *, near: Callable[[], str] = lambda: "") -> str:
    """Return the text of a YAML file; `noun` is what it should be, `near` what else may be meant.

    Raises `RecipeError` when it cannot be read as one.
    """
    reason = unreadable(path, largest=_MAX_BYTES)
    if reason is not None:
        hint = near() if reason == ABSENT else ""
        raise RecipeError(
            f"{path}: {reason}; give the path of a {noun}, a YAML file below 1 MiB{hint}"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); give the path of a {noun} file"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: not UTF-8 ({error.reason}); save the {noun} as UTF-8"
        ) from error


def parse_document(
    text: str,
    name: str,
    *,
    noun: str = "recipe",
    needs: str = "model, data, budget and passes",
    such_as: str = "model and data",
) -> Document:
    """Read one YAML mapping; `name` is the file's name in messages, `noun` what it should be.

    Raises `RecipeError` when it is not YAML, empty, or something else than a mapping.
    """
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise RecipeError(_syntax_mistake(error, text, name)) from error
    if root is None:
        raise RecipeError(f"{name}:1: the {noun} is empty; it needs {needs}")
    line = root.start_mark.line + 1
    document = Document(name)
    document._places[()] = f"{name}:{line}"
    data = _read_node(root, (), document)
    if not isinstance(data, dict):
        raise RecipeError(
            f"{name}:{line}: a {noun} is a mapping with keys such as {such_as}, got {show(data)}"
        )
    document.data = data
    return document


class _Dumper(yaml.SafeDumper):
    """Writes text so that it is read as text by the rules of this module, not of YAML 1.1."""


def _written(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    is_word = _read_word(text) is text  # and no number, truth value or null
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_word else '"')


_Dumper.add_representer(str, _written)


def dump_document(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML that `parse_document` reads back as it is."""
    text: str = yaml.dump(
        dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


def document_of(data: Mapping[str, Any]) -> Document:
    """Return a recipe that was written as a dict, with `mistakes` for what YAML could not hold."""
    document = Document("", _places={(): ""})
    document.data = _plain(data, (), document)
    return document


def _plain(value: Any, path: KeyPath, document: Document) -> Any:
    """Return a copy of plain data; paths are text, and tuples are lists, as in YAML."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                told = f"a key must be text, got {show(key)}"
                document.mistakes.append(document.describe(path, told))
        return {
            key: _plain(item, (*path, key), document)
            for key, item in value.items()
            if isinstance(key, str)
        }
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), document) for index, item in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        document.mistakes.append(document.describe(path, f"must be finite, got {value}"))
    elif isinstance(value, str) and not _is_unicode(value):
        document.mistakes.append(
            document.describe(path, "half of a surrogate pair is no character; remove it")
        )
    elif value is None or isinstance(value, bool | int | float | str):
        return value
    else:
        document.mistakes.append(
            document.describe(
                path,
                f"is a {type(value).__name__}, and a recipe holds text, numbers, true and false, "
                f"lists and dicts; write it as one of them",
            )
        )
    return None


def parse_value(text: str) -> Any:
    """Read the VALUE of `--set KEY=VALUE`: a plain word, or YAML flow such as `[cpu, cuda]`.

    Only text that starts like a list, a mapping or a quoted word is read as YAML, so that `#` and
    `: ` in a path mean themselves. Raises `ValueError` with the reason.
    """
    if not text.startswith(("[", "{", '"', "'")):
        return _read_word(text)
    document = Document("value", _places={(): "value"})
    try:
        root = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise ValueError(f"the value is not YAML: {reason}") from error
    value = _read_node(root, (), document)
    if document.mistakes:
        raise ValueError("; ".join(document.mistakes))
    return value


def _read_node(node: Any, path: KeyPath, document: Document) -> Any:
    """Turn a node into plain data, noting the places of its children and what is wrong."""
    if isinstance(node, yaml.ScalarNode):
        if not _is_unicode(node.value):
            where = document.describe(path, "half of a surrogate pair is no character; remove it")
            document.mistakes.append(where)
            return None
        # Only a word without quotes (style None) can be a number, a truth value or null.
        return _read_word(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return [
            _read_child(child, child, (*path, index), document)
            for index, child in enumerate(node.value)
        ]
    mapping: dict[str, Any] = {}
    first_lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = f"{document.name}:{line}: {format_path(path)}".rstrip(": ")
        if not isinstance(key_node, yaml.ScalarNode) or not _is_unicode(key_node.value):
            document.mistakes.append(f"{where}: a key must be one word, not a list or mapping")
            continue
        key = key_node.value
        if key in mapping:
            document.mistakes.append(
                f"{where}: key {show(key)} appears twice, first in line {first_lines[key]}"
            )
            continue
        first_lines[key] = line
        mapping[key] = _read_child(key_node, value_node, (*path, key), document)
    return mapping


def _read_child(start: yaml.Node, node: yaml.Node, path: KeyPath, document: Document) -> Any:
    document._places[path] = f"{document.name}:{start.start_mark.line + 1}"
    return _read_node(node, path, document)


def _read_word(text: str) -> Any:
    """Read a word without quotes by the YAML 1.2 core rules, without infinities and NaN."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else text
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _is_unicode(text: str) -> bool:
    """Return whether `text` can be written as UTF-8: no half of a surrogate pair stands alone."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _syntax_mistake(error: yaml.YAMLError, text: str, name: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        context = f" ({error.context})" if error.context else ""
        place = f"{name}:{error.problem_mark.line + 1}"
        if "'\\t'" in (error.problem or ""):
            return f"{place}: a tab, which YAML does not take; indent with spaces"
        return f"{place}: not valid YAML here: {error.problem}{context}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{name}:{line}: character U+{error.character:04X} is not allowed in YAML"
    return f"{name}:1: not valid YAML: {error}"
