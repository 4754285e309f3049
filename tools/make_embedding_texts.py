"""Make unlabelled texts, and queries that nothing is chosen by, from a retrieval data set.

    tools/make_embedding_texts.py FOLDER --output FOLDER

FOLDER holds `corpus.tsv` (doc_id, text), and `queries-train.tsv`, `qrels-train.tsv`,
`queries-dev.tsv` and `qrels-dev.tsv` in BEIR's layout, such as WordNet's examples and glosses.
Written are `train.tsv`, `search.tsv` and `certification.tsv`, each of the column `text`, and a
folder `retrieval` of queries, corpus and qrels, whose queries are among the certification texts.

A document that a dev query looks for is in one split with its queries, a quarter of them in search;
train has all other documents and the train queries, without any text of the other two. The same
files give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_SEED = 0
_SEARCH_SHARE = 0.25  # of the documents that dev queries look for
_QUERIES = 1500  # of certification, at most, that search


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    folder, output = arguments.folder, arguments.output
    corpus = texts_by_id(folder / "corpus.tsv", "doc_id")
    dev = texts_by_id(folder / "queries-dev.tsv", "query_id")
    train = texts_by_id(folder / "queries-train.tsv", "query_id")
    relevant = [(row["query-id"], row["corpus-id"]) for row in rows_of(folder / "qrels-dev.tsv")]
    parts = parts_of({document for _, document in relevant})
    texts = split_texts(corpus, dev, train, relevant, parts)
    (output / "retrieval").mkdir(parents=True, exist_ok=True)
    for name, found in texts.items():
        lines = "".join(f"{text}\n" for text in found)
        (output / f"{name}.tsv").write_text(f"text\n{lines}", encoding="utf-8")
        print(f"{name}: {len(found):,} texts")
    kept = set(texts["certification"])
    chosen = [(query, document) for query, document in relevant if dev[query] in kept][:_QUERIES]
    write_retrieval(output / "retrieval", chosen, dev)
    shutil.copyfile(folder / "corpus.tsv", output / "retrieval" / "corpus.tsv")
    return 0


def parts_of(documents: Iterable[str]) -> dict[str, str]:
    """Return the split, search or certification, of each document that a dev query looks for."""
    order = sorted(documents)
    random.Random(_SEED).shuffle(order)  # noqa: S311 - no secret
    limit = _SEARCH_SHARE * len(order)
    return {
        name: "search" if place < limit else "certification" for place, name in enumerate(order)
    }


def split_texts(
    corpus: Mapping[str, str],
    dev: Mapping[str, str],
    train: Mapping[str, str],
    relevant: Iterable[tuple[str, str]],
    parts: Mapping[str, str],
) -> dict[str, list[str]]:
    """Return the texts of each split in a random order; no text is in two of them."""
    found: dict[str, list[str]] = {"search": [], "certification": [], "train": []}
    for query, document in relevant:
        found[parts[document]].append(dev[query])
    for document, part in parts.items():
        found[part].append(corpus[document])
    found["train"] = [*train.values(), *(corpus[name] for name in corpus if name not in parts)]
    seen: set[str] = set()
    for name, texts in found.items():
        fresh = {text.lower(): text for text in reversed(texts) if text.lower() not in seen}
        seen.update(fresh)
        order = sorted(fresh.values())
        random.Random(_SEED).shuffle(order)  # noqa: S311 - no secret
        found[name] = order
    return found


def write_retrieval(
    folder: Path, chosen: Iterable[tuple[str, str]], queries: Mapping[str, str]
) -> None:
    """Write queries and what is relevant to them."""
    pairs = list(chosen)
    judged = "".join(f"{query}\t{document}\t1\n" for query, document in pairs)
    (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    asked = "".join(f"{query}\t{queries[query]}\n" for query in dict.fromkeys(q for q, _ in pairs))
    (folder / "queries.tsv").write_text(f"query_id\ttext\n{asked}", encoding="utf-8")


def texts_by_id(path: Path, column: str) -> dict[str, str]:
    return {row[column]: row["text"] for row in rows_of(path)}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


if __name__ == "__main__":
    sys.exit(main())
