"""Names a training run by everything its result depends on, so that no other is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import torch
import transformers

from compressor.data import Dataset, fingerprint
from compressor.files import facts_sha256
from compressor.models.torch_model import TorchModel
from compressor.training.batches import longest
from compressor.training.checkpoints import digest_of_tensors
from compressor.training.settings import PLACES, TrainingSettings

_PROBED_EXAMPLES = 32


def training_key(
    model: TorchModel,
    dataset: Dataset,
    settings: TrainingSettings,
    *,
    device: torch.device,
    seed: int,
    steps: int,
    goal: Mapping[str, object],
) -> str:
    """Return a SHA-256 that two runs share only when they are the same training from its start.

    It covers the weights that training starts from. `goal` is plain JSON data about what else
    decides the result: the loss, a teacher, a schedule of masks.
    """
    facts = {
        "weights": digest_of_tensors(model.module.state_dict()),
        "trained": [name for name, value in model.module.named_parameters() if value.requires_grad],
        "dropout": [
            float(child.p)
            for child in model.module.modules()
            if isinstance(child, torch.nn.Dropout)
        ],
        "config": model.module.config.to_dict(),
        "task": repr(model.task),
        "encoding": encoding_digest(model, dataset),
        "batched_by": "tokens",
        "data": fingerprint(dataset),
        "settings": [
            type(settings).__name__,
            settings.model_dump(mode="json", exclude=set(PLACES)),
        ],
        "device": device.type,
        "seed": seed,
        "steps": steps,
        "goal": dict(goal),
        "versions": [version("compressor"), torch.__version__, transformers.__version__],
    }
    return facts_sha256(facts)


def encoding_digest(model: TorchModel, dataset: Dataset) -> str:
    """Return a digest of how the longest examples are encoded, in place of the preprocessor's own.

    A preprocessor has no content that could be compared: its settings hold paths and versions.
    """
    encoded = model.task.encode(model.preprocessor, longest(dataset.examples, _PROBED_EXAMPLES))
    return digest_of_tensors({name: torch.from_numpy(value) for name, value in encoded.items()})
