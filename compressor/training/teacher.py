"""What a teacher has to bring before it can teach, and its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from torch import Tensor

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.tasks import Batch, Example
from compressor.training.batches import TrainingBatch, longest
from compressor.training.layer_map import LayerMap, check_layer_map, uniform_layer_map
from compressor.training.settings import DistillSettings
from compressor.words import counted

_PROBED_EXAMPLES = 8
_LAYER_WEIGHTS = "hidden_weight, attention_weight, sublayer_weight and relation_weight"


class TeacherLogits:
    """The teacher's answers for a split, computed when a row is first asked for and then kept.

    The teacher reads the examples with its own preprocessor, so its vocabulary may be another.
    `order` says which of its logits stands where; by default they stay where they are, and so do
    the numbers of a vector.
    """

    def __init__(
        self, teacher: TorchModel, dataset: Dataset, order: Sequence[int] | None = None
    ) -> None:
        self._teacher = teacher
        width = len(teacher.labels) or int(teacher.module.config.hidden_size)
        self._order = list(range(width) if order is None else order)
        self._dataset = dataset
        self._known = np.zeros(len(dataset), dtype=bool)
        self._logits = np.zeros((len(dataset), width), dtype=np.float32)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the answers to `rows`, such as `(len(rows), num_labels)`, on the device of `rows`.

        Raises `StepFailed` when one of them is not finite.
        """
        positions = rows.cpu().numpy()
        missing = positions[~self._known[positions]]
        if len(missing) > 0:
            examples = [self._dataset.examples[row] for row in missing]
            task, preprocessor = self._teacher.task, self._teacher.preprocessor
            logits = self._teacher.predict(task.encode(preprocessor, examples))
            self._logits[missing] = logits[:, self._order]
            self._known[missing] = True
        logits = self._logits[positions]
        if not np.isfinite(logits).all():
            raise StepFailed(
                f"{self._dataset.source}: the teacher's answers are not finite for one of the rows "
                f"{self._dataset.rows[positions].tolist()}; check the teacher checkpoint"
            )
        return torch.from_numpy(logits).to(rows.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the answers so far, and which rows they are of."""
        logits = torch.from_numpy(self._logits[self._known])
        return {"logits": logits, "known": torch.from_numpy(self._known)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Keep these answers instead of computing them."""
        self._known = state_dict["known"].numpy().copy()
        self._logits[self._known] = state_dict["logits"].numpy()


class TeacherInputs:
    """What the teacher reads of a batch that was encoded for the student."""

    def __init__(self, model: TorchModel, teacher: TorchModel, dataset: Dataset) -> None:
        self._teacher = teacher
        self._dataset = dataset
        ours, theirs = (_encode(each, dataset.examples[:1]) for each in (model, teacher))
        # An architecture without segments still has to teach one with them, and the reverse.
        self._same_names = ours.keys() == theirs.keys()

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the batch's own inputs, or the rows encoded again where their names differ."""
        if self._same_names:
            return batch.inputs
        encoded = _encode(self._teacher, [self._dataset.examples[row] for row in batch.rows])
        return {
            name: torch.from_numpy(value).to(batch.rows.device) for name, value in encoded.items()
        }


def answer_order(model: TorchModel, teacher: TorchModel) -> list[int]:
    """Return where each of the student's labels is among the teacher's logits, by its name.

    The numbers of vectors keep their places. Raises `StepFailed` unless both have the same labels,
    each once, or vectors of the same width.
    """
    if not model.task.names_labels:
        own, other = (int(each.module.config.hidden_size) for each in (model, teacher))
        if own != other:
            raise StepFailed(
                f"the student's vectors have {own} numbers, the teacher's {other}; they must be "
                f"the same, so take a student and a teacher of one width"
            )
        return list(range(own))
    if sorted(model.labels) != sorted(teacher.labels):
        raise StepFailed(
            f"the teacher's labels are {list(teacher.labels)}, the student's {list(model.labels)}; "
            f"they must be the same, so take another teacher or correct id2label in its config.json"
        )
    if len(set(model.labels)) != len(model.labels):
        raise StepFailed(
            f"the labels {list(model.labels)} are not told apart by their names, so those of "
            f"teacher and student cannot be matched; correct id2label in config.json"
        )
    return [teacher.labels.index(label) for label in model.labels]


def check_inputs(model: TorchModel, teacher: TorchModel, dataset: Dataset) -> None:
    """Raise `StepFailed` unless both turn examples into the same tokens or the same pixels."""
    ours, theirs = model.preprocessor, teacher.preprocessor
    found = ""
    if isinstance(ours, transformers.PreTrainedTokenizerBase):
        vocabulary, own_vocabulary = theirs.get_vocab(), ours.get_vocab()
        if own_vocabulary != vocabulary:
            entries = counted(len(vocabulary), "entry", "entries")
            found = f"it has {entries}, the student's {len(own_vocabulary):,}"
    examples = [*dataset.examples[:_PROBED_EXAMPLES], *longest(dataset, _PROBED_EXAMPLES)]
    own, other = _encode(model, examples), _encode(teacher, examples)
    shared = own.keys() & other.keys()
    if not found and not (
        model.module.main_input_name in shared
        and all(np.array_equal(own[name], other[name]) for name in shared)
    ):
        found = f"it makes {_shapes(other)} of some examples, the student {_shapes(own)}"
    if found:
        raise StepFailed(
            f"the teacher reads examples in another way than the student ({found}), so their "
            f"layers cannot be compared; set {_LAYER_WEIGHTS} to 0, or take a teacher with the "
            f"student's tokenizer or image processor"
        )


def _encode(model: TorchModel, examples: Sequence[Example]) -> Batch:
    return model.task.encode(model.preprocessor, examples)


def _shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in batch.items()}


@dataclass(frozen=True)
class _Layers:
    """What a model shows of its inside: sizes of its hidden states and number of maps."""

    num_tokens: int  # of the first example
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
    num_maps = len(outputs.attentions) if maps else 0
    shape = states[-1].shape
    num_tokens = shape[1] if len(shape) == 3 else 0  # a convolution has none
    return _Layers(num_tokens, shape[-1], len(states) - 1, num_maps)


def check_layers(
    model: TorchModel,
    teacher: TorchModel,
    dataset: Dataset,
    settings: DistillSettings,
    layer_map: LayerMap | None,
) -> tuple[tuple[int, int], LayerMap]:
    """Return the widths of student and teacher and the pairs of layers to compare.

    Raises `StepFailed` when they cannot be compared.
    """
    maps = settings.attention_weight > 0
    own = _look_inside(model, dataset, maps=maps)
    other = _look_inside(teacher, dataset, maps=maps)
    if own.num_tokens != other.num_tokens:
        raise StepFailed(
            f"the student makes {counted(own.num_tokens, 'token')} of an example and the teacher "
            f"{other.num_tokens}, so their layers cannot be compared; set {_LAYER_WEIGHTS} to 0, "
            f"or take a teacher with the student's patch size and special tokens"
        )
    if settings.hidden_weight > 0 and own.width > other.width:
        raise StepFailed(
            f"hidden_weight projects the student's hidden states onto the teacher's, but the "
            f"student is wider: {own.width} numbers a token, the teacher has {other.width}; set "
            f"hidden_weight to 0, or use relation_weight"
        )
    for name, layers in (("student", own), ("teacher", other)):
        if maps and layers.num_maps != layers.num_layers:
            raise StepFailed(
                f"attention_weight needs an attention map from every layer, but the {name} gives "
                f"{layers.num_maps} from {counted(layers.num_layers, 'layer')} (a layer whose "
                f"heads were all pruned has none); set attention_weight to 0"
            )
    pairs = layer_map or uniform_layer_map(own.num_layers, other.num_layers)
    check_layer_map(pairs, own.num_layers, other.num_layers)
    return (own.width, other.width), pairs


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
