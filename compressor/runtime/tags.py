"""Entities of tag sequences, strict by the scheme of the tags.

A scheme says by the prefixes of tags where an entity begins and ends. Strict means that a sequence
which breaks its scheme holds no entity there, as in `seqeval` with `mode="strict"`: an `I-PER`
after `O` belongs to none.

Ref: Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040 (IOB); Ratinov & Roth 2009, W09-1119 (BILOU).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .words import counted, few_of

Scheme = Literal["IOB2", "IOBES", "BILOU", "IO", "plain"]

OUTSIDE = "O"
NO_TAG = -1  # of a word that gives no token, so that no model says anything of it
_PREFIXED = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
_SAME_AS = {"L": "E", "U": "S"}  # BILOU calls the last word and the only word otherwise
_EXPLAINED: dict[Scheme, str] = {
    "IOB2": "entities begin with B- and go on with I-",
    "IOBES": "entities begin with B- and end with E-, those of one word are S-",
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

    `prefixes` are B, I, E, S or O (those of BILOU by the letters of IOBES), `kind_of` the places of
    their kinds in `kinds`, -1 for `O`.
    """

    labels: tuple[str, ...]
    scheme: Scheme
    prefixes: tuple[str, ...]
    kind_of: tuple[int, ...]
    kinds: tuple[str, ...]

    def entities(self, tags: Iterable[int]) -> list[Entity]:
        """Return the entities of one document, whose words have these class ids or `NO_TAG`."""
        found: list[Entity] = []
        ends_by_itself = self.scheme in ("IOB2", "IO")
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
            elif prefix == "B" or (prefix == "I" and self.scheme == "IO"):
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
    scheme = scheme_of(labels)
    parts = [_parts(label, scheme) for label in labels]
    kinds = tuple(sorted({kind for prefix, kind in parts if prefix != "O"}))
    return Tags(
        labels=tuple(labels),
        scheme=scheme,
        prefixes=tuple(prefix for prefix, _ in parts),
        kind_of=tuple(-1 if prefix == "O" else kinds.index(kind) for prefix, kind in parts),
        kinds=kinds,
    )


def scheme_of(labels: Sequence[str]) -> Scheme:
    """Return the scheme of tags by the prefixes that there are; raises as `read_tags`.

    >>> scheme_of(["O", "B-PER", "I-PER"]), scheme_of(["O", "I-PER"]), scheme_of(["NOUN", "VERB"])
    ('IOB2', 'IO', 'plain')
    """
    inside = [label for label in labels if label != OUTSIDE]
    found = [_PREFIXED.fullmatch(label) for label in inside]
    prefixes = {match[1] for match in found if match is not None}
    if not prefixes:
        return "plain"
    if prefixes == {"I"}:
        return "IO"
    if "B" in prefixes and prefixes <= {"B", "I"}:
        return "IOB2"
    if prefixes <= set("BIES") and ("B" in prefixes or prefixes == {"S"}):
        return "IOBES"
    if prefixes <= set("BILU") and ("B" in prefixes or prefixes == {"U"}):
        return "BILOU"
    if None in found:  # such as E-MAIL beside PHONE
        return "plain"
    raise SchemeProblem(
        f"id2label has tags with the prefixes {', '.join(f'{item}-' for item in sorted(prefixes))} "
        f"({few_of(inside)}), which are those of no known scheme (IOB2: B- I-; IOBES: B- I- E- S-; "
        f"BILOU: B- I- L- U-; IO: I-); give a checkpoint that was trained on one of them"
    )


def _parts(label: str, scheme: Scheme) -> tuple[str, str]:
    if label == OUTSIDE:
        return "O", ""
    match = None if scheme == "plain" else _PREFIXED.fullmatch(label)
    return ("S", label) if match is None else (_SAME_AS.get(match[1], match[1]), match[2])
