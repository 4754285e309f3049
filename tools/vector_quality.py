"""How near an artifact's vectors are to the untouched checkpoint's, and what its queries find.

For `tools/measure_runs.py`: cosines text by text, of which a report gives the mean alone, recall in
the index of the untouched checkpoint's vectors, and recall with an index of the artifact's own
vectors in float, in int8 and in bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import compressor
from compressor.artifact import Artifact
from compressor.data.judged import read_judged
from compressor.data.readers import read_header, read_table
from compressor.data.settings import SplitSource
from compressor.onnx_graph.vector_codes import int8_scale
from compressor.tasks.retrieval import Problem, recall, search, unfold
from compressor.tasks.similarity import as_floats, cosines

_BATCH = 32
_CALIBRATION_TEXTS = 512  # that int8 scales are taken of: documents, as an index holds them

Floats = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Floats]


def cosine_facts(artifact: Path, checkpoint: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the mean, the 5th percentile and the least cosine of texts to the checkpoint's."""
    vectors = _in_batches(_embed(compressor.load_artifact(artifact, threads=1)), texts)
    found = cosines(vectors, _original(checkpoint, tuple(texts)))
    return {
        "texts": len(texts),
        "mean": float(found.mean()),
        "percentile_5": float(np.percentile(found, 5)),
        "least": float(found.min()),
    }


def recall_facts(artifact: Path, checkpoint: str, folder: Path, *, most: int) -> dict[str, Any]:
    """Return recall@10 of queries of a BEIR folder, among at most `most` documents.

    `original_index` has the checkpoint's vectors of the documents; the others have the artifact's.
    """
    texts, problem = _problem(folder, most)
    before = _original(checkpoint, texts)
    queries = [texts[row] for row in problem.queries]
    documents = [texts[row] for row in problem.documents]
    embed = _embed(compressor.load_artifact(artifact, threads=1))
    own = _in_batches(embed, queries)
    stored = before[problem.documents]
    found = {
        "queries": len(queries),
        "documents": len(documents),
        "original": _recall(before[problem.queries], stored, problem),
        "original_index": _recall(own, stored, problem),
    }
    index = _in_batches(embed, documents)
    forms = {name: (form(own, index), form(index, index)) for name, form in _FORMS.items()}
    return found | {name: _recall(*form, problem) for name, form in forms.items()}


def rows_of(path: Path) -> list[str]:
    """Return the column `text` of a file."""
    return [str(text) for text in read_table(SplitSource(path=path), ("text",), ()).columns["text"]]


def _int8(vectors: Floats, index: Floats) -> Floats:
    """Return codes with one scale, as `quantize_vectors` gives them."""
    scale = int8_scale(float(np.abs(index[:_CALIBRATION_TEXTS]).max()))
    return np.asarray(np.clip(np.rint(vectors / scale), -128, 127), dtype=np.float32)


def _int8_by_dimension(vectors: Floats, index: Floats) -> Floats:
    """Return the codes of `quantize_embeddings(precision="int8")` of sentence-transformers.

    With the ranges of all documents, so that nothing of them lies outside.
    """
    starts, ends = index.min(axis=0), index.max(axis=0)
    steps = (ends - starts) / 255
    codes = np.clip(np.floor((vectors - starts) / np.where(steps == 0, 1, steps)), 0, 255) - 128
    return np.asarray(codes, dtype=np.float32)


def _bits(vectors: Floats, index: Floats) -> Floats:  # noqa: ARG001 - signs need no range
    """Return signs, whose dot product orders documents as their Hamming distance does."""
    return as_floats(np.packbits(vectors > 0, axis=1))


def _floats(vectors: Floats, index: Floats) -> Floats:  # noqa: ARG001
    return vectors


_FORMS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "float32": _floats,
    "int8": _int8,
    "int8_by_dimension": _int8_by_dimension,
    "ubinary": _bits,
}


def _recall(queries: Floats, documents: Floats, problem: Problem) -> float:
    ranks, _ = search(queries, documents, problem, "dot")
    return float(np.mean([recall(each) for each in ranks]))


def _embed(artifact: Artifact) -> Embed:
    return lambda texts: as_floats(np.asarray(artifact(list(texts))))


def _in_batches(embed: Embed, texts: Sequence[str]) -> Floats:
    """Return the vectors of texts, short ones together."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = [
        embed([texts[row] for row in order[start : start + _BATCH]])
        for start in range(0, len(order), _BATCH)
    ]
    return np.asarray(np.concatenate(parts)[np.argsort(order)], dtype=np.float32)


@cache
def _original(checkpoint: str, texts: tuple[str, ...]) -> Floats:
    """Return the untouched checkpoint's vectors, computed by PyTorch once for all seeds."""
    model = compressor.load_checkpoint(checkpoint)
    return _in_batches(
        lambda part: model.predict(model.task.encode(model.preprocessor, part)), texts
    )


@cache
def _problem(folder: Path, most: int) -> tuple[tuple[str, ...], Problem]:
    """Return queries and documents of a folder, and what is relevant to which."""
    [qrels, queries, corpus] = (
        next(folder.glob(f"{name}.*")) for name in ("qrels", "queries", "corpus")
    )
    source = SplitSource(qrels=qrels, queries=queries, corpus=corpus, max_documents=most)
    judged = read_judged(source, read_header, read_table).judged
    assert judged is not None, "its rows are queries"
    found = unfold(judged, None, whole=True)
    assert found.labels is not None, "they were asked for"
    return tuple(example.text for example in found.examples), Problem.of(found.labels)
