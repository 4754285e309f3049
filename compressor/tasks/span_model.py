"""A model for question answering whose two outputs are one array.

The classes of transformers give the logits of starts and of ends apart. A class is made of each
that stacks them and changes nothing else: name, weights and configuration are those of the
original, so that what is saved is the checkpoint that every other tool knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.utils.generic import ModelOutput

from compressor.errors import EnvironmentMismatch


@dataclass
class SpanOutput(ModelOutput):
    """Logits of shape `(batch, tokens, 2)`, starts and ends, and the inside of the model."""

    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


_CLASSES: dict[type[Any], type[Any]] = {}


def _class_around(base: type[Any]) -> type[Any]:
    """Return the class that stacks what `base` gives, made once."""
    if base in _CLASSES:
        return _CLASSES[base]

    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **wanted: Any,
    ) -> SpanOutput:
        # Not every encoder knows segments.
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = base.forward(
            self, input_ids=input_ids, attention_mask=attention_mask, **segments, **wanted
        )
        return SpanOutput(
            logits=torch.stack([found.start_logits, found.end_logits], dim=-1),
            hidden_states=found.hidden_states,
            attentions=found.attentions,
        )

    # Another process makes the same class by `made_by`.
    members = {"forward": forward, "made_by": (_class_around, base)}
    return _CLASSES.setdefault(base, type(base.__name__, (base,), members))


class AutoSpanModel:
    """Chooses the class by the configuration, as transformers' auto classes do."""

    @property
    def _model_mapping(self) -> Any:
        return transformers.AutoModelForQuestionAnswering._model_mapping

    def from_pretrained(self, directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Load the weights of a checkpoint."""
        config = config or transformers.AutoConfig.from_pretrained(
            directory, trust_remote_code=False
        )
        return self._class_of(config).from_pretrained(directory, config=config, **options)

    def from_config(self, config: Any, *, dtype: torch.dtype) -> Any:
        """Return a model with random weights."""
        return self._class_of(config)._from_config(config, dtype=dtype)

    def _class_of(self, config: Any) -> type[Any]:
        base: type[Any] = self._model_mapping[type(config)]
        if getattr(config, "is_encoder_decoder", False):
            raise EnvironmentMismatch(
                f"{base.__name__} is an encoder with a decoder, and spans are read off encoders "
                f"alone; give a checkpoint such as BertForQuestionAnswering"
            )
        return _class_around(base)
