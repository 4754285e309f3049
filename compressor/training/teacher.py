"""Requirements on the teacher of a distillation, and its outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.torch_model import TorchModel
from compressor.models.vocabulary_files import other_vocabulary
from compressor.tasks import Batch, Example, OutputForm
from compressor.tasks.outputs import Rows
from compressor.training.batches import TrainingBatch, longest
from compressor.training.distill_settings import LAYER_WEIGHTS, DistillSettings, other_inputs
from compressor.training.layer_map import LayerMap, check_layer_map, uniform_layer_map
from compressor.training.mixing import Mix, run_mixed
from compressor.words import counted

_PROBED_EXAMPLES = 8


class TeacherOutputs:
    """The teacher's outputs for a split, computed when a row is first asked for and then kept.

    The teacher reads the examples with its own preprocessor, so its vocabulary may be another.
    Where outputs are of tokens and it splits words into others than the `student` does, what it
    says of each word stands at the student's first token of the word, and NaN at the others.
    `order` says which of the numbers on their last axis stands where. Each process of a `team`
    computes the rows that it is asked for; a checkpoint has those of all.
    """

    def __init__(
        self,
        teacher: TorchModel,
        dataset: Dataset,
        order: Sequence[int],
        team: Team = ALONE,
        *,
        student: TorchModel | None = None,
    ) -> None:
        self._student = student
        self._team = team
        self._teacher = teacher
        self._order = order
        self._dataset = dataset
        self._known: dict[int, NDArray[np.float32]] = {}  # without padding, by row

    def __call__(self, rows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the outputs for `rows`, such as `(len(rows), num_labels)`, on their device.

        Outputs with an axis of tokens stand where `mask`, shape `(len(rows), tokens)` or with more
        rows for long examples, is not 0, and there may be NaN where the student splits words
        otherwise.
        Raises `StepFailed` when one of them is not finite.
        """
        positions = rows.tolist()
        found = self._of(positions)
        is_right = np.isfinite if self._student is None else _is_no_infinity
        if not all(is_right(output).all() for output in found):
            raise StepFailed(
                f"{self._dataset.source}: the teacher's predictions are not finite for one of the "
                f"rows {self._dataset.rows[positions].tolist()}; check the teacher checkpoint"
            )
        if self._teacher.task.per_token and mask is not None:
            return self._at_tokens(found, positions, mask).to(rows.device)
        return torch.from_numpy(np.stack(found)).to(rows.device)

    def _of(self, rows: Sequence[int]) -> list[NDArray[np.float32]]:
        """Return the outputs for `rows`, without padding."""
        self._compute([row for row in rows if row not in self._known])
        return [self._known[row] for row in rows]

    def _at_tokens(
        self, found: Sequence[NDArray[np.float32]], rows: Sequence[int], mask: Tensor
    ) -> Tensor:
        """Return outputs with an axis of tokens where `mask` is not 0, and 0 elsewhere.

        An example that is long may be several rows of `mask`, one behind the other.
        """
        places = mask.cpu() != 0
        counts, wanted = [len(output) for output in found], places.sum(dim=1).tolist()
        ends, row_ends = np.cumsum(counts), np.cumsum(wanted)
        if not np.isin(ends, row_ends).all() or ends[-1] != row_ends[-1]:
            raise StepFailed(
                f"{self._dataset.source}: the student makes {wanted} tokens of the rows "
                f"{self._dataset.rows[rows].tolist()} and the teacher {counts}; take a teacher "
                f"with the student's tokenizer"
            )
        batched = torch.zeros(*places.shape, *found[0].shape[1:])
        batched[places] = torch.from_numpy(np.concatenate(found))
        return batched

    def _compute(self, rows: Sequence[int]) -> None:
        if rows:
            self._known.update(zip(rows, self._computed(rows), strict=True))

    def _computed(self, rows: Sequence[int]) -> Rows:
        """Return what the teacher gives for `rows`, read together."""
        batch = _encode(self._teacher, [self._dataset.examples[row] for row in rows])
        outputs = self._teacher.predict(batch)[..., self._order]
        if self._student is None:
            return self._teacher.task.without_padding(outputs, batch)
        own = _encode(self._student, [self._dataset.examples[row] for row in rows])
        # NaN says that there is nothing to compare, so one of the teacher's own is infinity here.
        outputs = np.where(np.isnan(outputs), np.inf, outputs)
        return self._student.task.on_own_tokens(outputs, batch, own)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the outputs so far one after the other, and their rows and shapes.

        All processes have to ask at once, and the first one is given them.
        """
        known: dict[int, NDArray[np.float32]] = {}
        for part in self._team.to_leader(self._known):
            known |= part
        rows = sorted(known)
        found = [known[row] for row in rows]
        values = np.concatenate([output.ravel() for output in found] or [np.zeros(0, np.float32)])
        return {
            "rows": torch.tensor(rows, dtype=torch.int64),
            "shapes": torch.tensor([output.shape for output in found], dtype=torch.int64),
            "values": torch.from_numpy(values),
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Keep these outputs instead of computing them."""
        values, start = state_dict["values"].numpy(), 0
        shapes = state_dict["shapes"].tolist()
        for row, shape in zip(state_dict["rows"].tolist(), shapes, strict=True):
            end = start + math.prod(shape)
            self._known[row] = values[start:end].reshape(shape)
            start = end


class TeacherInputs:
    """What the teacher reads of a batch that was encoded for the student."""

    def __init__(self, model: TorchModel, teacher: TorchModel, dataset: Dataset) -> None:
        self._teacher = teacher
        self._dataset = dataset
        ours, theirs = (_encode(each, dataset.examples[:1]) for each in (model, teacher))
        # An architecture without segments still has to teach one with them, and the reverse.
        self._same_names = ours.keys() == theirs.keys()
        # Of what is drawn there is one draw, and what it lacks the teacher takes for zeros.
        self._shared = theirs.keys() if model.task.draws_inputs else None

    def __call__(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return the batch's own inputs, or the rows encoded again where their names differ."""
        if self._same_names:
            return batch.inputs
        if self._shared is not None:
            return {name: value for name, value in batch.inputs.items() if name in self._shared}
        encoded = _encode(self._teacher, [self._dataset.examples[row] for row in batch.rows])
        return {
            name: torch.from_numpy(value).to(batch.rows.device) for name, value in encoded.items()
        }


class TeacherNow:
    """The teacher's outputs for a batch, computed for the very inputs that the student reads."""

    def __init__(
        self, model: TorchModel, teacher: TorchModel, dataset: Dataset, order: Sequence[int]
    ) -> None:
        self._teacher = teacher
        self._inputs = TeacherInputs(model, teacher, dataset)
        self._order = in_order(order)

    def __call__(self, batch: TrainingBatch) -> Tensor:
        """Return the outputs; raises `StepFailed` when one of them is not finite."""
        with torch.no_grad():  # not inference_mode: autograd has to keep these tensors
            found = self._teacher.task.output_of(self._teacher.module(**self._inputs(batch)))
        return _finite(found)[..., self._order]


class TeacherOfMixed:
    """The teacher's outputs for a mixed batch, computed for the very mix that the student reads."""

    def __init__(self, teacher: TorchModel, dataset: Dataset, order: Sequence[int]) -> None:
        self._teacher = teacher
        self._names = _encode(teacher, dataset.examples[:1]).keys()
        self._order = in_order(order)

    def __call__(self, inputs: Mapping[str, Tensor], mix: Mix, own: slice) -> Tensor:
        """Return the outputs for the `own` rows; raises `StepFailed` when one is not finite."""
        # What an architecture without segments does not read, and what another takes for zeros.
        read = {name: value for name, value in inputs.items() if name in self._names}
        with torch.no_grad():  # not inference_mode: autograd has to keep these tensors
            given = run_mixed(self._teacher.module, read, mix, own)
        return _finite(self._teacher.task.output_of(given))[..., self._order]


def _finite(found: Tensor) -> Tensor:
    if not found.isfinite().all():
        raise StepFailed(
            "the teacher's predictions are not finite for a row of the training split; check the "
            "teacher checkpoint"
        )
    return found


def _is_no_infinity(output: NDArray[np.float32]) -> NDArray[np.bool_]:
    return ~np.isinf(output)


def in_order(order: Sequence[int]) -> Sequence[int] | slice:
    """Return what picks numbers in this order; where that is theirs already, without a copy."""
    return slice(None) if list(order) == list(range(len(order))) else order


def teacher_order(model: TorchModel, teacher: TorchModel, examples: Sequence[Example]) -> list[int]:
    """Return where each of the student's numbers stands on the last axis of teacher outputs.

    Raises `StepFailed` when the two give outputs that cannot be compared: those of other labels or
    of another width, or for other tokens of `examples` where there is an output for each, and not
    one of words that others can be told.
    """
    own, other = (OutputForm(each.labels, each.module.config) for each in (model, teacher))
    order = model.task.teacher_order(own, other)
    if model.task.per_token and not model.task.aligns_words:
        own_counts, counts = _both_counts(model, teacher, examples)
        if own_counts != counts:
            raise StepFailed(
                f"the student makes {own_counts} tokens of some examples and the teacher {counts}, "
                f"so their outputs cannot be compared token by token; take a teacher with the "
                f"student's tokenizer"
            )
    return order


def splits_otherwise(model: TorchModel, teacher: TorchModel, examples: Sequence[Example]) -> bool:
    """Return whether outputs are of words that the teacher splits into other numbers of tokens."""
    if not model.task.aligns_words:
        return False
    own_counts, counts = _both_counts(model, teacher, examples)
    return own_counts != counts


def _both_counts(
    model: TorchModel, teacher: TorchModel, examples: Sequence[Example]
) -> tuple[list[int], list[int]]:
    """Return the numbers of tokens of some examples, the student's and the teacher's."""
    probed = _probed(examples)
    return _token_counts(model, probed), _token_counts(teacher, probed)


def _token_counts(model: TorchModel, examples: Sequence[Example]) -> list[int]:
    batch = _encode(model, examples)
    mask = batch.get("attention_mask", np.ones_like(batch[model.module.main_input_name]))
    counts: list[int] = np.count_nonzero(mask, axis=1).tolist()
    return counts


def _probed(examples: Sequence[Example]) -> list[Example]:
    return [*examples[:_PROBED_EXAMPLES], *longest(examples, _PROBED_EXAMPLES)]


def check_inputs(
    model: TorchModel, teacher: TorchModel, dataset: Dataset, *, mixes: bool = False
) -> None:
    """Raise `StepFailed` unless both turn examples into the same tokens or the same pixels.

    That is needed to compare their layers, or where one reads mixed examples as the other does.
    """
    ours, theirs = model.preprocessor, teacher.preprocessor
    found = ""
    if isinstance(ours, transformers.PreTrainedTokenizerBase):
        found = other_vocabulary(ours.get_vocab(), theirs.get_vocab()) or ""
    examples = _probed(dataset.examples)
    own, other = _encode(model, examples), _encode(teacher, examples)
    shared = own.keys() & other.keys()
    if not found and not (
        model.module.main_input_name in shared
        and all(np.array_equal(own[name], other[name]) for name in shared)
    ):
        found = f"it makes {_shapes(other)} of some examples, the student {_shapes(own)}"
    if found:
        raise StepFailed(other_inputs(found, mixes=mixes))


def require_known_padding(model: TorchModel, dataset: Dataset) -> None:
    """Raise `StepFailed` where the mask is not of what layers give, as of samples of a sound."""
    mask = _encode(model, dataset.examples[:1]).get("attention_mask")
    if mask is not None and not model.task.reads_tokens:
        raise StepFailed(
            f"a model of type '{model.module.config.model_type}' reads a mask of samples, and its "
            f"layers give states of longer frames, so it is not known which of them are padding "
            f"and their layers cannot be compared; set {LAYER_WEIGHTS} to 0"
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
            f"{other.num_tokens}, so their layers cannot be compared; set {LAYER_WEIGHTS} to 0, "
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
