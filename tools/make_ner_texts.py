#!/usr/bin/env python3
"""Make unlabelled documents that a tagger is distilled on: its train documents with other names.

    tools/make_ner_texts.py TRAIN.conll --wordnet FOLDER --output TEXTS.jsonl

FOLDER holds `corpus.tsv` (doc_id, text: "lemmas: definition") and `queries-train.tsv` (query_id,
text), made from WordNet. Each document of TRAIN is written `--copies` times: most of its entities,
and now and then another word, give way to a name, which is a capitalised lemma or an entity of
another document. Sentences are usage examples. What the names are then is for the teacher to say:
no tag is written. A row holds `text`, a list of words. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from compressor.data.readers import read_table
from compressor.data.settings import SplitSource
from compressor.runtime.tags import OUTSIDE

_SEED = 0
_ENTITY_RATE = 0.8  # of the entities of a document that give way to a name
_WORD_RATE = 0.03  # of its other words
_LONGEST_NAME = 3  # words
_TOKEN = re.compile(r"\w+|[^\w\s]")

Sentence = tuple[Sequence[str], Sequence[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("--wordnet", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--sentences", type=int, default=6000)
    arguments = parser.parse_args()
    table = read_table(SplitSource(path=arguments.train, format="conll"), ("text", "label"), ())
    train = list(zip(table.columns["text"], table.columns["label"], strict=True))
    names = [*names_of(train), *lemma_names(column_of(arguments.wordnet / "corpus.tsv"))]
    draw = random.Random(_SEED)  # noqa: S311 - no secret
    copies = [renamed(sentence, names, draw) for _ in range(arguments.copies) for sentence in train]
    examples = column_of(arguments.wordnet / "queries-train.tsv")
    draw.shuffle(examples)
    sentences = [_TOKEN.findall(text) for text in examples[: arguments.sentences]]
    rows = [{"text": words} for words in [*copies, *sentences] if words]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    arguments.output.write_text(lines, encoding="utf-8")
    print(f"{len(rows):,} documents, {len(names):,} names")
    return 0


def column_of(path: Path) -> list[str]:
    """Return the column `text` of a tab-separated file."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["text"] for row in rows]


def spans_of(tags: Sequence[str]) -> list[tuple[int, int]]:
    """Return where entities begin and end, for tags of IOB2.

    >>> spans_of(["B-a", "I-a", "O", "B-b", "B-b"])
    [(0, 2), (3, 4), (4, 5)]
    """
    starts = [place for place, tag in enumerate(tags) if tag.startswith("B-")]
    spans = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        spans.append((start, end))
    return spans


def names_of(sentences: Sequence[Sentence]) -> list[list[str]]:
    """Return the entities of documents, each as often as it occurs."""
    found = [list(words[start:end]) for words, tags in sentences for start, end in spans_of(tags)]
    return [words for words in found if len(words) <= _LONGEST_NAME]


def lemma_names(glosses: Sequence[str]) -> list[list[str]]:
    """Return the lemmas before the colon that are names: all of their words begin with a capital.

    >>> lemma_names(["Bergman, Ingrid Bergman: Swedish actress", "able: having means"])
    [['Bergman'], ['Ingrid', 'Bergman']]
    """
    lemmas = [lemma.split() for text in glosses for lemma in text.partition(":")[0].split(", ")]
    return [
        words
        for words in lemmas
        if 0 < len(words) <= _LONGEST_NAME and all(word[0].isupper() for word in words)
    ]


def renamed(sentence: Sentence, names: Sequence[Sequence[str]], draw: random.Random) -> list[str]:
    """Return the words of a document in which names took the place of others."""
    words, tags = sentence
    ends = dict(spans_of(tags))
    found: list[str] = []
    place = 0
    while place < len(words):
        end = ends.get(place, place + 1)
        rate = _WORD_RATE if tags[place] == OUTSIDE else _ENTITY_RATE
        found.extend(draw.choice(names) if draw.random() < rate else words[place:end])
        place = end
    return found


if __name__ == "__main__":
    sys.exit(main())
