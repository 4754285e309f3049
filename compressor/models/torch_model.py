"""A Hugging Face checkpoint in memory, and the one way to load and save it.

A pruned checkpoint differs in width from layer to layer, which transformers cannot load
(huggingface/transformers#33225), so `structure.json` beside the weights records the shape that
pruning left. Only safetensors are read, and no code from a checkpoint runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from optimum.exporters.tasks import TasksManager
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Size
from compressor.models import structure
from compressor.models.checkpoint import CheckpointFiles, find_checkpoint
from compressor.models.gzipped_size import gzipped_bytes
from compressor.models.outputs import answers_of
from compressor.models.pooling import MODULES, lowers_case, read_pooling, write_pooling
from compressor.models.sentence_encoder import AutoSentenceEncoder, pooling_of
from compressor.models.text_files import keep_settings_apart
from compressor.models.text_inputs import blueprint, fit_tokenizer
from compressor.tasks import Batch, Task, load_task

_WEIGHTS = "model.safetensors"
_STRUCTURE = "structure.json"


@dataclass
class TorchModel:
    """A module with its preprocessor and task; owned by one step at a time.

    Calling it calls the module.
    """

    module: Any  # a transformers.PreTrainedModel; typed loosely because its stubs are incomplete
    preprocessor: Any
    task: Task

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, so that a loaded checkpoint is used like any transformers model."""
        return self.module(*args, **kwargs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names in the order of the logits; none where vectors are given."""
        if not self.task.names_labels:
            return ()
        names: dict[int, str] = self.module.config.id2label
        return tuple(names[index] for index in range(len(names)))

    @property
    def device(self) -> torch.device:
        """Return where the parameters lie."""
        parameter: torch.Tensor = next(self.module.parameters())
        return parameter.device

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Return logits `(batch, num_labels)`, or vectors `(batch, width)`, in evaluation mode."""
        self.module.eval()
        inputs = {name: torch.from_numpy(value).to(self.device) for name, value in batch.items()}
        with torch.inference_mode():
            outputs: NDArray[np.float32] = answers_of(self.module(**inputs)).float().cpu().numpy()
        return outputs

    def parameter_counts(self) -> tuple[int, int]:
        """Return how many parameters there are, and how many of them are not zero."""
        parameters = list(self.module.parameters())  # shared parameters appear once
        total = sum(parameter.numel() for parameter in parameters)
        return total, sum(int(torch.count_nonzero(parameter)) for parameter in parameters)

    def size(self, directory: Path) -> Size:
        """Return the size of this model as `save` wrote it into `directory`."""
        weights = directory / _WEIGHTS
        return Size(*self.parameter_counts(), weights.stat().st_size, gzipped_bytes(weights))

    def clone(self) -> TorchModel:
        """Return a copy whose parameters are its own."""
        module = structure.rebuild(self.module)
        module.load_state_dict(self.module.state_dict())
        return TorchModel(module.to(self.device).eval(), self.preprocessor, self.task)

    def save(self, directory: Path) -> None:
        """Write config, weights, shape and preprocessor, so that `load_checkpoint` reads them.

        A model of the plain shape becomes a plain Hugging Face checkpoint; that of a sentence
        encoder is its encoder, with the files that sentence-transformers reads.
        """
        directory.mkdir(parents=True, exist_ok=True)
        module = self.module if self.task.names_labels else self.module.base_model
        # transformers only sets it in its own save_pretrained; the task is inferred from it.
        module.config.architectures = [type(module).__name__]
        keep_settings_apart(self.preprocessor)
        self.preprocessor.save_pretrained(directory)
        if not self.task.names_labels:
            width, length = module.config.hidden_size, int(self.preprocessor.model_max_length)
            write_pooling(directory, pooling_of(self.module), width=width, max_length=length)
        shape = structure.read_shape(self.module)
        if shape is None:
            module.save_pretrained(directory)
            return
        module.config.save_pretrained(directory)
        save_file(_own_tensors(self.module), directory / _WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(shape.to_dict(), indent=2) + "\n"
        (directory / _STRUCTURE).write_text(text, encoding="utf-8")


def load_checkpoint(
    checkpoint: str | Path, *, task: str | None = None, revision: str | None = None
) -> TorchModel:
    """Load a local directory or a Hub id, pruned or not, in float32 and evaluation mode.

    `task` is inferred from the checkpoint's architecture when left out. Raises
    `EnvironmentMismatch` when the checkpoint is missing, truncated, only a pickle, or needs code
    of its own.
    """
    files = find_checkpoint(str(checkpoint), revision=revision)
    return load_model(files, load_task(task or files.infer_task()))


def load_model(files: CheckpointFiles, task: Task) -> TorchModel:
    """Load the checkpoint that `find_checkpoint` found, for `task`; errors as `load_checkpoint`."""
    files.require_head(task.name)
    _check_weights(files)
    config = transformers.AutoConfig.from_pretrained(files.directory, trust_remote_code=False)
    auto_class = _auto_class(files, task)
    if type(config) not in auto_class._model_mapping:
        raise _no_such_model(files, task, config)
    shape_file = files.directory / _STRUCTURE
    if shape_file.is_file():
        module = _load_pruned(files, shape_file, auto_class, config)
    else:
        module, missing = _from_pretrained(files, auto_class)
        _check_names(files.name, missing)
    return TorchModel(module.eval(), _load_preprocessor(files, task, config), task)


def load_with_head(
    files: CheckpointFiles, task: Task, labels: Sequence[str], *, seed: int
) -> tuple[TorchModel, bool]:
    """Load a checkpoint like `load_model`, or one that was only pretrained, with a new head.

    The new head is drawn with `seed`, for `labels` in their order; the second result says whether
    it was needed. The encoder has to be complete. Errors as `load_checkpoint`.
    """
    auto_class = _auto_class(files, task)
    config = transformers.AutoConfig.from_pretrained(files.directory, trust_remote_code=False)
    if (files.directory / _STRUCTURE).is_file() or type(config) not in auto_class._model_mapping:
        return load_model(files, task), False
    _check_weights(files)
    if not _from_pretrained(files, auto_class)[1]:
        return load_model(files, task), False
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, missing = _from_pretrained(files, auto_class, config=config)
    inside = f"{module.base_model_prefix}."
    _check_names(files.name, [name for name in missing if name.startswith(inside)])
    return TorchModel(module.eval(), _load_preprocessor(files, task, config), task), True


def _auto_class(files: CheckpointFiles, task: Task) -> Any:
    """Return what chooses the module's class: one of transformers, or the one for vectors."""
    if task.names_labels:
        return TasksManager.get_model_class_for_task(task.name)
    return AutoSentenceEncoder(read_pooling(files.directory, task))


def load_preprocessor(files: CheckpointFiles, task: Task) -> Any:
    """Load the tokenizer or image processor alone, as `load_model` would.

    Raises `EnvironmentMismatch` when it is missing or belongs to another checkpoint.
    """
    config = transformers.AutoConfig.from_pretrained(files.directory, trust_remote_code=False)
    return _load_preprocessor(files, task, config)


def token_limit(files: CheckpointFiles, task: Task) -> int:
    """Return how many tokens the checkpoint that `find_checkpoint` found reads at most.

    `NO_LIMIT` where nothing says. Errors as `load_preprocessor`.
    """
    if (files.directory / MODULES).is_file() and not task.names_labels:
        task = load_task(task.name)  # what its files say of pooling is not asked here
    return int(load_preprocessor(files, task).model_max_length)


def _check_weights(files: CheckpointFiles) -> None:
    for path in files.weights:
        try:
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise EnvironmentMismatch(
                f"{path}: not a readable safetensors file ({error}); it may be truncated: copy or "
                f"download it again"
            ) from error


def _load_preprocessor(files: CheckpointFiles, task: Task, config: Any) -> Any:
    try:
        preprocessor = task.load_preprocessor(files.directory)
    except (OSError, ValueError) as error:
        raise EnvironmentMismatch(
            f"{files.name}: its tokenizer or image processor cannot be loaded ({error}); save it "
            f"beside the weights with save_pretrained"
        ) from error
    if task.has_sequence:
        fit_tokenizer(files, preprocessor, _blueprint(files, task, config))
    if not task.names_labels:
        _read_as_sentences(files, task, preprocessor)
    return preprocessor


def _blueprint(files: CheckpointFiles, task: Task, config: Any) -> Any:
    """Return a model without weights that takes what the model for `task` takes.

    A sentence encoder takes what its encoder does.
    """
    chosen = (
        TasksManager.get_model_class_for_task(task.name)
        if task.names_labels
        else transformers.AutoModel
    )
    if type(config) not in chosen._model_mapping:
        raise _no_such_model(files, task, config)
    shape_file, buildable = files.directory / _STRUCTURE, config
    if shape_file.is_file():
        buildable = structure.buildable_config(config, _read_shape(shape_file))
    return blueprint(files, chosen._model_mapping[type(config)], buildable)


def _no_such_model(files: CheckpointFiles, task: Task, config: Any) -> EnvironmentMismatch:
    return EnvironmentMismatch(
        f"{files.name}: transformers {transformers.__version__} has no {task.name} model of "
        f"type '{config.model_type}'; set model.task to what the checkpoint is for"
    )


def _read_as_sentences(files: CheckpointFiles, task: Task, tokenizer: Any) -> None:
    """Let a tokenizer read what sentence-transformers would, or refuse when it cannot."""
    limit = read_pooling(files.directory, task).max_length
    if limit is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    probe = "The QUICK Brown Fox"
    if lowers_case(files.directory) and tokenizer.tokenize(probe) != tokenizer.tokenize(
        probe.lower()
    ):
        raise EnvironmentMismatch(
            f"{files.name}: sentence_bert_config.json puts texts to lower case before a tokenizer "
            f"that tells case apart, which an artifact cannot do; give the tokenizer a lower-case "
            f"normalizer and set do_lower_case to false"
        )


def _from_pretrained(
    files: CheckpointFiles, auto_class: Any, **options: Any
) -> tuple[Any, list[str]]:
    """Return the model and the names of its weights that the checkpoint lacks."""
    try:
        module, info = auto_class.from_pretrained(
            files.directory,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise EnvironmentMismatch(
            f"{files.name}: the weights do not fit config.json ({error})"
        ) from error
    return module, sorted(info["missing_keys"])


def _load_pruned(files: CheckpointFiles, shape_file: Path, auto_class: Any, config: Any) -> Any:
    shape = _read_shape(shape_file)
    if shape.hidden_size not in (None, config.hidden_size):
        raise EnvironmentMismatch(
            f"{shape_file}: hidden_size is {shape.hidden_size}, config.json says "
            f"{config.hidden_size}; take both files from the same save"
        )
    module = auto_class.from_config(structure.buildable_config(config, shape), dtype=torch.float32)
    structure.apply_shape(module, shape)
    state: dict[str, torch.Tensor] = {}
    for path in files.weights:
        state.update(load_file(path))
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise EnvironmentMismatch(
            f"{files.name}: the weights do not fit structure.json ({error})"
        ) from error
    _check_names(files.name, missing, unexpected)
    return module


def _read_shape(shape_file: Path) -> structure.EncoderShape:
    try:
        return structure.EncoderShape.from_dict(json.loads(shape_file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise EnvironmentMismatch(f"{shape_file}: not a readable shape ({error})") from error


def _check_names(name: str, missing: list[str], unexpected: list[str] | tuple[()] = ()) -> None:
    if missing or unexpected:
        raise EnvironmentMismatch(
            f"{name}: the weights lack {missing[:5]} and have {list(unexpected)[:5]} beyond the "
            f"model; a checkpoint without its fine-tuned head must be fine-tuned first"
        )


def _own_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    # safetensors refuses tensors that share memory; every tensor gets its own.
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in module.state_dict().items()
    }
