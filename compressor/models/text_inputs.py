"""Makes what a tokenizer gives fit what its model takes, or refuses both when they are loaded.

A tokenizer and a model are two files that may come from different hands: one gives inputs that the
other has no name or no row for, leaves out the mask without which padding is read as text, or pads
with an id that the model does not take for padding. Each of these passes on one text and is wrong
on a batch.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint_files import CheckpointFiles
from compressor.models.guard import foreign
from compressor.models.text_files import (
    TOKENIZER_CONFIG,
    keep_settings_apart,
    no_pad_token,
    positions_limit,
    require_vocabulary,
    tokenizer_limit,
)
from compressor.tasks import NO_LIMIT
from compressor.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# How transformers calls the table of learned positions.
_POSITIONS = {"position_embeddings", "position_embedding", "embed_positions", "wpe"}


@dataclass(frozen=True)
class Positions:
    """A model's table of learned positions.

    `after_padding` is the id of the padding where positions are counted from it on, as in RoBERTa
    and its descendants: real tokens begin one row behind it. None: from the first row on.
    """

    rows: int
    offset: int = 0  # rows in front that no token has
    after_padding: int | None = None

    @property
    def limit(self) -> int:
        """Return how many tokens have a row."""
        first = self.offset if self.after_padding is None else self.after_padding + 1
        return self.rows - first


def positions_of(module: nn.Module) -> Positions | None:
    """Return the table of learned positions of a model; None where it has none."""
    for name, child in module.named_modules():
        weight = getattr(child, "weight", None)
        if name.rpartition(".")[2] not in _POSITIONS or weight is None or weight.dim() != 2:
            continue
        padding, offset = getattr(child, "padding_idx", None), getattr(child, "offset", 0)
        return Positions(len(weight), offset if type(offset) is int else 0, padding)
    return None


def blueprint(
    files: CheckpointFiles, model_class: type[PreTrainedModel], config: PreTrainedConfig
) -> PreTrainedModel:
    """Return a model without weights, which costs no memory, from its class and configuration.

    Raises `EnvironmentMismatch` when there can be none.
    """
    name = model_class.__name__
    with (
        foreign(
            f"{files.directory / 'config.json'}: transformers can build no {name} from it",
            "take config.json from the save that the weights are from",
        ),
        torch.device("meta"),
        torch.random.fork_rng(devices=[]),
    ):
        made: PreTrainedModel = model_class._from_config(copy.deepcopy(config))
    return made


def fit_tokenizer(
    files: CheckpointFiles, tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel
) -> None:
    """Limit a tokenizer to the tokens and inputs that a model takes, in place.

    `module` is the model that reads the inputs, with or without weights. Raises
    `EnvironmentMismatch` when both cannot fit.
    """
    config = module.config
    _check_vocabulary(files, tokenizer, config)
    _check_padding(files, tokenizer)
    _limit_length(files, tokenizer, config, positions_of(module))
    _name_inputs(files, tokenizer, module)
    keep_settings_apart(tokenizer)


def _check_vocabulary(
    files: CheckpointFiles, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> None:
    require_vocabulary(files, max(tokenizer.get_vocab().values(), default=-1), config.vocab_size)


def _check_padding(files: CheckpointFiles, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token_id is None:
        raise no_pad_token(files)


def _limit_length(
    files: CheckpointFiles,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    positions: Positions | None,
) -> None:
    """Set the smaller limit of tokenizer and model, and refuse one that holds no text."""
    place = files.directory / TOKENIZER_CONFIG
    special = int(tokenizer.num_special_tokens_to_add(pair=False))
    limits = [
        tokenizer_limit(place, tokenizer.model_max_length, least=special + 1),
        positions_limit(
            files.directory / "config.json", getattr(config, "max_position_embeddings", None)
        ),
        None if positions is None else positions.limit,
    ]
    limit = min((found for found in limits if found is not None), default=None)
    if limit is not None and limit <= special:
        raise EnvironmentMismatch(
            f"{files.directory / 'config.json'}: the model has positions for "
            f"{counted(limit, 'token')}, and {special} special ones stand around a text; it reads "
            f"none"
        )
    tokenizer.model_max_length = NO_LIMIT if limit is None else limit


def _name_inputs(
    files: CheckpointFiles, tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel
) -> None:
    """Let a tokenizer give what the model takes: the mask always, segments where it has rows."""
    taken = inspect.signature(module.forward).parameters
    if "attention_mask" not in taken:
        raise EnvironmentMismatch(
            f"{files.name}: {type(module).__name__} takes no attention mask, so a prediction "
            f"depends on how far a text is padded in its batch; use an architecture with a mask"
        )
    given = {*tokenizer.model_input_names, "input_ids", "attention_mask"}
    tokenizer.model_input_names = [name for name in _INPUTS if name in given and name in taken]
    if "token_type_ids" not in tokenizer.model_input_names:
        return
    rows = getattr(module.config, "type_vocab_size", None)
    if type(rows) is not int or rows < 1:
        return  # segments are not looked up in a table
    largest = max(max(tokenizer(*probe)["token_type_ids"]) for probe in (("a",), ("a", "a")))
    if largest < rows:
        return
    if rows > 1:
        raise EnvironmentMismatch(
            f"{files.name}: the tokenizer gives token type {largest}, and the model has a table of "
            f"{rows} (type_vocab_size); the tokenizer belongs to another checkpoint"
        )
    # With one row there is one type, which a model takes where it is given none.
    tokenizer.model_input_names = [name for name in _INPUTS[::2] if name in taken]
