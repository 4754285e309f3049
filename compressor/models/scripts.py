"""Scripts of writing, such as Latin, by the Unicode property that each character has.

`unicodedata` does not know them; the package `regex`, which transformers needs as well, does.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import regex

# Digits, punctuation, symbols and emoji belong to no script; accents take that of their letter.
_OF_NO_SCRIPT = ("Common", "Inherited")
# The scripts in which most of the web is written, to name what a vocabulary is made of.
_WIDESPREAD = (
    *("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Armenian", "Georgian"),
    *("Han", "Hiragana", "Katakana", "Hangul", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"),
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada"),
    *("Malayalam", "Sinhala", "Ethiopic"),
)
NO_SCRIPT, OTHER, MIXED = "no script", "other scripts", "several scripts"


def is_script(name: str) -> bool:
    """Return whether Unicode has a script of this name, such as Latin, Greek or Han."""
    if not name.replace("_", "").isalpha() or not name.isascii():
        return False
    try:
        regex.compile(rf"\p{{Script={name}}}")
    except regex.error:
        return False
    return True


def written_in(scripts: Sequence[str], *, also: Iterable[str] = ()) -> Callable[[str], bool]:
    """Return what says of a text whether its characters are of `scripts`, of none, or in `also`.

    Digits, punctuation, symbols and emoji belong to no script. Letters of other scripts that stand
    together have to stand so in one of the texts of `also`: with `™`, which a tokenizer may read as
    TM, the letters of both are needed, but no word that is made of them.

    >>> written_in(["Latin"])("naïve, 2 €"), written_in(["Latin"])("Ω"), written_in(["Greek"])("Ω")
    (True, False, True)
    >>> [written_in(["Greek"], also=["TM", "kg"])(text) for text in ("5 kg", "TM", "M", "Tk")]
    [True, True, True, False]
    """
    foreign = regex.compile(f"[^{_properties(scripts)}]+")
    allowed = {
        run[start:end]
        for text in also
        for run in foreign.findall(text)
        for start in range(len(run))
        for end in range(start + 1, len(run) + 1)
    }

    def fits(text: str) -> bool:
        return all(run in allowed for run in foreign.findall(text))

    return fits


def characters_of(scripts: Sequence[str]) -> list[str]:
    """Return all characters of these scripts and those that belong to none."""
    every = "".join(map(chr, chain(range(0xD800), range(0xE000, sys.maxunicode + 1))))
    found: list[str] = regex.findall(f"[{_properties(scripts)}]", every)
    return found


def _properties(scripts: Sequence[str]) -> str:
    return "".join(rf"\p{{Script={name}}}" for name in (*scripts, *_OF_NO_SCRIPT))


def scripts_of(texts: Iterable[str]) -> Counter[str]:
    """Return how many texts are written in each script, by its name.

    Those with letters of two or more are `several scripts`, those without any `no script`.

    >>> sorted(scripts_of(["the", "2", "да", "a", "аa"]).items())
    [('Cyrillic', 1), ('Latin', 2), ('no script', 1), ('several scripts', 1)]
    """
    texts = list(texts)
    characters = "".join({character for text in texts for character in text})
    script_of = dict.fromkeys(characters, OTHER)
    for name in (*_WIDESPREAD, *_OF_NO_SCRIPT):
        label = NO_SCRIPT if name in _OF_NO_SCRIPT else name
        script_of.update(dict.fromkeys(regex.findall(rf"\p{{Script={name}}}", characters), label))
    counts: Counter[str] = Counter()
    for text in texts:
        found = {script_of[character] for character in text} - {NO_SCRIPT}
        counts[MIXED if len(found) > 1 else next(iter(found), NO_SCRIPT)] += 1
    return counts
