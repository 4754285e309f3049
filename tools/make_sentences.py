"""Make the English sentences that the package carries from the files of WordNet 3.0.

    tools/make_sentences.py FOLDER

FOLDER holds `data.noun`, `data.verb`, `data.adj` and `data.adv`, as the `dict` folder of WordNet
3.0 does (Debian's package `wordnet-base` puts them into /usr/share/wordnet). The same files give
the same bytes. A text is an example of how a word is used (short), a definition, or a whole gloss
with its examples (long), as it stands in WordNet. Every sense of a word is in one split only; in
`search` two of three senses give both a definition and an example, so that texts have neighbors.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from results import ROOT

TARGET = ROOT / "compressor" / "data" / "sentences"
SENSES = {"calibration": 1000, "search": 240, "certification": 1200}
_SEED = 0
_PARTS = ("noun", "verb", "adj", "adv")
_EXAMPLE = re.compile(r'"([^"]+)"')
_EXAMPLE_WORDS, _DEFINITION_WORDS, _GLOSS_WORDS = (4, 20), (5, 40), (18, 70)
# Nobody wants these in the first minute with a program.
_UNWANTED = re.compile(
    r"\b(?:\w*sex\w*|intercourse|genital\w*|obscen\w*|vulgar\w*|offensive\w*|disparag\w*|slang|"
    r"derogat\w*|prostitut\w*|rap(?:e|ed|ist)|erotic\w*|naked|nude|breasts?|drunk\w*|whore\w*|"
    r"penis|vagina\w*|anus|feces|urin\w*|excre\w*|defecat\w*|kill\w*|murder\w*|suicid\w*|"
    r"tortur\w*|slave\w*|negro\w*|jew\w*|nazi\w*|ethnic|racial|homosexual\w*|gay|lesbian\w*|"
    r"corpse\w*|cancer\w*|terroris\w*|bomb\w*|execut(?:e|ed|ion)|hang(?:ed|ing)|hitler)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sense:
    """One synset: its part of speech and offset in WordNet, and the texts that it can give."""

    key: str
    example: str | None
    definition: str | None
    gloss: str | None

    def texts(self) -> Iterator[str]:
        yield from (text for text in (self.example, self.definition, self.gloss) if text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="WordNet 3.0's data.noun, data.verb and so on")
    folder = parser.parse_args().folder
    senses = [sense for part in _PARTS for sense in read_senses(folder / f"data.{part}")]
    order = np.random.default_rng(_SEED).permutation(len(senses))
    drawn = iter([senses[place] for place in order])
    seen: set[str] = set()
    for split, count in SENSES.items():
        rows = list(take(drawn, count, seen, pairs=split == "search"))
        lines = ["synset\ttext", *(f"{key}\t{text}" for key, text in rows), ""]
        (TARGET / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
        print(f"{split}: {len(rows)} texts of {count} senses")
    return 0


def read_senses(path: Path) -> Iterator[Sense]:
    """Yield the senses of one of WordNet's files that have a text of a usual length."""
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("  "):
            continue  # the licence
        fields, _, gloss = line.partition(" | ")
        gloss = gloss.strip()
        if _UNWANTED.search(line):
            continue
        definition = gloss.partition('"')[0].strip("; ")
        found = _EXAMPLE.search(gloss)
        sense = Sense(
            f"{path.suffix[1:]}:{fields[:8]}",
            _of_length(found[1].strip("; ") if found else "", *_EXAMPLE_WORDS),
            _of_length(definition, *_DEFINITION_WORDS),
            _of_length(gloss if found else "", *_GLOSS_WORDS),
        )
        if any(sense.texts()):
            yield sense


def _of_length(text: str, least: int, most: int) -> str | None:
    return text if least <= len(text.split()) <= most and "\t" not in text else None


def take(
    senses: Iterator[Sense], count: int, seen: set[str], *, pairs: bool
) -> Iterator[tuple[str, str]]:
    """Yield the texts of the next `count` senses that fit, the three forms in equal parts.

    With `pairs`, two of three senses give a definition and an example of it.
    """
    taken = 0
    while taken < count:
        sense = next(senses)
        forms: tuple[tuple[str | None, ...], ...]
        forms = ((sense.example,), (sense.definition,), (sense.gloss,))
        if pairs:
            forms = ((sense.definition, sense.example),) * 2 + ((sense.gloss,),)
        texts = [text for text in forms[taken % len(forms)] if text is not None]
        is_whole = len(texts) == len(forms[taken % len(forms)])
        if is_whole and seen.isdisjoint(sense.texts()):
            seen.update(sense.texts())
            yield from ((sense.key, text) for text in texts)
            taken += 1


if __name__ == "__main__":
    sys.exit(main())
