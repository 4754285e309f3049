"""Importance of heads and neurons: the Fisher information of their masks, without any label.

A mask variable of 1 multiplies each unit's output. To second order, the KL divergence between the
model's own predictions before and after a small change of the masks is half their Fisher
information, so a unit with little of it can be masked and the predictions stay what they were. For
vectors what should stay is their direction: the Fisher information of a normal distribution around
the vector of length 1 plays the same part, because half of it is, to second order, by how much the
cosine similarity to the model's own vector falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.families.layers import Attention, Encoder, EncoderLayer, FeedForward
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_structured.calibration_batches import shared_out
from compressor.passes.prune_structured.importance import UnitScores
from compressor.tasks import Example, Task
from compressor.tasks.examples import length_of

Part = Attention | FeedForward
_UNKNOWN_PADDING = (
    "the model reads a mask of samples of a sound, and its layers give states of longer frames, so "
    "it is not known which of them are padding; set method to scores and importance to magnitude "
    "(or taylor, where the model is no encoder of vectors), or give calibration sounds of one "
    "length"
)


def fisher_scores(
    encoder: Encoder,
    batches: Iterable[Mapping[str, Tensor]],
    task: Task,
    *,
    seed: int = 0,
    team: Team = ALONE,
) -> UnitScores:
    """Return the mean over examples of the diagonal Fisher information of each unit's mask.

    With probabilities `p` (softened at temperature 2) and logits `z` this is the variance of
    `dz_c / dmask` over classes c drawn from `p`; for two classes
    `p_0 p_1 (d(z_1 - z_0) / dmask)^2`. The constant `1 / temperature^2` is left out. Exact up to 8
    classes; with more it is estimated, without bias, by 8 random projections drawn from `seed`.
    For vectors it is the squared derivative of the vector of length 1, estimated by 2 of them.
    Padding counts nothing, because no logit depends on it.

    `batches` are inputs of the model by name, of which each process of a `team` measures its own;
    the model is put into evaluation mode. Raises `StepFailed` when there are none, or something is
    not finite.

    Ref: Kwon et al. 2022, arXiv:2204.09656, section 4 (there on labels); Park et al. 2024,
    arXiv:2308.03449 (on the model's own softened predictions).
    """
    parts = parts_of(encoder.layers)
    sums = {part: torch.zeros(num_units(part), dtype=torch.float64) for part in parts if part}
    num_examples = 0
    for size, calls in gradients_at_outputs(encoder.module, list(sums), batches, task, seed, team):
        for part, total in sums.items():
            total += _squared_mask_gradients(part, calls[output_of(part)])
        num_examples += size
    sums = {part: team.total(total) for part, total in sums.items()}
    num_examples = examples_of_all(num_examples, team)
    for part, total in sums.items():
        require_finite(parts, part, total)
    none = torch.zeros(0, dtype=torch.float64)
    means = [sums[part] / num_examples if part else none for part in parts]
    return UnitScores(tuple(means[0::2]), tuple(means[1::2]))


@dataclass(frozen=True)
class Call:
    """One use of an output projection in a forward pass over one batch.

    `inputs` has shape `(batch, tokens, in_features)`; each of `gradients`, of one scalar, has shape
    `(batch, tokens, out_features)`. `mask`, shape `(batch, tokens)`, is True where no padding is.
    """

    inputs: Tensor
    gradients: tuple[Tensor, ...]
    mask: Tensor


def gradients_at_outputs(
    module: nn.Module,
    parts: Sequence[Part],
    batches: Iterable[Mapping[str, Tensor]],
    task: Task,
    seed: int,
    team: Team = ALONE,
) -> Iterator[tuple[int, dict[nn.Linear, list[Call]]]]:
    """Yield for each batch its size and what happened at the output projections of `parts`.

    Of a `team` each process has its own batches, and draws what the others draw for theirs.

    The squared gradients of an example add up to the Fisher information of its softened prediction.
    A projection has several calls where its layer computes tokens in chunks, or is run again.
    """
    generator = torch.Generator().manual_seed(seed)
    module.eval()
    of_others: list[Mapping[str, Tensor]] = []
    for inputs in shared_out(batches, team, of_others.append):
        with _watched([output_of(part) for part in parts]) as seen, torch.enable_grad():
            outputs = _outputs_of(module, inputs, task)
            for other in of_others:
                _draw(outputs, inputs, other, task, generator)
            of_others.clear()
            mask = inputs.get("attention_mask")
            probes = list(task.losses.fisher_probes(outputs, mask, generator))
            flat = [output for uses in seen.values() for _, output in uses]
            rows = [torch.autograd.grad(probe, flat, retain_graph=True) for probe in probes]
        of_output = dict(zip(flat, zip(*rows, strict=True), strict=True))
        size = len(next(iter(inputs.values())))
        calls = {linear: _calls(uses, of_output, inputs) for linear, uses in seen.items()}
        # They hold the graph of this batch, which would be alive during the next forward pass.
        del outputs, probes, flat, rows, of_output, seen
        yield size, calls
        del calls


def examples_of_all(own: int, team: Team) -> int:
    """Return how many examples all processes measured on; raises `StepFailed` for none."""
    found = int(team.total(torch.tensor(own)))
    if found == 0:
        raise StepFailed("measuring heads and neurons needs at least one example, got none")
    return found


def parts_of(layers: Sequence[EncoderLayer]) -> list[Part | None]:
    """Return attention and feed-forward of the first layer, of the second, and so on."""
    return [part for layer in layers for part in (layer.attention, layer.feed_forward)]


def num_units(part: Part) -> int:
    """Return how many heads or neurons a sub-layer has."""
    return part.num_heads if isinstance(part, Attention) else part.num_neurons


def output_of(part: Part) -> nn.Linear:
    """Return the linear layer whose input columns are the units."""
    return part.output if isinstance(part, Attention) else part.ffn_out


def require_finite(parts: Sequence[Part | None], part: Part, values: Tensor) -> None:
    """Raise `StepFailed`, which names the layer of `part`, unless all `values` are finite."""
    if not values.isfinite().all():
        unit = "heads" if isinstance(part, Attention) else "neurons"
        raise StepFailed(
            f"what the {unit} of layer {parts.index(part) // 2} do on the calibration split is not "
            f"finite; the model's weights are broken, check the checkpoint or the training before "
            f"this step"
        )


@contextmanager
def _watched(
    linears: Sequence[nn.Linear],
) -> Iterator[dict[nn.Linear, list[tuple[Tensor, Tensor]]]]:
    """Collect inputs and outputs of `linears` in the forward passes of a block."""
    seen: dict[nn.Linear, list[tuple[Tensor, Tensor]]] = {}

    def collect(linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(linear, nn.Linear)
        if not output.requires_grad:  # everything below is frozen
            output = output.detach().requires_grad_(True)
        seen.setdefault(linear, []).append((inputs[0].detach(), output))
        return output

    with ExitStack() as hooks:
        for linear in linears:
            hooks.enter_context(linear.register_forward_hook(collect))
        yield seen


def _calls(
    uses: Sequence[tuple[Tensor, Tensor]],
    gradients: Mapping[Tensor, tuple[Tensor, ...]],
    inputs: Mapping[str, Tensor],
) -> list[Call]:
    num_tokens = sum(units.shape[1] for units, _ in uses)
    mask = token_mask(inputs, len(uses[0][0]), num_tokens).to(uses[0][0].device)
    masks = torch.split(mask, [units.shape[1] for units, _ in uses], dim=1)
    return [
        Call(units, gradients[output], part)
        for (units, output), part in zip(uses, masks, strict=True)
    ]


def token_mask(inputs: Mapping[str, Tensor], batch_size: int, num_tokens: int) -> Tensor:
    """Return where no padding is, shape `(batch_size, num_tokens)`; images have none.

    Where a layer is run several times, `num_tokens` counts those of all runs.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(batch_size, num_tokens, dtype=torch.bool)
    if num_tokens % mask.shape[1]:  # of samples, where what is computed are longer frames
        if mask.all():
            return torch.ones(batch_size, num_tokens, dtype=torch.bool)
        raise StepFailed(_UNKNOWN_PADDING)
    return mask.bool().repeat(1, num_tokens // mask.shape[1])


def require_one_length(model: TorchModel, examples: Iterable[Example]) -> None:
    """Raise `StepFailed` as `token_mask` will for sounds of several lengths and a mask of samples.

    Only a batch with padding has frames of which it is not known. Sounds are read up to the first
    that is longer or shorter.
    """
    if model.task.reads_tokens:
        return
    longest, first = model.task.max_length, None
    for example in examples:
        if first is None and "attention_mask" not in model.task.encode(
            model.preprocessor, [example]
        ):
            return
        length = min(length_of(example), longest or length_of(example))
        first = length if first is None else first
        if length != first:
            raise StepFailed(_UNKNOWN_PADDING)


def _outputs_of(module: nn.Module, inputs: Mapping[str, Tensor], task: Task) -> Tensor:
    outputs: Tensor = task.output_of(module(**inputs))
    if not outputs.isfinite().all():
        raise StepFailed(
            "the model's predictions on the calibration split are not finite, so nothing can be "
            "measured; its weights are broken, check the checkpoint or the training before this "
            "step"
        )
    return outputs


def _draw(
    outputs: Tensor,
    inputs: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    task: Task,
    generator: torch.Generator,
) -> None:
    """Draw what another process draws for the batch `other`; `outputs` are those for `inputs`."""
    own, its = next(iter(inputs.values())).shape, next(iter(other.values())).shape
    shape = [its[0], *outputs.shape[1:]]
    if outputs.dim() == 3:  # of tokens
        assert outputs.shape[1] == own[1]
        shape[1] = its[1]
    blank = torch.zeros(shape, device=outputs.device)
    for _ in task.losses.fisher_probes(blank, other.get("attention_mask"), generator):
        pass


def _squared_mask_gradients(part: Part, calls: Sequence[Call]) -> Tensor:
    """Return the sum over a batch, shape `(units,)`, float64 on the CPU."""
    weight, count = output_of(part).weight.detach(), num_units(part)
    total = torch.zeros(count, dtype=torch.float64)
    for index in range(len(calls[0].gradients)):
        gradients = sum(
            (call.inputs * (call.gradients[index] @ weight)).sum(dim=1) for call in calls
        )  # (batch, in_features)
        assert isinstance(gradients, Tensor)
        by_unit = gradients.view(len(gradients), count, -1).sum(dim=-1)
        total += by_unit.double().square().sum(dim=0).cpu()
    return total
