"""Seeded changes to trees, texts and bytes: what the campaign does to files of any kind.

Each function takes a `random.Random`, changes nothing that it was given, and returns the changed
thing with a sentence that says what was changed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Path = tuple[str | int, ...]

# What people, other programs and broken disks put where something else belongs.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e-320,
    1e308, float("nan"), float("inf"), float("-inf"), "", " ", "0", "1.0", "null", "None", "true",
    "a", "é漢字🙂", "\u202e\u200b", "\u0000", "\u001b[31m", "\ud800", "a\nb\tc", "x" * 5_000,
    "/dev/zero", "/dev/null", "..", "/", "~nobody-here/x", "%s%n{0}{a}", "[bold]x[/]", [], [[]],
    {}, [None], [0, -1], ["a", "a"], [1, "a", None], {"a": 1}, {"": None}, list(range(1_000)),
)  # fmt: skip
# Names that mean something in other files or in Python.
ODD_KEYS = ("", " ", "kind", "model", "__class__", "auto_map", "é", "0", "None", "a.b", "x" * 300)


@dataclass(frozen=True)
class Change:
    """One change in a tree: `path` leads to it, `what` says what was done there."""

    path: Path
    what: str

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.path)) or 'the root'}: {self.what}"


def paths(tree: Any) -> list[Path]:
    """Return the paths of everything in a tree of mappings and lists, but the root."""
    found: list[Path] = []
    pending: list[tuple[Path, Any]] = [((), tree)]
    while pending:
        path, value = pending.pop()
        items: Sequence[tuple[str | int, Any]] = ()
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, list):
            items = list(enumerate(value))
        for key, item in items:
            found.append((*path, key))
            pending.append(((*path, key), item))
    return found


def at(tree: Any, path: Path) -> Any:
    """Return what lies at `path`."""
    for key in path:
        tree = tree[key]
    return tree


def with_value(tree: Any, path: Path, value: Any) -> Any:
    """Return a tree that holds `value` at `path`, and shares everything else with `tree`."""
    if not path:
        return value
    changed = copy.copy(tree)
    parent = changed
    for key in path[:-1]:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    parent[path[-1]] = value
    return changed


def without(tree: Any, path: Path) -> Any:
    """Return a tree without what lies at `path`."""
    parent = copy.copy(at(tree, path[:-1]))
    del parent[path[-1]]
    return with_value(tree, path[:-1], parent)


def choose_path(tree: Any, draw: Random) -> Path:
    """Return a path, found by going down from the root, so that a long list is one choice."""
    path: Path = ()
    value = tree
    while isinstance(value, dict | list) and value:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        path, value = (*path, key), value[key]
        if draw.random() < 0.35:
            break
    return path


def mutate_tree(tree: Any, draw: Random) -> tuple[Any, Change]:
    """Change one place of a tree: its value, its name, its presence, its number or its form."""
    path = choose_path(tree, draw)
    if not path or draw.random() < 0.02:
        value = draw.choice(ODD_VALUES)
        return value, Change((), f"became {brief(value)}")
    kinds: list[Callable[[Any, Path, Random], tuple[Any, Change]]] = [
        _replaced, _replaced, _replaced, _removed, _scaled, _reformed, _swapped, _deep,
    ]  # fmt: skip
    if isinstance(path[-1], str):
        kinds += [_renamed, _added]
    return draw.choice(kinds)(tree, path, draw)


def rename_key(tree: Any, path: Path, name: str) -> Any:
    """Return a tree whose last key of `path` is called `name`, at the same place."""
    items = at(tree, path[:-1]).items()
    parent = {name if key == path[-1] else key: value for key, value in items}
    return with_value(tree, path[:-1], parent)


def typo(word: str, draw: Random) -> str:
    """Return a word with one letter wrong, doubled, missing, or in another place."""
    if not word:
        return "x"
    index = draw.randrange(len(word))
    letter = draw.choice("abcdefghijklmnopqrstuvwxyz")
    changed = draw.choice(
        (
            word[:index] + letter + word[index + 1 :],
            word[:index] + word[index] + word[index:],
            word[:index] + word[index + 1 :],
            word[: index + 1][::-1] + word[index + 1 :],
        )
    )
    return changed if changed not in ("", word) else word + letter


def _replaced(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    value = draw.choice(ODD_VALUES)
    return with_value(tree, path, value), Change(path, f"became {brief(value)}")


def _removed(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:  # noqa: ARG001 - as the others
    return without(tree, path), Change(path, "removed")


def _renamed(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    name = typo(str(path[-1]), draw) if draw.random() < 0.7 else draw.choice(ODD_KEYS)
    return rename_key(tree, path, name), Change(path, f"renamed to {name[:40]!r}")


def _added(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    name, value = draw.choice(ODD_KEYS), draw.choice(ODD_VALUES)
    place = (*path[:-1], name)
    return with_value(tree, place, value), Change(place[:-1], f"got {name[:40]!r}: {brief(value)}")


def _scaled(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    value = at(tree, path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _replaced(tree, path, draw)
    changed = draw.choice((value + 1, value - 1, -value, value * 2, value * 10**6, float(value)))
    return with_value(tree, path, changed), Change(path, f"{value} became {changed}")


def _reformed(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    value = at(tree, path)
    changed = draw.choice((str(value)[:2_000], [value], {"value": value}, [value, value]))
    return with_value(tree, path, changed), Change(path, f"put as {type(changed).__name__}")


def _swapped(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    other = choose_path(tree, draw)
    value = at(tree, other)
    return with_value(tree, path, value), Change(path, f"became {brief(value)}, from {other}")


def _deep(tree: Any, path: Path, draw: Random) -> tuple[Any, Change]:
    depth = draw.choice((20, 100, 300))
    value: Any = at(tree, path)
    for _ in range(depth):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return with_value(tree, path, value), Change(path, f"put {depth} levels deep")


def brief(value: Any) -> str:
    """Return a value on one short line."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}... ({len(shown)} characters)"


def to_json(tree: Any) -> bytes:
    """Return a tree as JSON, as Python writes it: surrogates escaped, NaN as NaN."""
    return json.dumps(tree, indent=1).encode()


def mutate_text(content: bytes, draw: Random) -> tuple[bytes, str]:
    """Damage a text file as editors, copies and other programs do."""
    lines = content.split(b"\n")
    index = draw.randrange(len(lines))
    position = draw.randrange(len(content) + 1)
    odd = draw.choice(
        (b"\t", b"\0", b"\x1b[0m", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\x85",
         "\u2028".encode(), "\ufeff".encode(), b"{", b"]", b'"', b"'", b":", b"- ", b"#", b"&a ",
         b"*a", b"<<: ", b"!!python/object:os.system ", b"%", b"|", b">", b"\r", b"\\", b"---\n")
    )  # fmt: skip
    name = brief(odd)[1:]
    choices: tuple[Callable[[], tuple[bytes, str]], ...] = (
        lambda: (content[:position] + odd + content[position:], f"{name} put in at {position}"),
        lambda: (content[:position], f"cut after {position} bytes"),
        lambda: (content.replace(b"\n", b"\r\n"), "lines end with CR LF"),
        lambda: (content.replace(b"\n", b"\r"), "lines end with CR"),
        lambda: ("\ufeff".encode() + content, "begins with a byte order mark"),
        lambda: (content.decode(errors="replace").encode("utf-16"), "in UTF-16"),
        lambda: (_joined([*lines[: index + 1], *lines[index:]]), f"line {index + 1} twice"),
        lambda: (_joined([*lines[:index], *lines[index + 1 :]]), f"line {index + 1} gone"),
        lambda: (_joined([*lines[:index], b" " + lines[index], *lines[index + 1 :]]),
                 f"line {index + 1} moved by a blank"),
        lambda: (_joined([*lines[:index], b"\t" + lines[index].lstrip(), *lines[index + 1 :]]),
                 f"line {index + 1} indented by a tab"),
        lambda: (content + b"\n" + content, "all of it twice"),
        lambda: (b"", "empty"),
        lambda: (b"\0" * max(1, len(content)), "zeros of the same length"),
        lambda: mutate_bytes(content, draw),
    )  # fmt: skip
    return draw.choice(choices)()


def mutate_bytes(content: bytes, draw: Random) -> tuple[bytes, str]:
    """Damage bytes: some flipped, cut, doubled, moved or overwritten."""
    if not content:
        return b"\xff", "a byte in an empty file"
    # Half of them near the beginning, where headers are.
    top = len(content) if draw.random() < 0.5 else min(len(content), 512)
    position = draw.randrange(top)
    length = draw.choice((1, 4, 64))
    kind = draw.randrange(6)
    if kind == 0:
        return content[:position], f"cut after {position} bytes"
    if kind == 1:
        return content[:position] + content[
            position + length :
        ], f"{length} bytes out at {position}"
    if kind == 2:
        made = draw.randbytes(length)
        return content[:position] + made + content[position:], f"{length} bytes in at {position}"
    if kind == 3:
        return content + draw.randbytes(length), f"{length} bytes added at the end"
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 20))):
        place = position if kind == 4 else draw.randrange(len(content))
        changed[place] ^= 1 << draw.randrange(8)
    if bytes(changed) == content:
        changed[position] ^= 0xFF
    return bytes(changed), f"bits flipped from {position}"


def _joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join(lines)
