"""The one training loop: `transformers.Trainer` with a loss of ours.

Fine-tuning, distillation and the recovery after pruning differ in their loss only, so that is all
they pass in.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch, StepFailed
from compressor.machine.launchers import alone
from compressor.models.torch_model import TorchModel
from compressor.training.averaging import WeightAverage
from compressor.training.batches import TrainingBatch, training_loader
from compressor.training.curves import Tracked, curves
from compressor.training.data_parallel import (
    Replica,
    added_up,
    draws_of_step,
    only_last_exchanges,
    replica_of,
    require_own_rows,
    require_same_weights,
)
from compressor.training.fingerprint import training_key
from compressor.training.layer_groups import groups_by_layer, layer_rates
from compressor.training.optimizers import optimizer_of
from compressor.training.precision import LossScaler, autocast, precision_on, require_precision
from compressor.training.progress_callback import StepWatcher, TrainingFiles
from compressor.training.schedules import decay_by_factor, named_schedule, total_steps
from compressor.training.scores import PlateauRate, Scores
from compressor.training.settings import TrainingSettings
from compressor.training.sharding import divided, require_divisible, share_of, whole_weights
from compressor.training.time_masks import time_masks_that_fit
from compressor.training.training_run import (
    LossFunction,
    Objective,
    Scorer,
    StepHook,
    TrainingDiverged,
    TrainingRun,
    TrainingSummary,
)

__all__ = [
    "TrainingDiverged",
    "TrainingRun",
    "TrainingSummary",
    "require_embeddings",
    "require_examples",
    "train",
]

logger = logging.getLogger(__name__)


def require_examples(dataset: Dataset) -> None:
    """Raise `StepFailed` for an empty split."""
    if len(dataset) == 0:
        raise StepFailed(
            f"{dataset.source}: the split '{dataset.name}' is empty and cannot be trained on; "
            f"give data.{dataset.name} at least one row"
        )


def require_embeddings(model: TorchModel, settings: TrainingSettings) -> None:
    """Raise `StepFailed` when there are no embedding tables to freeze."""
    if settings.freeze_embeddings and not _tables(model.module):
        raise StepFailed(
            f"freeze_embeddings: a model of type '{model.module.config.model_type}' has no "
            f"embedding tables; leave the setting out"
        )


def require_layers(model: TorchModel, settings: TrainingSettings) -> None:
    """Raise `StepFailed` when `layer_decay` is asked for and the layers cannot be told apart."""
    if settings.layer_decay < 1:
        layer_rates(model.module, settings.layer_decay)


def require_checkpointing(model: TorchModel, settings: TrainingSettings) -> None:
    """Raise `StepFailed` when layers of `model` cannot be computed again going backward."""
    if settings.gradient_checkpointing and not model.module.supports_gradient_checkpointing:
        raise StepFailed(
            f"gradient_checkpointing: transformers has none for a model of type "
            f"'{model.module.config.model_type}'; take accumulation_steps to save memory"
        )


def train(
    model: TorchModel,
    dataset: Dataset,
    settings: TrainingSettings,
    run: TrainingRun,
    objective: Objective,
    hook: StepHook | None = None,
) -> TrainingSummary:
    """Train `model` in place on `dataset`; it stays on its device and ends in evaluation mode.

    The same seed gives the same weights, bit for bit on a CPU with the same number of threads. The
    global random states are as before afterwards.

    A run that was killed goes on from its last checkpoint in `run.work_dir` and ends with the same
    weights, bit for bit on a CPU, as if nothing had happened; the result of one that finished is
    read from there.

    Raises `StepFailed` for an empty split, `freeze_embeddings` on a model without embedding
    tables and `layer_decay` on one whose layers are not found, `EnvironmentMismatch` when
    `run.device` is not there, and `TrainingDiverged`. Settings with `evaluations` need
    `run.scorer`, or `ValueError` is raised.
    """
    require_precision(settings, run.device)
    require_examples(dataset)
    require_embeddings(model, settings)
    require_layers(model, settings)
    require_checkpointing(model, settings)
    require_own_rows(model, settings, run.team)
    steps = total_steps(len(dataset), settings)
    with alone():
        arguments = _arguments(settings, run, steps)
    precision = precision_on(settings, run.device)
    require_divisible(
        run.team,
        has_after_step=hook is not None,
        precision=precision,
        optimizer=settings.optimizer,
    )
    key = training_key(
        model,
        dataset,
        settings,
        device=run.device,
        seed=run.seed,
        steps=steps,
        goal=_goal(settings, run, objective, hook, precision),
    )
    kept = {**({} if hook is None else hook.kept), **objective.trained_too}
    files = TrainingFiles(run.work_dir, key)
    logger.info("%s: %d steps of %d examples", run.description, steps, settings.batch_size)
    with (
        alone(),
        _as_it_was(model),
        _random_state_kept(run.device),
        _checkpointed(model, wanted=settings.gradient_checkpointing),
        time_masks_that_fit(model.module),
        run.progress.bar(run.description, steps) as advance,
    ):
        finished = files.finished_before(model.module, kept) if run.team.leads else None
        finished = run.team.from_leader(finished)
        if finished is not None:
            advance(steps, "finished before")
            return finished
        if settings.freeze_embeddings:
            for table in _tables(model.module):
                table.weight.requires_grad_(False)
        scaler = LossScaler(run.device) if precision == "float16" else None
        own = {} if scaler is None else {"loss_scaler": scaler}
        watcher = StepWatcher(
            files.checkpoint,
            run,
            advance,
            None if hook is None else hook.after_step,
            {**kept, **objective.cached, **own},
            scores=_scores(model, settings, run),
            average=_average(model, settings),
        )
        trainer = _Trainer(model, dataset, settings, arguments, objective, watcher)
        _require_plain(trainer.accelerator)
        if scaler is not None:
            # With its own, accelerate would compute the model alone in float16, not the teacher.
            trainer.accelerator.scaler = scaler.scaler
        tracked = Tracked(settings, run.description, key, watcher.losses, watcher.scores)
        share = _trained(trainer, tracked)
        if not run.team.is_alone:
            require_same_weights(model.module, run.team)
        told = _told(settings, run, precision, share, objective)
        summary = replace(watcher.summary(), told=told)
        if run.team.leads:
            files.finish(model.module, kept, summary)
    logger.info("%s: loss %.4f, %.1f s", run.description, summary.final_loss, summary.seconds)
    return summary


def _goal(
    settings: TrainingSettings,
    run: TrainingRun,
    objective: Objective,
    hook: StepHook | None,
    precision: str,
) -> dict[str, object]:
    """Return plain JSON data about what this training computes, for its key."""
    goal = {} if hook is None else dict(hook.facts)
    goal |= {**objective.facts, "bfloat16": precision == "bfloat16"}
    if precision == "float16":
        goal["float16"] = True
    if settings.evaluations and run.team.leads:
        goal["scorer"] = _scorer(run).key
    return goal


def _trained(trainer: _Trainer, tracked: Tracked) -> float:
    """Run all steps; return the share of parameters and optimizer state that this process held."""
    model, run, watcher = trainer.torch_model, trainer.run, trainer.watcher
    parts = nn.ModuleList([model.module, *trainer.trained_too])
    with (
        divided(parts, run.team, run.device),
        curves(tracked if run.team.leads else None) as callbacks,
    ):
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()
        assert trainer.optimizer is not None, "it has trained"
        watcher.require_finite(model.module, trainer.optimizer)  # no loss follows the last step
        watcher.put_result_in_place(model.module)
        return share_of(model.module, trainer.optimizer)


def _told(
    settings: TrainingSettings,
    run: TrainingRun,
    precision: str,
    share: float,
    objective: Objective,
) -> str:
    """Say in words what settings do not: processes, arithmetic that was chosen, what is learnt."""
    parts = []
    if not run.team.is_alone:
        parts.append(f"in {run.team.size} processes")
        if run.team.launch.sharded:
            parts[-1] += f", {share:.0%} of parameters and optimizer state in the first"
    if settings.precision == "auto" or precision == "float16":
        parts.append(f"matmuls in {precision}")
    return "; ".join(part for part in (*parts, objective.told) if part)


def _scorer(run: TrainingRun) -> Scorer:
    if run.scorer is None:
        raise ValueError("settings with evaluations need a TrainingRun with a scorer")
    return run.scorer


def _scores(model: TorchModel, settings: TrainingSettings, run: TrainingRun) -> Scores | None:
    """Return what scores the model while it trains; None where nothing is asked for."""
    if not settings.evaluations:
        return None

    is_divided = run.team.launch.sharded
    scored = model.clone() if is_divided and run.team.leads else model  # is whole all the time

    def score() -> float:
        with _random_state_kept(run.device):
            return _scorer(run).score(scored)

    def score_of_leader() -> float:
        if is_divided:
            weights = whole_weights(model.module)
            if run.team.leads:
                scored.module.load_state_dict(weights)
        return run.team.from_leader(score() if run.team.leads else 0.0)

    return Scores(settings, score_of_leader)


def _average(model: TorchModel, settings: TrainingSettings) -> WeightAverage | None:
    decay = settings.ema_decay
    return None if decay is None else WeightAverage(model.module, decay)


def _computed_as(
    settings: TrainingSettings, device: torch.device, loss: LossFunction
) -> LossFunction:
    """Return `loss` in the arithmetic and the mode that the settings ask for."""
    precision = precision_on(settings, device)

    def computed(module: nn.Module, batch: TrainingBatch) -> Tensor:
        if not settings.dropout:
            # Wherever a module keeps its rate, there is no other mode without dropout; the Trainer
            # switches to training mode before each step.
            module.eval()
        with autocast(device, precision):
            return loss(module, batch)

    return computed


class _Trainer(transformers.Trainer):
    """The Trainer with our batches and our loss, which prints nothing."""

    def __init__(
        self,
        model: TorchModel,
        dataset: Dataset,
        settings: TrainingSettings,
        arguments: transformers.TrainingArguments,
        objective: Objective,
        watcher: StepWatcher,
    ) -> None:
        super().__init__(
            model.module,
            arguments,
            train_dataset=dataset,
            callbacks=[watcher],
            optimizer_cls_and_kwargs=optimizer_of(settings),
        )
        self.remove_callback(transformers.PrinterCallback)
        self.settings = settings
        self.torch_model = model
        self.split = dataset
        self.loss = _computed_as(settings, watcher.run.device, objective.loss)
        self.watcher = watcher
        self.objective: Objective = objective
        self.trained_too = nn.ModuleList(objective.trained_too.values()).to(arguments.device)
        self.run = watcher.run
        self.team = watcher.team
        self.computes: nn.Module = model.module  # what a loss reads outputs of

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.settings.layer_decay < 1:
            groups = groups_by_layer(optimizer.param_groups, self.torch_model.module, self.settings)
            own = optimizer_of(self.settings)
            kind, settings = own or self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = optimizer = kind(groups, **settings)
        more = list(self.trained_too.parameters())
        if more:
            optimizer.add_param_group({"params": more, "weight_decay": self.args.weight_decay})
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        if named_schedule(self.settings, steps=num_training_steps, warmup_steps=warmup_steps):
            found: LRScheduler = super().create_scheduler(num_training_steps, optimizer)
            return found
        factor: Callable[[int], float]
        if self.settings.schedule == "reduce_on_plateau":
            factor = self.watcher.plateau = PlateauRate(
                warmup_steps,
                self.settings.decay_factor,
                self.settings.plateau_patience,
                self.settings.min_improvement,
                self.settings.final_lr_ratio,
            )
        else:
            batches = math.ceil(len(self.split) / self.settings.batch_size)
            factor = decay_by_factor(
                self.settings, steps_per_epoch=batches, warmup_steps=warmup_steps
            )
        assert self.optimizer is not None, "it is made first"
        self.lr_scheduler = LambdaLR(self.optimizer, factor)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader[int]:
        return training_loader(
            self.torch_model,
            self.split,
            batch_size=self.args.per_device_train_batch_size,
            seed=self.args.seed,
            parts=self.settings.accumulation_steps,
            count=self.objective.count,
            first_batch=self.watcher.first_step,
            whole_groups=self.objective.whole_groups,
            team=self.team,
        )

    def training_step(
        self,
        model: nn.Module,
        inputs: Any,  # the parts of one optimizer step
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 - shares say it
    ) -> Tensor:
        self.trained_too.zero_grad()  # the Trainer knows of the model's gradients alone
        if not self.team.is_alone:
            return self._step_together(model, inputs)
        # Each part adds its gradients to those of the parts before it.
        losses = [super(_Trainer, self).training_step(model, part) for part in inputs]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        self.watcher.losses.append(float(loss))
        return loss

    def _step_together(self, model: nn.Module, inputs: Any) -> Tensor:
        """Take a step with the rows of this process, and add up gradients and loss over all."""
        is_sharded = self.team.launch.sharded
        if not (is_sharded or isinstance(self.computes, Replica)):
            self.computes = replica_of(self.torch_model.module, self.run.device)
        draws_of_step(self.run, self.state.global_step)
        losses = []
        for number, part in enumerate(inputs):
            with only_last_exchanges(self.computes, is_last=number == len(inputs) - 1):
                losses.append(super().training_step(model, part))
        if not is_sharded:
            added_up(self.trained_too, self.team)
        loss = self.team.total(torch.stack(losses).sum()) / self.team.size
        self._require_finite_loss(float(loss))
        self.watcher.losses.append(float(loss))
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        del return_outputs, num_items_in_batch
        if not self.team.is_alone:
            # Gradients are averaged over processes, and the parts of a loss have to be added up.
            batch = TrainingBatch(**inputs, team=self.team)
            return self.loss(self.computes, batch) * self.team.size
        loss = self.loss(model, TrainingBatch(**inputs))
        self._require_finite_loss(float(loss.detach()))
        return loss

    def _require_finite_loss(self, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                "the loss is not finite",
                step=self.state.global_step + 1,
                loss=value,
                learning_rate=self._get_learning_rate(),
            )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        scaler = self.accelerator.scaler
        if scaler is not None:
            wrapped: Any = self.optimizer  # by accelerate, which unscales by a scaler of its own
            scaler.unscale_(wrapped.optimizer)
        return super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        # The Trainer would look for the model's inputs one level higher, and nobody reads the sum.
        return 0


def _arguments(
    settings: TrainingSettings, run: TrainingRun, steps: int
) -> transformers.TrainingArguments:
    # Rounded down: the first warm-up step has a learning rate of 0, too much for a short run.
    warmup_steps = int(settings.warmup_ratio * steps)
    schedule = named_schedule(settings, steps=steps, warmup_steps=warmup_steps)
    beta1, beta2 = settings.betas or (0.9, 0.999)
    arguments = transformers.TrainingArguments(
        output_dir=str(run.work_dir),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta1=beta1,
        adam_beta2=beta2,
        adam_epsilon=settings.epsilon or 1e-8,
        max_grad_norm=settings.max_grad_norm,
        warmup_steps=warmup_steps,
        lr_scheduler_type="constant" if schedule is None else schedule.name,
        lr_scheduler_kwargs=None if schedule is None else schedule.settings,
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


def _require_plain(accelerator: Any) -> None:
    """Raise `EnvironmentMismatch` unless accelerate does what the settings say and no more."""
    found = {
        "processes": (accelerator.num_processes, 1),
        "mixed precision": (accelerator.mixed_precision, "no"),
        "gradient accumulation steps": (accelerator.gradient_accumulation_steps, 1),
        "way to train": (str(accelerator.distributed_type.value), "NO"),
    }
    wrong = [
        f"{name} {own} in place of {plain}" for name, (own, plain) in found.items() if own != plain
    ]
    if wrong:
        raise EnvironmentMismatch(
            f"accelerate was configured elsewhere in this process ({', '.join(wrong)}), which "
            f"changes weights; train in a process of its own"
        )


def _tables(module: nn.Module) -> list[nn.Embedding]:
    return [child for child in module.modules() if isinstance(child, nn.Embedding)]


@contextmanager
def _checkpointed(model: TorchModel, *, wanted: bool) -> Iterator[None]:
    """Compute layers again going backward, in this block, in place of keeping what they gave."""
    if not wanted:
        yield
        return
    model.module.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        model.module.activation_checkpointing_disable()


@contextmanager
def _as_it_was(model: TorchModel) -> Iterator[None]:
    """Give back everything that training changes in a module besides its weights."""
    module, device = model.module, model.device
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
        model.move_to(device)
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
