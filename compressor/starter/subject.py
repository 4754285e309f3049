"""The checkpoint that a starter recipe is for: loaded, tried on rows, and what it permits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import nn

from compressor.errors import RecipeError, StepFailed
from compressor.models.checkpoint import CheckpointFiles
from compressor.models.families.layers import encoder_layers
from compressor.models.families.prunable import UnsupportedArchitecture, why_heads_stay
from compressor.models.text_files import check_attention, full_attention
from compressor.models.torch_model import TorchModel, load_foreign, try_batch
from compressor.own_code import OwnFunction
from compressor.passes.prune_structured.fisher import require_one_length
from compressor.starter.lengths import Lengths, measure_lengths
from compressor.starter.plan import Pruning, step_of
from compressor.starter.questions import ask_for_weights, why_not
from compressor.starter.sources import Sources
from compressor.tasks import Task, with_own_metric

DRAFT_RATIO = 0.2
ROWS_TO_CUT = 20  # fewer are all needed to judge on: nothing is cut from them
_TRIED_ROWS = 4  # that the checkpoint reads before a recipe is written


@dataclass(frozen=True)
class Subject:
    """A model that has read some of the rows, and what it permits."""

    files: CheckpointFiles
    model: TorchModel
    cannot_prune: str  # why, empty where it can be
    keeps_heads: bool  # heads cannot be pruned, neurons can
    convolves: bool  # most of its weights are filters of convolutions
    lengths: Lengths | None  # of texts, None for other inputs

    @property
    def task(self) -> Task:
        """Return the model's task, with the length that rows need."""
        return self.model.task


def load_subject(
    files: CheckpointFiles, task: Task, sources: Sources, own_metric: OwnFunction | None
) -> Subject:
    """Load the checkpoint and try it on rows.

    Raises `EnvironmentMismatch` where it cannot be loaded or cannot read them, `RecipeError` where
    the rows do not suffice for it.
    """
    model = load_foreign(files, task)
    if own_metric is not None:
        model.task = with_own_metric(model.task, own_metric, files.labels_for(task))
    cannot_prune, keeps_heads = _pruning(model, files)
    texts = sources.texts(task)
    try_batch(files, model, texts[:_TRIED_ROWS] if task.reads_tokens else [task.dummy_example(0)])
    length = model.task.needed_length(model.preprocessor, sources.examples(model.task))
    model.task = replace(model.task, max_length=length)
    donor = sources.donor
    if not (cannot_prune or task.reads_tokens):
        try:
            require_one_length(model, sources.examples(model.task))
        except StepFailed as error:
            cannot_prune = str(error).partition("; ")[0]
    if donor.num_rows < ROWS_TO_CUT and not cannot_prune:
        cannot_prune = f"{donor.num_rows} rows are too few to fit weights by"
    if (convolves := _convolves(model.module)) and donor.num_rows < ROWS_TO_CUT:
        raise RecipeError(
            f"{donor.path}: its convolutions become int8 by rows for calibration, and "
            f"{donor.num_rows} rows are too few to cut any; give at least {ROWS_TO_CUT}"
        )
    ask_for_weights(model, files, convolves=convolves)
    lengths = None
    if task.reads_tokens:
        lengths = measure_lengths(task, model.preprocessor, texts, full_attention(files.config))
        check_attention(files, lengths.read)
    return Subject(files, model, cannot_prune, keeps_heads, convolves, lengths)


def _pruning(model: TorchModel, files: CheckpointFiles) -> tuple[str, bool]:
    """Return why the encoder cannot be pruned ("" when it can), and whether its heads must stay."""
    try:
        encoder_layers(model.module)
    except UnsupportedArchitecture as error:
        return error.reason, False
    keeps_heads = why_heads_stay(model.module.config) is not None
    step = step_of(Pruning(DRAFT_RATIO, None, None, 0.0), keeps_heads=keeps_heads)
    reason = why_not(step, model, files, {}) or ""
    return reason.partition("; ")[0], keeps_heads


def _convolves(module: nn.Module) -> bool:
    """Return whether most weights of a model are filters of convolutions."""
    sizes: Counter[bool] = Counter()
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding)):
            sizes[isinstance(part, (nn.Conv1d, nn.Conv2d))] += part.weight.numel()
    return sizes[True] > sizes[False]
