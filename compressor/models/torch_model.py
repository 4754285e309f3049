"""A Hugging Face checkpoint in memory, and the one way to load and save it.

A pruned checkpoint differs in width from layer to layer, which transformers cannot load
(huggingface/transformers#33225), so `structure.json` beside the weights records the shape that
pruning left. Only safetensors are read, and no code from a checkpoint runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from compressor.errors import EnvironmentMismatch
from compressor.machine.gzip_sizes import gzipped_bytes
from compressor.measurements import Size
from compressor.models import structure
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.conv1d import as_transformers_saves, make_linear
from compressor.models.guard import foreign
from compressor.models.loading import (
    STRUCTURE,
    load_config,
    load_pruned,
    load_weights,
    read_shape,
    require_class,
)
from compressor.models.text_files import keep_settings_apart
from compressor.models.text_inputs import blueprint, fit_tokenizer
from compressor.models.tokenizer_file import require_tokens_of_file
from compressor.models.weight_files import WEIGHTS
from compressor.models.weight_keys import Fit, require_finite, require_fit
from compressor.tasks import Batch, Example, Task, load_task
from compressor.tasks.model_classes import model_classes
from compressor.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass
class TorchModel:
    """A module with its preprocessor and task; owned by one step at a time.

    Calling it calls the module.
    """

    module: PreTrainedModel
    preprocessor: Any  # a tokenizer or an image processor, which the task knows
    task: Task

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the module, so that a loaded checkpoint is used like any transformers model."""
        return self.module(*args, **kwargs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names in the order of the logits; none where the task has none."""
        if not (self.task.has_head and self.task.names_labels):
            return ()
        names: Any = self.module.config.id2label
        return tuple(str(names[index]) for index in range(len(names)))

    @property
    def device(self) -> torch.device:
        """Return where the parameters lie."""
        parameter: torch.Tensor = next(self.module.parameters())
        return parameter.device

    def move_to(self, device: torch.device) -> None:
        """Move the parameters to a device, in place."""
        module: nn.Module = self.module  # whose `to` has the types that transformers' lacks
        module.to(device)

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Return what the task reads, such as logits `(batch, num_labels)`, in evaluation mode."""
        self.module.eval()
        inputs = {name: torch.from_numpy(value).to(self.device) for name, value in batch.items()}
        with torch.inference_mode():
            outputs = self.task.output_of(self.module(**inputs))
        found: NDArray[np.float32] = outputs.float().cpu().numpy()
        return found

    def parameter_counts(self) -> tuple[int, int]:
        """Return how many parameters there are, and how many of them are not zero."""
        parameters = list(self.module.parameters())  # shared parameters appear once
        total = sum(parameter.numel() for parameter in parameters)
        return total, sum(int(torch.count_nonzero(parameter)) for parameter in parameters)

    def size(self, directory: Path) -> Size:
        """Return the size of this model as `save` wrote it into `directory`."""
        files = [directory / WEIGHTS]
        if structure.read_shape(self.module) is None:  # else all weights are in one file
            files += self.task.weights_beside(directory)
        return Size(
            *self.parameter_counts(),
            sum(path.stat().st_size for path in files),
            sum(map(gzipped_bytes, files)),
        )

    def clone(self) -> TorchModel:
        """Return a copy whose parameters are its own."""
        module = structure.rebuild(self.module)
        module.load_state_dict(self.module.state_dict())
        copied = TorchModel(module.eval(), self.preprocessor, self.task)
        copied.move_to(self.device)
        return copied

    def save(self, directory: Path) -> None:
        """Write config, weights, shape and preprocessor, so that `load_checkpoint` reads them.

        A model of the plain shape becomes a plain Hugging Face checkpoint; that of a sentence
        encoder is its encoder, with the files that sentence-transformers reads.
        """
        directory.mkdir(parents=True, exist_ok=True)
        module = self.task.saved_module(self.module)
        # transformers only sets it in its own save_pretrained; the task is inferred from it.
        module.config.architectures = [type(module).__name__]
        keep_settings_apart(self.preprocessor)
        self.preprocessor.save_pretrained(directory)
        self.task.write_beside(self.module, self.preprocessor, directory)
        shape = structure.read_shape(self.module)
        if shape is None:
            with as_transformers_saves(module):
                module.save_pretrained(directory)
            return
        module.config.save_pretrained(directory)
        save_file(_own_tensors(self.module), directory / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(shape.to_dict(), indent=2) + "\n"
        (directory / STRUCTURE).write_text(text, encoding="utf-8")


def load_checkpoint(
    checkpoint: str | Path, *, task: str | None = None, revision: str | None = None
) -> TorchModel:
    """Load a local directory or a Hub id, pruned or not, in float32 and evaluation mode.

    `task` is inferred from the checkpoint's architecture when left out. Raises
    `EnvironmentMismatch` when the checkpoint is missing, truncated, only a pickle, needs code of
    its own, or cannot be loaded for any other reason.
    """
    files = find_checkpoint(str(checkpoint), revision=revision)
    return load_foreign(files, load_task(task or files.infer_task()))


def load_foreign(
    files: CheckpointFiles, task: Task, *, allow_not_finite: bool = False
) -> TorchModel:
    """Load a checkpoint that somebody else made; whatever fails is `EnvironmentMismatch`.

    Weights that are NaN or infinite are refused too, unless they are what is looked for, and a
    tokenizer that is not what its file says.
    """
    with foreign(f"{files.name}: cannot be loaded", "give a checkpoint that transformers loads"):
        model = load_model(files, task)
        _require_own_tokens(files, model)
        if not allow_not_finite:
            require_finite(files, model.module)
    return model


def try_batch(files: CheckpointFiles, model: TorchModel, examples: Sequence[Example]) -> None:
    """Let a checkpoint that somebody else made read its first batch.

    Raises `EnvironmentMismatch` when that fails, or gives something else than the task's outputs.
    """
    task = model.task
    advice = "give a checkpoint whose tokenizer or image processor and weights go together"
    with foreign(
        f"{files.name}: cannot compute a first batch of {counted(len(examples), 'row')}", advice
    ):
        shape = np.shape(model.predict(task.encode(model.preprocessor, examples)))
    width = len(model.labels)
    if (needed := task.misfit(shape, len(examples), width)) is not None:
        and_labels = f" and {counted(width, 'label')}" if width else ""
        raise EnvironmentMismatch(
            f"{files.name}: gives outputs of shape {list(shape)} for "
            f"{counted(len(examples), 'row')}{and_labels}, where {task.name} needs {needed}; "
            f"{advice}"
        )


def load_model(files: CheckpointFiles, task: Task) -> TorchModel:
    """Load the checkpoint that `find_checkpoint` found, for `task`; errors as `load_checkpoint`."""
    files.require_head(task.name)
    task = task.as_saved(files.directory)
    config = load_config(files, task)
    auto_class = task.auto_class(files.directory)
    require_class(files, task, auto_class, config)
    shape_file = files.directory / STRUCTURE
    if shape_file.is_file():
        module = load_pruned(files, shape_file, auto_class, config)
    else:
        module, fit = load_weights(files, auto_class, config)
        require_fit(files, module, fit, reads_head=task.has_head, described_by="config.json")
    return _model(module, _load_preprocessor(files, task, config), task)


def _model(module: Any, preprocessor: Any, task: Task) -> TorchModel:
    """Return a model in evaluation mode, whose task knows its labels."""
    make_linear(module)
    model = TorchModel(module.eval(), preprocessor, task)
    return replace(model, task=task.for_labels(model.labels))


def load_with_head(
    files: CheckpointFiles, task: Task, labels: Sequence[str], *, seed: int
) -> tuple[TorchModel, bool]:
    """Load a checkpoint like `load_foreign`, or one that was only pretrained, with a new head.

    The new head is drawn with `seed`, for `labels` in their order; the second result says whether
    it was needed. The encoder has to be complete. Errors as `load_checkpoint`.
    """
    with foreign(f"{files.name}: cannot be loaded", "give a checkpoint that transformers loads"):
        config, auto_class = load_config(files, task), task.auto_class(files.directory)
        require_class(files, task, auto_class, config)
        if (files.directory / STRUCTURE).is_file():
            return load_foreign(files, task), False
        module, fit = load_weights(files, auto_class, config)
        is_new = bool(fit.missing)
        if is_new:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: index for index, label in enumerate(labels)}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module, fit = load_weights(files, auto_class, config)
            fit = _of_encoder(module, fit)
        else:
            files.require_head(task.name)
        reads_head = task.has_head and not is_new
        require_fit(files, module, fit, reads_head=reads_head, described_by="config.json")
        require_finite(files, module)
        model = _model(module, _load_preprocessor(files, task, config), task)
        _require_own_tokens(files, model)
        return model, is_new


def _require_own_tokens(files: CheckpointFiles, model: TorchModel) -> None:
    if model.task.reads_tokens:
        require_tokens_of_file(files, model.preprocessor)


def _of_encoder(module: PreTrainedModel, fit: Fit) -> Fit:
    """Return the fit of the encoder alone: what the head lacks was drawn."""
    inside = f"{module.base_model_prefix}."
    return replace(fit, missing=tuple(name for name in fit.missing if name.startswith(inside)))


def load_preprocessor(files: CheckpointFiles, task: Task) -> Any:
    """Load the tokenizer or image processor alone, as `load_model` would.

    Raises `EnvironmentMismatch` when it is missing or belongs to another checkpoint.
    """
    return _load_preprocessor(files, task, load_config(files, task))


def token_limit(files: CheckpointFiles, task: Task) -> int:
    """Return how many tokens the checkpoint that `find_checkpoint` found reads at most.

    `NO_LIMIT` where nothing says. Errors as `load_preprocessor`.
    """
    task = load_task(task.name)  # what its files say of pooling is not asked here
    return int(load_preprocessor(files, task).model_max_length)


def _load_preprocessor(files: CheckpointFiles, task: Task, config: PreTrainedConfig) -> Any:
    what = task.preprocessor_name
    with foreign(
        f"{files.name}: its {what} cannot be loaded",
        f"save the {what} beside the weights with save_pretrained",
    ):
        preprocessor = task.load_preprocessor(files.directory)
    if task.reads_tokens:
        if (most := task.tokens_read(files.directory)) is not None:
            preprocessor.model_max_length = most
        fit_tokenizer(files, preprocessor, _blueprint(files, task, config))
    task.fit_preprocessor(files.name, files.directory, preprocessor)
    return preprocessor


def _blueprint(files: CheckpointFiles, task: Task, config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model without weights that takes what the model for `task` takes.

    A sentence encoder takes what its encoder does.
    """
    chosen = task.auto_class(files.directory)
    require_class(files, task, chosen, config)
    shape_file = files.directory / STRUCTURE
    if shape_file.is_file():
        read_shape(shape_file)  # a damaged one is told before anything is loaded
    return blueprint(files, model_classes(chosen._model_mapping, config)[0], config)


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    # safetensors refuses tensors that share memory; every tensor gets its own, and one that is
    # another's, such as the table of words in the head of a language model, is left out.
    found: dict[str, torch.Tensor] = {}
    known: set[tuple[int, torch.Size]] = set()
    for name, value in module.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if value.numel() and place in known:
            continue
        known.add(place)
        found[name] = value.detach().cpu().contiguous().clone()
    return found
