"""Words of messages: numbers with what they count, names in short, and values as they are shown."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)

_MOST_NAMES = 30  # listed after a wrong word; a file may have 50,000 columns
_LONGEST_NAME = 60  # characters of a value or a name that is shown
_LONGEST_GUESSED = 200  # characters of a word whose neighbours are looked for: quadratic work


def counted(amount: int, noun: str, plural: str | None = None) -> str:
    """Return a number with what it counts, in the right form and with thousands separated.

    >>> counted(1, "row"), counted(1300, "row"), counted(1, "try", "tries"), counted(0, "pass")
    ('1 row', '1,300 rows', '1 try', '0 passes')
    """
    return f"{amount:,} {noun_for(amount, noun, plural)}"


def listing(names: Iterable[str], most: int = 20) -> str:
    """Return the first of `names`, and how many more there are.

    >>> listing(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more


def few_of(names: Sequence[str], most: int = 6) -> str:
    """Return the first of `names` and, where there are more, how many there are in all.

    >>> few_of(["a", "b"], most=2), few_of(["a", "b", "c"], most=2)
    ('a, b', 'a, b, ... (3 in all)')
    """
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown


def noun_for(amount: int, noun: str, plural: str | None = None) -> str:
    """Return `noun` as it stands behind `amount`, without the number.

    >>> noun_for(1, "row"), noun_for(2, "matrix", "matrices"), noun_for(3, "batch")
    ('row', 'matrices', 'batches')
    """
    if amount == 1:
        return noun
    return plural or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def show(value: object) -> str:
    """Spell a value as a recipe would, shortened to about one line."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return f"'{shortened_name(value)}'"
        case list() | tuple():
            length = counted(len(value), "entry", "entries")
            return f"a list of {length}" if value else "an empty list"
        case dict():
            return "a mapping" if value else "an empty mapping"
    return shortened_name(str(value))


def shortened_name(text: str) -> str:
    """Return a value or a name as it is shown: its first characters where it is long."""
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."


def did_you_mean(word: str, allowed: Iterable[str], *, noun: str = "allowed") -> str:
    """Return `, did you mean 'ratio'? (allowed: kind, ratio)`; no guess when nothing is near."""
    words = list(allowed)
    near = close_words(word, words, cutoff=0.6)
    guess = f", did you mean {show(near[0])}?" if near else ""
    return f"{guess} ({noun}: {names_shown(words) or 'none'})"


def close_words(word: str, words: Iterable[str], *, cutoff: float) -> list[str]:
    """Return the word most like `word`, if one is at least `cutoff` alike; none for a long text."""
    if len(word) > _LONGEST_GUESSED:
        return []
    import difflib  # of 6 ms, where a word is wrong

    near = [item for item in words if len(item) <= 2 * len(word) + 2]
    return difflib.get_close_matches(word, near, n=1, cutoff=cutoff)


def names_shown(names: Sequence[str]) -> str:
    """Join names with commas, the first of them where they are many.

    >>> names_shown(["a", "b"])
    'a, b'
    """
    return few_of([shortened_name(name) for name in names], _MOST_NAMES)


def first_repeated(values: Iterable[Value]) -> Value | None:
    """Return the first value that was there before, None when all differ.

    >>> first_repeated(["a", "b", "a"])
    'a'
    """
    seen: set[Value] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
