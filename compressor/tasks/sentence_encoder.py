"""An encoder without a head that gives one vector for each text.

transformers has a class for every encoder with a classification head, none for pooled vectors, so
one is made of the plain encoder's class. It stands where a classifier stands: the encoder is its
`base_model` under the usual prefix, so that pruning, loading, rebuilding and export see nothing
new. What is saved is the plain encoder, which every other tool knows, with the files of
`compressor.tasks.pooling` beside it. The encoder's own pooler, a layer that sentence vectors are
not taken from, is left out.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers.utils.generic import ModelOutput

from compressor.errors import EnvironmentMismatch
from compressor.tasks.pooling import Pooling

_SETTINGS = "sentence_embedding"  # the key of the configuration that holds the pooling


@dataclass
class EmbeddingOutput(ModelOutput):
    """What a sentence encoder gives: vectors of shape `(batch, width)`, and its inside."""

    sentence_embedding: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each text, shape `(batch, width)`, whatever it is padded with.

    `states` has shape `(batch, tokens, width)`; `mask`, shape `(batch, tokens)`, is 0 at padding,
    of which no row is full. Ref: Reimers & Gurevych 2019, arXiv:1908.10084, section 3.
    """
    if pooling.mode == "cls":
        vectors = states[:, 0]
    else:
        kept = mask.unsqueeze(-1).to(states.dtype)  # (batch, tokens, 1)
        vectors = (states * kept).sum(dim=1) / kept.sum(dim=1)
    return functional.normalize(vectors, dim=-1) if pooling.normalize else vectors


def pooling_of(module: Any) -> Pooling:
    """Return how a sentence encoder makes its vectors."""
    return Pooling(**getattr(module.config, _SETTINGS))


def _initialise(self: Any, config: Any, base: type[Any]) -> None:
    transformers.PreTrainedModel.__init__(self, config)
    has_pooler = "add_pooling_layer" in inspect.signature(base.__init__).parameters
    encoder = base(config, add_pooling_layer=False) if has_pooler else base(config)
    setattr(self, self.base_model_prefix, encoder)
    self.post_init()


def _forward(
    self: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    **wanted: Any,
) -> EmbeddingOutput:
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    # Not every encoder knows segments.
    segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    inside = self.base_model(input_ids, attention_mask=attention_mask, **segments, **wanted)
    return EmbeddingOutput(
        sentence_embedding=pool(inside.last_hidden_state, attention_mask, pooling_of(self)),
        hidden_states=inside.hidden_states,
        attentions=inside.attentions,
    )


_CLASSES: dict[type[Any], type[Any]] = {}


def _class_around(base: type[Any]) -> type[Any]:
    """Return the class of a sentence encoder around the plain encoder's class, made once."""
    if base in _CLASSES:
        return _CLASSES[base]

    def __init__(self: Any, config: Any) -> None:  # noqa: N807 - it becomes the method
        _initialise(self, config, base)

    name = base.__name__.removesuffix("Model") + "ForSentenceEmbedding"
    members = {"__init__": __init__, "forward": _forward}
    return _CLASSES.setdefault(base, type(name, base.__bases__[:1], members))


@dataclass(frozen=True)
class AutoSentenceEncoder:
    """Chooses the class by the configuration, as transformers' auto classes do."""

    pooling: Pooling

    @property
    def _model_mapping(self) -> Any:
        return transformers.AutoModel._model_mapping

    def from_pretrained(self, directory: Any, *, config: Any = None, **options: Any) -> Any:
        """Load the weights, those of a plain encoder or of one with a head."""
        config = config or transformers.AutoConfig.from_pretrained(
            directory, trust_remote_code=False
        )
        return self._class_of(config).from_pretrained(directory, config=config, **options)

    def from_config(self, config: Any, *, dtype: torch.dtype) -> Any:
        """Return an encoder with random weights."""
        return self._class_of(config)._from_config(config, dtype=dtype)

    def _class_of(self, config: Any) -> type[Any]:
        base: type[Any] = self._model_mapping[type(config)]
        is_text = getattr(base, "main_input_name", None) == "input_ids"
        if not is_text or getattr(config, "is_encoder_decoder", False):
            raise EnvironmentMismatch(
                f"{base.__name__} is no encoder of texts, so it gives no sentence embedding; use a "
                f"text encoder, or set model.task to what the checkpoint is for"
            )
        setattr(config, _SETTINGS, self.pooling.to_dict())
        return _class_around(base)
