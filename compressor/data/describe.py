"""What the report says about the splits: their fingerprints, and the examples they share.

A score on rows that a model was trained on proves little. Files overlap more often than their names
tell (SST-2's train rows are phrases of one another), so the overlap is counted, not assumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from compressor.data.group_texts import shared_text
from compressor.data.splits import Dataset
from compressor.measurements import SplitRecord
from compressor.tasks import Example, identity_of, texts_of
from compressor.tasks.outputs import LabelArray

_CHUNK = 1 << 16  # rows that are looked up together
_AT_ONCE = 4096  # rows whose labels are written together
_FINGERPRINT = "fingerprint"


def describe_splits(splits: Mapping[str, Dataset]) -> tuple[SplitRecord, ...]:
    """Return a record of each split, with how many of its examples also occur in each other one.

    Of queries with candidates the query counts, of questions the context: what was chosen by some
    candidates of a query is not unseen by others.
    """
    place = shared_text(splits.values())
    digests = {name: _identities(split, place) for name, split in splits.items()}
    records = []
    for name, split in splits.items():
        shared = {
            other: _num_in(digests[name], digests[other]) for other in splits if other != name
        }
        records.append(
            SplitRecord(
                name=name,
                num_examples=len(split),
                source=split.source,
                cut_from=split.cut_from,
                fingerprint=fingerprint(split),
                shared_with={other: count for other, count in shared.items() if count},
            )
        )
    return tuple(records)


def _identities(split: Dataset, place: int | None) -> NDArray[np.uint64]:
    """Return what tells examples of splits apart, shape `(num_examples,)`, in ascending order.

    `place` is the text that a group is told by, if one is.

    Of their SHA-256 these are 64 bits: that two of millions of rows share them by chance has a
    probability below one in a million, and memory is what 256 would take.
    """
    digests = (
        _digest(example if split.groups is None or place is None else texts_of(example)[place])
        for example in split.examples
    )
    found = np.fromiter(
        (int.from_bytes(digest[:8], "big") for digest in digests),
        dtype=np.uint64,
        count=len(split),
    )
    found.sort()
    return found


def _num_in(values: NDArray[np.uint64], ordered: NDArray[np.uint64]) -> int:
    """Return how many of `values` are among the `ordered` ones."""
    count = 0
    for start in range(0, len(values) if len(ordered) else 0, _CHUNK):
        chunk = values[start : start + _CHUNK]
        places = np.minimum(np.searchsorted(ordered, chunk), len(ordered) - 1)
        count += int(np.sum(ordered[places] == chunk))
    return count


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of the examples, labels and grades, whatever file they came from."""
    if _FINGERPRINT not in dataset.known:
        dataset.known[_FINGERPRINT] = _fingerprint(dataset)
    found: str = dataset.known[_FINGERPRINT]
    return found


def _fingerprint(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for example in dataset.examples:
        digest.update(_digest(example))
    if dataset.labels is not None:
        for part in _bytes_of_labels(dataset.labels):
            digest.update(part)
    if dataset.grades is not None:
        digest.update(np.asarray(dataset.grades, dtype="<f8").tobytes())
    if dataset.groups is not None:
        digest.update(np.asarray(dataset.groups, dtype="<i8").tobytes())
    return digest.hexdigest()


def rows_as_json(rows: Mapping[str, NDArray[np.int64]]) -> str:
    """Return positions of rows by the names of splits, as `json.dumps` writes lists of them.

    A list of millions of numbers would take ten times the memory of their text.
    """
    parts = []
    for name, positions in rows.items():
        starts = range(0, len(positions), _CHUNK)
        chunks = (positions[start : start + _CHUNK].tolist() for start in starts)
        numbers = ", ".join(", ".join(map(str, chunk)) for chunk in chunks)
        parts.append(f"{json.dumps(name)}: [{numbers}]")
    return f"{{{', '.join(parts)}}}"


def _bytes_of_labels(labels: LabelArray) -> Iterator[bytes]:
    """Yield what labels are told apart by, of lists in parts that fit into memory."""
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        yield np.asarray(labels, dtype="<i8" if labels.dtype.kind in "iu" else "<f8").tobytes()
        return
    # Several for each example, such as one for each word: a JSON list of them all.
    yield b"["
    for start in range(0, len(labels), _AT_ONCE):
        part = [np.asarray(label).tolist() for label in labels[start : start + _AT_ONCE]]
        yield (", " if start else "").encode() + json.dumps(part)[1:-1].encode()
    yield b"]"


def _digest(example: Example) -> bytes:
    if (identity := identity_of(example)) is not None:
        return identity
    digest = hashlib.sha256()
    if not isinstance(example, str | tuple):
        # Such as queries and documents, or a text with the name of its prompt.
        digest.update(f"{type(example).__name__}:{getattr(example, 'prompt_name', '')}".encode())
    for text in texts_of(example):
        content = text.encode("utf-8")
        digest.update(f"text{len(content)}:".encode())
        digest.update(content)
    return digest.digest()
