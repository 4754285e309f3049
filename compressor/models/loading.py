"""What transformers makes of a checkpoint's files: the configuration, the class and the module.

Each call into it is guarded, because what it raises for files that it cannot read is of any type.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import transformers
from safetensors.torch import load_file

from compressor.errors import EnvironmentMismatch
from compressor.machine.quiet import quiet_libraries
from compressor.models import structure
from compressor.models.checkpoint_files import CheckpointFiles
from compressor.models.conv1d import make_linear
from compressor.models.guard import foreign
from compressor.models.weight_files import WRAPPERS
from compressor.models.weight_keys import Fit, fit_of_loaded, fit_of_state, require_fit
from compressor.tasks import Task
from compressor.tasks.model_classes import model_classes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

STRUCTURE = "structure.json"
# What a model reads, by the name of its main input.
_SENSES = {
    "input_ids": "texts",
    "pixel_values": "images",
    "pixel_values_videos": "videos",
    "input_values": "sound",
    "input_features": "sound",
}


class AutoClass(Protocol):
    """One of transformers' auto classes, or what a task gives in place of one."""

    @property
    def _model_mapping(self) -> Mapping[type[PreTrainedConfig], Any]:
        """Return the class of each configuration's class; several for some."""

    # It returns a model, and with `output_loading_info` what was not as expected too.
    def from_pretrained(self, directory: Path, **options: object) -> Any:
        """Load the weights."""

    def from_config(self, config: PreTrainedConfig, *, dtype: torch.dtype) -> PreTrainedModel:
        """Return a model with random weights."""


def load_config(files: CheckpointFiles, task: Task) -> PreTrainedConfig:
    """Read config.json, without what would only change the form of what the model gives.

    How attention is computed is left to transformers, too: one way needs packages that may not be
    here, and a name on the Hub would have code loaded from there. Tokens go through a feed-forward
    network together: in chunks, which save memory, only multiples of one length can be read.
    """
    _ = files.labels_for(task)  # they are checked
    place = files.directory / "config.json"
    with foreign(
        f"{place}: transformers {transformers.__version__} cannot read it",
        "correct it, or give a checkpoint of a model type that this transformers has",
    ):
        config: PreTrainedConfig = transformers.AutoConfig.from_pretrained(
            files.directory, trust_remote_code=False
        )
        config = task.loaded_part(config)
        if isinstance(config, transformers.PreTrainedConfig):
            config.return_dict = True
            config.output_attentions = config.output_hidden_states = False
            config._attn_implementation = None
            if getattr(config, "chunk_size_feed_forward", 0):
                config.chunk_size_feed_forward = 0
            task.fit_config(config, files.directory)
    return config


def require_class(
    files: CheckpointFiles, task: Task, auto_class: AutoClass, config: PreTrainedConfig
) -> None:
    """Raise `EnvironmentMismatch` unless transformers has a model for the task, for its inputs."""
    if type(config) not in auto_class._model_mapping:
        raise EnvironmentMismatch(
            f"{files.name}: transformers {transformers.__version__} has no {task.name} model of "
            f"type '{config.model_type}'; set model.task to what the checkpoint is for"
        )
    if task.reads_tokens and type(getattr(config, "vocab_size", None)) is not int:
        raise EnvironmentMismatch(
            f"{files.name}: model type '{config.model_type}' has no one table of tokens "
            f"(vocab_size), so it is no plain encoder of texts; give one that is, such as the part "
            f"of this model that reads texts, saved by itself"
        )
    for model_class in model_classes(auto_class._model_mapping, config):
        name, reads = model_class.__name__, str(model_class.main_input_name)
        wanted = task.main_input
        if reads not in (wanted, *task.other_inputs):
            raise EnvironmentMismatch(
                f"{files.name}: {name} reads {_SENSES.get(reads, reads)}, and {task.name} gives it "
                f"{_SENSES[wanted]}; set model.task to what the checkpoint is for, or give another "
                f"checkpoint"
            )


def load_weights(
    files: CheckpointFiles, auto_class: AutoClass, config: PreTrainedConfig
) -> tuple[PreTrainedModel, Fit]:
    """Return the model, and how it fits the weights."""
    wrappers = _without_wrappers(files)
    with (
        foreign(
            f"{files.name}: the weights do not fit config.json",
            "take config.json and weights from the same save",
        ),
        # Its table of keys would stand beside an error that says the same; all of it is checked.
        quiet_libraries(),
    ):
        module, info = auto_class.from_pretrained(
            files.directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by name afterwards
            key_mapping=wrappers,
        )
        if wrappers is not None:  # transformers would put them back where the model is saved
            used = module._weight_conversions
            module._weight_conversions = [item for item in used if item.target_patterns != [""]]
        _fill_second_biases(module, info["missing_keys"])
        _say_what_is_tied(module)
    return module, fit_of_loaded(files, module, info)


def _fill_second_biases(module: PreTrainedModel, missing: set[str]) -> None:
    """Give heads that are not tied the bias that transformers 4 saved once for both its names.

    What was filled is taken out of `missing`. transformers 5 leaves zeros there.
    """
    pairs = module._tied_weights_keys
    for name in sorted(missing & pairs.keys() if isinstance(pairs, dict) else ()):
        bias, source = module.get_parameter(name), pairs[name]
        if bias.dim() == 1 and source not in missing:
            with torch.no_grad():
                bias.copy_(module.get_parameter(source))
            missing.discard(name)


def _say_what_is_tied(module: PreTrainedModel) -> None:
    """Let the configuration say that weights are apart which it ties and the files hold as two.

    transformers keeps them apart then, and another model that is made from that configuration does
    not: it would have one of the two in both places.
    """
    named = module.get_expanded_tied_weights_keys(all_submodels=True)
    apart = named.keys() - module.all_tied_weights_keys.keys()
    if all(module.get_parameter(name).dim() == 1 for name in apart):
        return  # of two biases one is used, and that is what both become
    module.config.tie_word_embeddings = False
    for name in named.keys() - apart:  # the setting is one for all of them
        holder, _, own = name.rpartition(".")
        weight = module.get_parameter(name)
        copied = torch.nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        module.get_submodule(holder).register_parameter(own, copied)
    module.all_tied_weights_keys = {}


def _without_wrappers(files: CheckpointFiles) -> dict[str, str] | None:
    """Return what transformers leaves out of keys that name wrappers; None where none does.

    It replaces a pattern once in each key, so the pattern of a wrapper within another one of its
    kind is written differently.
    """
    if not any(wrapper in item.key for item in files.tensors.values() for wrapper in WRAPPERS):
        return None
    escaped = [re.escape(wrapper) for wrapper in WRAPPERS]
    return {form.format(text): "" for text in escaped for form in ("{}", "(?:{})", "(?:(?:{}))")}


def load_pruned(
    files: CheckpointFiles, shape_file: Path, auto_class: AutoClass, config: PreTrainedConfig
) -> PreTrainedModel:
    """Return the model of the shape that `shape_file` describes, as this package saves it."""
    shape = read_shape(shape_file)
    module = auto_class.from_config(copy.deepcopy(config), dtype=torch.float32)
    make_linear(module)
    structure.apply_shape(module, shape)
    fit = fit_of_state(files, module)
    require_fit(files, module, fit, reads_head=True, described_by="structure.json")
    state: dict[str, torch.Tensor] = {}
    for path in files.weights:
        state.update(load_file(path))
    module.load_state_dict(state, strict=False)  # what is missing is what another name has
    return module


def read_shape(shape_file: Path) -> structure.EncoderShape:
    """Return the shape that pruning left; raises `EnvironmentMismatch` for a damaged file."""
    try:
        return structure.EncoderShape.from_dict(json.loads(shape_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentMismatch(f"{shape_file}: not a readable shape ({error})") from error
