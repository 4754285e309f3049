"""Entities of tag sequences, strict by the scheme of the tags.

A scheme says by the prefixes of tags where an entity begins and ends. Strict means that a sequence
which breaks its scheme holds no entity there, as in `seqeval` with `mode="strict"`: an `I-PER`
after `O` belongs to none.

Ref: Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040 (IOB1); Ratinov & Roth 2009, W09-1119 (BILOU).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from .words import counted, few_of

Scheme = Literal["IOB1", "IOB2", "BIOS", "IOBES", "BMES", "BILOU", "IO", "plain"]

OUTSIDE = "O"
NO_TAG = -1  # of a word that gives no token, so that no model says anything of it
# How tags are spelled: PER-B and B_PER are read as B-PER where every tag is spelled so.
_PREFIXED = re.compile(r"(?P<prefix>[BIESLUM])-(?P<kind>.+)", re.DOTALL)
_OTHERWISE = (
    re.compile(r"(?P<prefix>[BIESLUM])_(?P<kind>.+)", re.DOTALL),
    re.compile(r"(?P<kind>.+)[-_](?P<prefix>[BIESLUM])", re.DOTALL),
)
# BILOU calls the last word and the only word otherwise, BMES what lies between.
_SAME_AS = {"L": "E", "U": "S", "M": "I"}
_END_BY_THEMSELVES = ("IOB1", "IOB2", "BIOS", "IO")  # with the last word of their kind
_BEGIN_INSIDE = ("IOB1", "IO")  # with I-, after another kind or none
_EXPLAINED: dict[Scheme, str] = {
    "IOB1": "entities are I- words in a row, and begin with B- after one of their kind",
    "IOB2": "entities begin with B- and go on with I-",
    "BIOS": "entities begin with B- and go on with I-, those of one word are S-",
    "IOBES": "entities begin with B- and end with E-, those of one word are S-",
    "BMES": "entities begin with B- and end with E-, those of one word are S-",
    "BILOU": "entities begin with B- and end with L-, those of one word are U-",
    "IO": "words in a row with one tag are one entity",
    "plain": "every word with another tag than O is a unit of its own",
}


class SchemeProblem(ValueError):
    """Why label names are no tags that entities can be read from; without the name of the file."""


class Entity(NamedTuple):
    """What the words from `start` to `end` (not included) are: `kind` is a place in `kinds`."""

    kind: int
    start: int
    end: int


@dataclass(frozen=True)
class Tags:
    """The tags of a checkpoint by class id, and what they say of entities.

    `prefixes` are B, I, E, S or O (those of BILOU and BMES by the letters of IOBES), `kind_of` the
    places of their kinds in `kinds`, -1 for `O`.
    """

    labels: tuple[str, ...]
    scheme: Scheme
    prefixes: tuple[str, ...]
    kind_of: tuple[int, ...]
    kinds: tuple[str, ...]

    def entities(self, tags: Iterable[int]) -> list[Entity]:
        """Return the entities of one document, whose words have these class ids or `NO_TAG`."""
        found: list[Entity] = []
        ends_by_itself = self.scheme in _END_BY_THEMSELVES
        kind, start, place = -1, 0, -1
        for place, tag in enumerate(tags):
            prefix, own = ("O", -1) if tag == NO_TAG else (self.prefixes[tag], self.kind_of[tag])
            if kind >= 0 and prefix in "IE" and own == kind:
                if prefix == "E":
                    found.append(Entity(kind, start, place + 1))
                    kind = -1
                continue
            if kind >= 0 and ends_by_itself:
                found.append(Entity(kind, start, place))
            kind = -1
            if prefix == "S":
                found.append(Entity(own, place, place + 1))
            elif prefix == "B" or (prefix == "I" and self.scheme in _BEGIN_INSIDE):
                kind, start = own, place
        if kind >= 0 and ends_by_itself:
            found.append(Entity(kind, start, place + 1))
        return found

    def starts(self, tags: Iterable[int]) -> tuple[int, int]:
        """Return how many entities begin with B-, and how many with I- against the scheme IOB2."""
        proper = improper = 0
        before = -1
        for tag in tags:
            proper += self.prefixes[tag] == "B"
            improper += self.prefixes[tag] == "I" and self.kind_of[tag] != before
            before = self.kind_of[tag]
        return proper, improper

    @cached_property
    def spans(self) -> Mapping[str, tuple[bool, str]]:
        """Return whether each label begins a span of a text, and the kind of it.

        A tag without a prefix is its own kind, and goes on with one.
        """
        found = {}
        for label, prefix, place in zip(self.labels, self.prefixes, self.kind_of, strict=True):
            kind = label if place < 0 else self.kinds[place]
            if kind == label and (match := re.fullmatch(r"([BI])-(.+)", label, re.DOTALL)):
                prefix, kind = match.groups()  # beside others, which transformers looks at alone
            found[label] = (kind != label and prefix in "BS", kind)
        return found

    @property
    def outside(self) -> int:
        """Return the class id of the tag `O`; `NO_TAG` where there is none."""
        return self.labels.index(OUTSIDE) if OUTSIDE in self.labels else NO_TAG

    def __str__(self) -> str:
        """Return what the scheme is, in words."""
        kinds = f"{counted(len(self.kinds), 'kind')} ({few_of(self.kinds)})"
        name = "plain tags" if self.scheme == "plain" else self.scheme
        return f"{name}: {_EXPLAINED[self.scheme]}; {kinds}"


def read_tags(labels: Sequence[str]) -> Tags:
    """Return what label names say of entities.

    A tag without a prefix beside tags with one, such as `[CLS]`, is a unit of one word.

    Raises `SchemeProblem` where the prefixes are those of no scheme that is known here.
    """
    scheme, parts = _read(labels)
    kinds = tuple(sorted({kind for prefix, kind in parts if prefix != "O"}))
    return Tags(
        labels=tuple(labels),
        scheme=scheme,
        prefixes=tuple(_SAME_AS.get(prefix, prefix) for prefix, _ in parts),
        kind_of=tuple(-1 if prefix == "O" else kinds.index(kind) for prefix, kind in parts),
        kinds=kinds,
    )


def scheme_of(labels: Sequence[str]) -> Scheme:
    """Return the scheme of tags by the prefixes that there are; raises as `read_tags`.

    >>> scheme_of(["O", "B-PER", "I-PER"]), scheme_of(["O", "I-PER"]), scheme_of(["NOUN", "VERB"])
    ('IOB2', 'IO', 'plain')
    """
    return _read(labels)[0]


def _read(labels: Sequence[str]) -> tuple[Scheme, list[tuple[str, str]]]:
    """Return the scheme, and the prefix (O: outside, S: none) and the kind of each label."""
    inside = [label for label in labels if label != OUTSIDE]
    for spelling in (_PREFIXED, *_OTHERWISE):
        found = [spelling.fullmatch(label) for label in inside]
        matches = [match for match in found if match is not None]
        if spelling is not _PREFIXED and len(matches) < len(inside):
            continue
        prefixes = {match["prefix"] for match in matches}
        scheme = _scheme_of([(match["prefix"], match["kind"]) for match in matches])
        # Otherwise spelled, only what begins and goes on is no part of a name, such as VITAMIN_B.
        if scheme is not None and (spelling is _PREFIXED or {"B"} < prefixes):
            return scheme, [_parts(label, spelling) for label in labels]
        if matches and spelling is _PREFIXED:
            if len(matches) < len(inside):  # such as E-MAIL beside PHONE
                break
            raise _unknown(prefixes, inside)
    return "plain", [("O" if label == OUTSIDE else "S", label) for label in labels]


def _scheme_of(parts: Sequence[tuple[str, str]]) -> Scheme | None:
    """Return the scheme of tags with these prefixes and kinds; None for none, or an unknown one."""
    prefixes = {prefix for prefix, _ in parts}
    if prefixes == {"I"}:
        return "IO"
    if prefixes == {"S"}:
        return "IOBES"
    if prefixes == {"U"}:
        return "BILOU"
    if "B" not in prefixes:
        return None
    if prefixes <= {"B", "I"}:
        begun = {kind for prefix, kind in parts if prefix == "B"}
        return "IOB2" if {kind for _, kind in parts} == begun else "IOB1"
    if prefixes <= set("BIS") or prefixes <= set("BIU"):  # none says where an entity ends
        return "BIOS"
    known: dict[Scheme, str] = {"IOBES": "BIES", "BMES": "BMES", "BILOU": "BILU"}
    return next((scheme for scheme, letters in known.items() if prefixes <= set(letters)), None)


def _unknown(prefixes: set[str], labels: Sequence[str]) -> SchemeProblem:
    return SchemeProblem(
        f"id2label has tags with the prefixes {', '.join(f'{item}-' for item in sorted(prefixes))} "
        f"({few_of(labels)}), which are those of no known scheme (IOB2: B- I-; BIOS: B- I- S-; "
        f"IOBES: B- I- E- S-; BMES: B- M- E- S-; BILOU: B- I- L- U-; IO: I-); give a checkpoint "
        f"that was trained on one of them"
    )


def _parts(label: str, spelling: re.Pattern[str]) -> tuple[str, str]:
    if label == OUTSIDE:
        return "O", ""
    match = spelling.fullmatch(label)
    return ("S", label) if match is None else (match["prefix"], match["kind"])
