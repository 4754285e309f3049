"""The one training loop: `transformers.Trainer` with a loss of ours.

Fine-tuning, distillation and the recovery after pruning differ in their loss only, so that is all
they pass in.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import TorchModel
from compressor.progress import Advance, Progress
from compressor.training.batches import TrainingBatch, training_loader
from compressor.training.settings import TrainingSettings

logger = logging.getLogger(__name__)

# Maps a module and a batch, both on the training device, to a scalar.
LossFunction = Callable[[nn.Module, TrainingBatch], Tensor]
# Called after each optimizer step with the number of steps taken and of all steps.
AfterStep = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainingRun:
    """Where and how a training run happens, apart from its settings.

    `work_dir` is scratch space; `description` names the run in the progress display.
    """

    device: torch.device
    seed: int
    work_dir: Path
    progress: Progress
    description: str


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run did; `final_loss` is the mean over the last tenth of its steps."""

    steps: int
    seconds: float
    final_loss: float

    def sentence(self) -> str:
        """Return the facts as a note for the report."""
        return f"{self.steps} steps in {self.seconds:.1f} s, loss {self.final_loss:.4f} at the end"


class TrainingDiverged(ValueError):
    """The loss or the weights stopped being finite; training stopped at once."""

    def __init__(self, what: str, *, step: int, loss: float, learning_rate: float) -> None:
        self.step = step
        self.loss = loss
        self.learning_rate = learning_rate
        super().__init__(
            f"{what} at step {step}: loss {loss:g}, learning rate {learning_rate:.3g}; use a lower "
            f"learning_rate or a higher warmup_ratio, and look for broken examples in the training "
            f"split"
        )


def total_steps(num_examples: int, settings: TrainingSettings) -> int:
    """Return how many optimizer steps `train` takes on a split of `num_examples`."""
    steps = math.ceil(settings.epochs * math.ceil(num_examples / settings.batch_size))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def require_examples(dataset: Dataset) -> None:
    """Raise `ValueError` for an empty split."""
    if len(dataset) == 0:
        raise ValueError(
            f"{dataset.source}: the split '{dataset.name}' is empty and cannot be trained on; "
            f"give data.{dataset.name} at least one row"
        )


def train(
    model: TorchModel,
    dataset: Dataset,
    settings: TrainingSettings,
    run: TrainingRun,
    *,
    loss: LossFunction,
    after_step: AfterStep | None = None,
) -> TrainingSummary:
    """Train `model` in place on `dataset`; it stays on its device and ends in evaluation mode.

    AdamW, gradients clipped to norm 1. The same seed gives the same weights, bit for bit on a CPU
    with the same number of threads. The global random states are as before afterwards.

    Raises `ValueError` for an empty split or `freeze_embeddings` on a model without embedding
    tables, `EnvironmentMismatch` when `run.device` is not there, and `TrainingDiverged`.
    """
    require_examples(dataset)
    steps = total_steps(len(dataset), settings)
    arguments = _arguments(settings, run, steps)
    logger.info("%s: %d steps of %d examples", run.description, steps, settings.batch_size)
    started = time.perf_counter()
    with (
        _as_it_was(model.module),
        _random_state_kept(run.device),
        run.progress.bar(run.description, steps) as advance,
    ):
        if settings.freeze_embeddings:
            _freeze_embeddings(model.module)
        watcher = _StepWatcher(advance, after_step)
        trainer = _Trainer(model, dataset, arguments, loss, watcher)
        trainer.train()
        _check_weights(model.module, watcher, trainer)
    seconds = time.perf_counter() - started
    last = watcher.losses[-math.ceil(steps / 10) :]
    summary = TrainingSummary(len(watcher.losses), seconds, sum(last) / len(last))
    logger.info("%s: loss %.4f, %.1f s", run.description, summary.final_loss, seconds)
    return summary


class _StepWatcher(transformers.TrainerCallback):
    """Follows the optimizer steps: progress, losses, and what the caller does after each."""

    def __init__(self, advance: Advance, after_step: AfterStep | None) -> None:
        self.advance = advance
        self.after_step = after_step
        self.losses: list[float] = []

    def on_step_end(
        self,
        args: transformers.TrainingArguments,  # noqa: ARG002
        state: transformers.TrainerState,
        control: transformers.TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        if self.after_step is not None:
            self.after_step(state.global_step, state.max_steps)
        self.advance(1, f"loss {self.losses[-1]:.4f}")


class _Trainer(transformers.Trainer):
    """The Trainer with our batches and our loss, which prints nothing."""

    def __init__(
        self,
        model: TorchModel,
        dataset: Dataset,
        arguments: transformers.TrainingArguments,
        loss: LossFunction,
        watcher: _StepWatcher,
    ) -> None:
        super().__init__(model.module, arguments, train_dataset=dataset, callbacks=[watcher])
        self.remove_callback(transformers.PrinterCallback)
        self.torch_model = model
        self.split = dataset
        self.loss = loss
        self.watcher = watcher

    def get_train_dataloader(self) -> DataLoader[int]:
        return training_loader(
            self.torch_model,
            self.split,
            batch_size=self.args.per_device_train_batch_size,
            seed=self.args.seed,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        del return_outputs, num_items_in_batch
        batch = TrainingBatch(inputs["inputs"], inputs["labels"], inputs["rows"])
        loss = self.loss(model, batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDiverged(
                "the loss is not finite",
                step=self.state.global_step + 1,
                loss=value,
                learning_rate=self._get_learning_rate(),
            )
        self.watcher.losses.append(value)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        # The Trainer would look for the model's inputs one level higher, and nobody reads the sum.
        return 0


def _arguments(
    settings: TrainingSettings, run: TrainingRun, steps: int
) -> transformers.TrainingArguments:
    arguments = transformers.TrainingArguments(
        output_dir=str(run.work_dir),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        # Rounded down: the first warm-up step has a learning rate of 0, too much for a short run.
        warmup_steps=int(settings.warmup_ratio * steps),
        lr_scheduler_type=_SCHEDULERS[settings.schedule],
        seed=run.seed,
        use_cpu=run.device.type == "cpu",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.device.type != run.device.type:
        raise EnvironmentMismatch(
            f"training was asked for on '{run.device}', but accelerate chose '{arguments.device}'; "
            f"use --device cpu or make the device visible"
        )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several would become DataParallel
    return arguments


_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def _freeze_embeddings(module: transformers.PreTrainedModel) -> None:
    tables = [child for child in module.modules() if isinstance(child, nn.Embedding)]
    if not tables:
        raise ValueError(
            f"freeze_embeddings: a model of type '{module.config.model_type}' has no embedding "
            f"tables; leave the setting out"
        )
    for table in tables:
        table.weight.requires_grad_(False)


def _check_weights(
    module: transformers.PreTrainedModel, watcher: _StepWatcher, trainer: _Trainer
) -> None:
    # A finite loss can have gradients that are not, and the last step is followed by no other loss.
    for parameter in module.parameters():
        if not torch.isfinite(parameter).all():
            raise TrainingDiverged(
                "the weights are not finite",
                step=len(watcher.losses),
                loss=watcher.losses[-1],
                learning_rate=trainer._get_learning_rate(),
            )


@contextmanager
def _as_it_was(module: Any) -> Iterator[None]:
    """Give back everything that training changes in a module besides its weights."""
    device = next(module.parameters()).device
    trained = {name: value.requires_grad for name, value in module.named_parameters()}
    settings = dict(module.config.__dict__)
    try:
        yield
    finally:
        module.config.__dict__.clear()
        module.config.__dict__.update(settings)  # the Trainer sets use_cache
        for name, value in module.named_parameters():
            value.requires_grad_(trained[name])
            value.grad = None
        module.to(device)
        module.eval()


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Undo the global seeding of the Trainer afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
