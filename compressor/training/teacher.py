"""What a teacher has to bring before it can teach, and its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch import Tensor

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.tasks import Batch
from compressor.training.layers import LayerMap, uniform_layer_map
from compressor.training.settings import DistillSettings


class TeacherLogits:
    """The teacher's logits for a split, computed when a row is first asked for and then kept.

    The teacher reads the examples with its own preprocessor, so its vocabulary may be another.
    """

    def __init__(self, teacher: TorchModel, dataset: Dataset) -> None:
        self._teacher = teacher
        self._dataset = dataset
        self._known = np.zeros(len(dataset), dtype=bool)
        self._logits = np.zeros((len(dataset), len(teacher.labels)), dtype=np.float32)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the logits of `rows`, shape `(len(rows), num_labels)`, on the device of `rows`.

        Raises `ValueError` when one of them is not finite.
        """
        positions = rows.cpu().numpy()
        missing = positions[~self._known[positions]]
        if len(missing) > 0:
            examples = [self._dataset.examples[row] for row in missing]
            task, preprocessor = self._teacher.task, self._teacher.preprocessor
            self._logits[missing] = self._teacher.predict(task.encode(preprocessor, examples))
            self._known[missing] = True
        logits = self._logits[positions]
        if not np.isfinite(logits).all():
            raise ValueError(
                f"{self._dataset.source}: the teacher's logits are not finite for one of the rows "
                f"{self._dataset.rows[positions].tolist()}; check the teacher checkpoint"
            )
        return torch.from_numpy(logits).to(rows.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the logits so far and which rows they are of."""
        return {"logits": torch.from_numpy(self._logits), "known": torch.from_numpy(self._known)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Keep these logits instead of computing them."""
        self._logits = state_dict["logits"].numpy()
        self._known = state_dict["known"].numpy()


def check_labels(model: TorchModel, teacher: TorchModel) -> None:
    """Raise `ValueError` unless both have the same labels in the same order."""
    if model.labels != teacher.labels:
        raise ValueError(
            f"the teacher's labels are {list(teacher.labels)}, the student's {list(model.labels)}; "
            f"they must be the same in the same order, so take another teacher or correct id2label "
            f"in its config.json"
        )


def check_inputs(model: TorchModel, teacher: TorchModel, dataset: Dataset) -> None:
    """Raise `ValueError` unless both turn examples into the same inputs."""
    ours, theirs = model.preprocessor, teacher.preprocessor
    if isinstance(ours, transformers.PreTrainedTokenizerBase):
        vocabulary = theirs.get_vocab()
        same = ours.get_vocab() == vocabulary
        found = f"{len(vocabulary)} entries, the student's {len(ours.get_vocab())}"
    else:
        examples = dataset.examples[:8]
        own, other = model.task.encode(ours, examples), teacher.task.encode(theirs, examples)
        same = own.keys() == other.keys() and all(np.array_equal(own[k], other[k]) for k in own)
        found = f"shapes {_shapes(other)}, the student's {_shapes(own)}"
    if not same:
        raise ValueError(
            f"the teacher reads examples in another way than the student (it has {found}), so "
            f"their layers cannot be compared; set hidden_weight and attention_weight to 0, or "
            f"take a teacher with the student's tokenizer or image processor"
        )


def _shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in batch.items()}


@dataclass(frozen=True)
class _Layers:
    """What a model shows of its inside: widths of its hidden states and number of maps."""

    width: int
    num_layers: int
    num_maps: int


def _look_inside(model: TorchModel, dataset: Dataset, *, maps: bool) -> _Layers:
    batch = model.task.encode(model.preprocessor, dataset.examples[:1])
    inputs = {name: torch.from_numpy(value).to(model.device) for name, value in batch.items()}
    model.module.eval()
    with torch.no_grad():
        outputs = model.module(**inputs, output_hidden_states=True, output_attentions=maps)
    states = outputs.hidden_states
    return _Layers(states[-1].shape[-1], len(states) - 1, len(outputs.attentions) if maps else 0)


def check_layers(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    layer_map: LayerMap | None,
) -> LayerMap:
    """Return the pairs of layers to compare, or raise when they cannot be compared."""
    maps = settings.attention_weight > 0
    own = _look_inside(model, dataset, maps=maps)
    other = _look_inside(teacher, dataset, maps=maps)
    if settings.hidden_weight > 0 and own.width != other.width:
        raise ValueError(
            f"hidden_weight compares hidden states of one width, but the student's have "
            f"{own.width} and the teacher's {other.width} numbers a token; set hidden_weight to 0"
        )
    for name, layers in (("student", own), ("teacher", other)):
        if maps and layers.num_maps != layers.num_layers:
            raise ValueError(
                f"attention_weight needs an attention map from every layer, but the {name} gives "
                f"{layers.num_maps} from {layers.num_layers} layers (a layer whose heads were all "
                f"pruned has none); set attention_weight to 0"
            )
    pairs = layer_map or uniform_layer_map(own.num_layers, other.num_layers)
    for pair in pairs:
        if not (0 <= pair[0] < own.num_layers and 0 <= pair[1] < other.num_layers):
            raise ValueError(
                f"layer_map: {tuple(pair)} is out of range; the student has {own.num_layers} "
                f"layers and the teacher {other.num_layers}, counted from 0"
            )
    return pairs


@contextmanager
def attention_maps_in(model: TorchModel, teacher: TorchModel, *, wanted: bool) -> Iterator[None]:
    """Compute attention in the one way that gives its probabilities, for the length of a block."""
    if not wanted:
        yield
        return
    modules = (model.module, teacher.module)
    before = [module.config._attn_implementation for module in modules]
    try:
        for module in modules:
            module.set_attn_implementation("eager")
        yield
    finally:
        for module, implementation in zip(modules, before, strict=True):
            module.set_attn_implementation(implementation)
