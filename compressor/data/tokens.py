"""The tokens of a split, made once for each tokenizer and read row by row afterwards.

Those of a split in memory are kept in memory with it, as long as the run. Those of a split that is
read from a file lie in the cache directory, under a hash of the rows, the tokenizer and its
settings, and are mapped into memory, so that neither another pass of the run nor the next run makes
them again. A set that is damaged, or that a kill left unfinished, is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.data.describe import fingerprint
from compressor.data.splits import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.files import MappedFile, remove_unused, sha256, write_whole
from compressor.machine.memory import give_back
from compressor.paths import cache_directory
from compressor.tasks import Batch, Task, Tokens
from compressor.tasks.stored_rows import are_stored

logger = logging.getLogger(__name__)

_AT_ONCE = 4096  # rows that are tokenized together, in threads where the tokenizer has them
_FORMAT = 1  # of the files of a set
_ABOUT = "about.json"
_DTYPES = {"ids": "<i4", "types": "u1", "ends": "<i8", "counts": "<i4"}
Counts = NDArray[np.integer[Any]]


class EncodedSplit(ABC):
    """The rows of a split as a model reads them."""

    # The same for two splits whose batches are the same, whoever made them; None: not known.
    key: str | None = None

    def __init__(self, task: Task, preprocessor: Any, dataset: Dataset) -> None:
        self.task = task
        self.preprocessor = preprocessor
        self.dataset = dataset

    @property
    @abstractmethod
    def counts(self) -> Counts | None:
        """Return `Task.token_counts` of all examples."""

    @property
    def lengths(self) -> Counts:
        """Return `Task.lengths` of all examples."""
        counts, limit = self.counts, self.task.max_length
        if counts is None:
            return np.zeros(len(self.dataset), dtype=np.int64)
        return counts if limit is None else np.minimum(counts, limit)

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> Batch:
        """Return what `Task.encode` gives for the examples at `rows`."""

    def batch_to_train(self, rows: Sequence[int], drawn: tuple[int, ...]) -> Batch:
        """Return what `Task.encode_to_train` gives for them."""
        examples = [self.dataset.examples[row] for row in rows]
        return self.task.encode_to_train(self.preprocessor, examples, drawn)


class EncodedWhenRead(EncodedSplit):
    """Rows that are encoded each time they are read, such as images."""

    @cached_property
    def counts(self) -> Counts | None:
        """Return `Task.token_counts` of all examples."""
        return self.task.token_counts(self.preprocessor, self.dataset.examples)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Encode the examples at `rows`."""
        return self.task.encode(self.preprocessor, [self.dataset.examples[row] for row in rows])


class KeptTokens(EncodedSplit):
    """Rows of texts whose tokens are kept."""

    def __init__(
        self, task: Task, preprocessor: Any, dataset: Dataset, arrays: _Arrays, key: str
    ) -> None:
        super().__init__(task, preprocessor, dataset)
        self._arrays = arrays
        self.key = f"{key} {fingerprint(dataset)}"

    @property
    def counts(self) -> Counts:
        """Return how many tokens each example has before it is cut."""
        return self._arrays.counts

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return the rows padded to the longest of them."""
        return self.task.padded(self.preprocessor, self._arrays.of(rows))

    def batch_to_train(self, rows: Sequence[int], drawn: tuple[int, ...]) -> Batch:  # noqa: ARG002
        """Return the same: tokens are kept only where nothing is drawn."""
        return self.batch(rows)


class _Arrays:
    """The tokens of all rows, as `Tokens` has them."""

    def __init__(self, tokens: Tokens, files: Sequence[MappedFile] = ()) -> None:
        self._tokens = tokens
        self._files = files
        self.counts = tokens.counts

    def of(self, rows: Sequence[int]) -> Tokens:
        """Return the tokens of these rows."""
        tokens = self._tokens
        for file in self._files:
            file.count(len(rows))
        chosen = np.asarray(rows, dtype=np.int64)
        ends = tokens.ends[chosen]
        starts = np.where(chosen > 0, tokens.ends[np.maximum(chosen - 1, 0)], 0)
        spans = [slice(*span) for span in zip(starts.tolist(), ends.tolist(), strict=True)]
        ids = np.concatenate([tokens.ids[span] for span in spans])
        types = tokens.types
        if types is not None:
            types = np.concatenate([types[span] for span in spans])
        return Tokens(ids, types, np.cumsum(ends - starts), self.counts[chosen])


def encoded(task: Task, preprocessor: Any, dataset: Dataset) -> EncodedSplit:
    """Return the rows of a split as `task` reads them with this tokenizer or image processor.

    Raises `EnvironmentMismatch` where tokens of a large split cannot be kept in the cache, and
    whatever encoding raises.
    """
    about = task.tokenizes(preprocessor)
    if about is None or len(dataset) == 0:
        return EncodedWhenRead(task, preprocessor, dataset)
    versions = [version(name) for name in ("compressor", "transformers", "tokenizers")]
    key = hashlib.sha256(f"{_FORMAT} {task.name} {about} {versions}".encode()).hexdigest()
    if key not in dataset.known:
        dataset.known[key] = _kept(key, task, preprocessor, dataset)
    return KeptTokens(task, preprocessor, dataset, dataset.known[key], key)


def _kept(key: str, task: Task, preprocessor: Any, dataset: Dataset) -> _Arrays:
    """Return the tokens of a split, made now or read where they were kept."""
    if not are_stored(dataset.examples):
        return _Arrays(_joined(list(_tokens(task, preprocessor, dataset))))
    key = hashlib.sha256(f"{key} {fingerprint(dataset)}".encode()).hexdigest()
    place = cache_directory() / "tokens"
    folder = place / key[:32]
    try:
        if not _is_whole(folder, key):
            remove_unused(place)
            _publish(folder, key, _tokens(task, preprocessor, dataset))
            give_back()
        os.utime(folder)
        return _mapped(folder)
    except OSError as error:
        raise EnvironmentMismatch(
            f"{folder}: the tokens of a large split cannot be kept there "
            f"({error.strerror or error}); set COMPRESSOR_CACHE to a folder with room"
        ) from error


def _tokens(task: Task, preprocessor: Any, dataset: Dataset) -> Iterator[Tokens]:
    for start in range(0, len(dataset), _AT_ONCE):
        yield task.tokens(preprocessor, list(dataset.examples[start : start + _AT_ONCE]))


def _joined(parts: Sequence[Tokens]) -> Tokens:
    types = [part.types for part in parts if part.types is not None]
    firsts = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate(types) if types else None,
        np.concatenate([part.ends + first for part, first in zip(parts, firsts, strict=True)]),
        np.concatenate([part.counts for part in parts]).astype(np.int32),
    )


def _publish(folder: Path, key: str, parts: Iterator[Tokens]) -> None:
    """Write tokens into a folder that appears whole, unless another process was faster."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        files = {name: (unfinished / name).open("wb") for name in _DTYPES}
        first = 0
        try:
            for part in parts:
                arrays: dict[str, NDArray[Any]] = {
                    "ids": part.ids,
                    "ends": part.ends + first,
                    "counts": part.counts,
                }
                if part.types is not None:
                    arrays["types"] = part.types
                for name, values in arrays.items():
                    files[name].write(values.astype(_DTYPES[name]).tobytes())
                first += len(part.ids)
        finally:
            for file in files.values():
                file.close()
        digests = {name: sha256(unfinished / name) for name in _DTYPES}
        write_whole(unfinished / _ABOUT, json.dumps({"key": key, **digests}))
        if not _is_whole(folder, key):  # else another process was faster, and may read it now
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        try:
            unfinished.rename(folder)
        except OSError:
            if not _is_whole(folder, key):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_whole(folder: Path, key: str) -> bool:
    """Return whether the tokens of `key` lie there as they were written."""
    if not folder.is_dir():
        return False
    try:
        wanted = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        found = {name: sha256(folder / name) for name in _DTYPES}
    except (OSError, ValueError) as error:
        logger.info("%s: damaged (%s), tokenized again", folder, error)
        return False
    if wanted != {"key": key, **found}:
        logger.info("%s: damaged (wrong checksum), tokenized again", folder)
        return False
    return True


def _mapped(folder: Path) -> _Arrays:
    files: list[MappedFile] = []

    def array(name: str) -> NDArray[Any] | None:
        path = folder / name
        if path.stat().st_size == 0:
            return None
        with path.open("rb") as stream:
            files.append(MappedFile(stream))
        return np.frombuffer(files[-1].content, dtype=_DTYPES[name])

    ids, types, ends = array("ids"), array("types"), array("ends")
    assert ids is not None, "each example has a token"
    assert ends is not None, "and no split is empty"
    counts = np.fromfile(folder / "counts", dtype=_DTYPES["counts"])
    return _Arrays(Tokens(ids, types, ends, counts), files)
