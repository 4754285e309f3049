"""Where a training run leaves its state, so that a run that was stopped goes on from there.

One file is replaced by the next through a rename, so that a kill at any moment leaves a whole one.
A file that is damaged, or that another training left, counts as none: that training starts again,
which costs time and never accuracy. Only safetensors and JSON are read.

The step store keeps a step once it is finished, and a training may take most of a run.
`transformers.Trainer`'s own checkpoints would not do: they are pickles, several files that a kill
can leave half written, without a checksum, and know nothing of what the loss keeps from step to
step (masks, a projection, the teacher's outputs) nor of which training they belong to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compressor.files import whole_file

logger = logging.getLogger(__name__)

# A checkpoint waits until training took this many times as long as writing the one before.
_SECONDS_OF_TRAINING_PER_SECOND_OF_WRITING = 50


@dataclass(frozen=True)
class State:
    """Tensors by name on the CPU, and whatever else JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class StateFile:
    """A file for the state of the one training run that `key` names."""

    path: Path
    key: str

    def write(self, state: State) -> None:
        """Put `state` in place of what the file held; a kill leaves the old or the new one."""
        facts = json.dumps(state.facts)
        digest = _digest(state.tensors, self.key, facts)
        metadata = {"key": self.key, "facts": facts, "sha256": digest}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as temporary:
            save_file(state.tensors, temporary, metadata=metadata)

    def read(self) -> State | None:
        """Return the state; None when there is no file, it is damaged, or has another key."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as content:
                metadata = content.metadata() or {}
                if metadata.get("key") != self.key:
                    logger.info("%s: of another training run, starting again", self.path)
                    return None
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  # not a mapping
        except SafetensorError as error:
            logger.info("%s: damaged (%s), starting again", self.path, error)
            return None
        facts = metadata.get("facts", "")
        if metadata.get("sha256") != _digest(tensors, self.key, facts):
            logger.info("%s: damaged (wrong checksum), starting again", self.path)
            return None
        return State(tensors, json.loads(facts))

    def remove(self) -> None:
        """Delete the file if it is there."""
        self.path.unlink(missing_ok=True)


@dataclass
class Pace:
    """Says when the next checkpoint is due: after some seconds, and never too often to be cheap.

    The first seconds count from when it is made; with 0 seconds one is due after every step.
    """

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _since: float = field(init=False)
    _cost: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint."""
        if self.seconds == 0:
            return True
        cheap = _SECONDS_OF_TRAINING_PER_SECOND_OF_WRITING * self._cost
        return self.clock() - self._since >= max(self.seconds, cheap)

    def keep(self, write: Callable[[], None]) -> None:
        """Call `write` and count from now on, minding how long it took."""
        started = self.clock()
        write()
        self._since = self.clock()
        self._cost = self._since - started


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and contents."""
    return _digest(tensors)


def _digest(tensors: Mapping[str, Tensor], *texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
