"""The teacher's outputs for a whole split on disk, so that they are computed once.

A folder holds one set of outputs for each teacher and split, by a fingerprint of both. They are
numbers one after the other, which are mapped into memory, a table of where each row begins and of
its shape, and the checksums of both: a set that is damaged, or that a kill left unfinished, is
computed again.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import transformers
from filelock import FileLock
from numpy.typing import NDArray

from compressor.data import Dataset, fingerprint
from compressor.data.tokens import encoded
from compressor.files import facts_sha256, sha256, whole_file, write_whole
from compressor.models.torch_model import TorchModel
from compressor.progress import Progress
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.fingerprint import encoding_digest
from compressor.training.teacher import TeacherOutputs

logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 32
_VALUES, _TABLE, _ABOUT = "values.f32", "table.npy", "about.json"


class StoredTeacherOutputs(TeacherOutputs):
    """The teacher's outputs for a split, in `folder`; they are computed first where they are not.

    They are read from the disk as they are asked for, and are no part of a checkpoint.
    """

    def __init__(
        self,
        teacher: TorchModel,
        dataset: Dataset,
        order: Sequence[int],
        folder: Path,
        progress: Progress,
        *,
        student: TorchModel | None = None,
    ) -> None:
        super().__init__(teacher, dataset, order, student=student)
        key = _key(teacher, dataset, order, student)
        self._folder = folder / key[:32]
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            if not self._is_whole(key):
                self._store(key, progress)
        self._table: NDArray[np.int64] = np.load(self._folder / _TABLE, allow_pickle=False)
        self._values = np.memmap(self._folder / _VALUES, dtype="<f4", mode="r")

    def _of(self, rows: Sequence[int]) -> list[NDArray[np.float32]]:
        found = []
        for row in rows:
            start, *shape = self._table[row].tolist()
            values = self._values[start : start + math.prod(shape)]
            found.append(np.array(values, dtype=np.float32).reshape(shape))
        return found

    def _is_whole(self, key: str) -> bool:
        """Return whether the outputs of `key` lie there as they were written."""
        about = self._folder / _ABOUT
        if not about.is_file():
            return False
        files = {name: self._folder / name for name in (_VALUES, _TABLE)}
        try:
            wanted = json.loads(about.read_text(encoding="utf-8"))
            found = {name: sha256(path) for name, path in files.items()}
        except (OSError, ValueError) as error:
            logger.info("%s: damaged (%s), computed again", self._folder, error)
            return False
        if wanted != {"key": key, **found}:
            logger.info("%s: damaged (wrong checksum), computed again", self._folder)
            return False
        return True

    def _store(self, key: str, progress: Progress) -> None:
        """Compute the outputs of every row, rows of like length together, and write them."""
        (self._folder / _ABOUT).unlink(missing_ok=True)
        read = encoded(self._teacher.task, self._teacher.preprocessor, self._dataset)
        order = np.argsort(read.lengths, kind="stable")
        table = np.zeros((len(order), 0), dtype=np.int64)
        position = 0
        values = self._folder / _VALUES
        with (
            whole_file(values) as partial,
            partial.open("wb") as stream,
            progress.bar("teacher outputs", len(order)) as advance,
        ):
            for start in range(0, len(order), _ROWS_PER_BATCH):
                rows = order[start : start + _ROWS_PER_BATCH].tolist()
                for row, output in zip(rows, self._computed(rows), strict=True):
                    if table.shape[1] == 0:
                        table = np.zeros((len(order), 1 + output.ndim), dtype=np.int64)
                    table[row] = (position, *output.shape)
                    position += output.size
                    stream.write(np.ascontiguousarray(output, dtype="<f4").tobytes())
                advance(len(rows))
        with whole_file(self._folder / _TABLE) as partial, partial.open("wb") as stream:
            np.save(stream, table)
        digests = {name: sha256(self._folder / name) for name in (_VALUES, _TABLE)}
        write_whole(self._folder / _ABOUT, json.dumps({"key": key, **digests}))


def _key(
    teacher: TorchModel, dataset: Dataset, order: Sequence[int], student: TorchModel | None
) -> str:
    """Return a SHA-256 of all that outputs depend on."""
    own = {} if student is None else {"student_encoding": encoding_digest(student, dataset)}
    return facts_sha256(
        {
            **own,
            "weights": digest_of_tensors(teacher.module.state_dict()),
            "config": teacher.module.config.to_dict(),
            "task": repr(teacher.task),
            "encoding": encoding_digest(teacher, dataset),
            "data": fingerprint(dataset),
            "order": list(order),
            "device": teacher.device.type,
            "versions": [version("compressor"), torch.__version__, transformers.__version__],
        }
    )
