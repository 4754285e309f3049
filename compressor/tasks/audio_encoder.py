"""An encoder without a head that gives one vector for each sound.

A class is made around transformers' own, as for encoders of images: the encoder is its `base_model`
under the usual prefix, so that pruning, loading, rebuilding and export see nothing new. What is
saved is the plain encoder. Of Whisper, which transformers has with its decoder alone, it is one of
the names that the whole model has, and `WhisperModel` loads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from torch import Tensor
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel
from transformers.utils.generic import ModelOutput

from compressor.tasks.audio_vectors import KEY
from compressor.tasks.feature_encoder import AutoFeatureEncoder, finished, kept_width, vector_of

_SPECTROGRAM = "input_features"


@dataclass
class AudioFeaturesOutput(ModelOutput):
    """What an encoder of sound gives: vectors of shape `(batch, width)`, and its inside."""

    audio_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class WhisperEncoderModel(WhisperPreTrainedModel):
    """Whisper without its decoder, under the names that `WhisperModel` gives the encoder."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        transformers.PreTrainedModel.post_init(self)

    def forward(self, input_features: Tensor, **wanted: Any) -> Any:
        """Return what the encoder gives for spectrograms, shape `(batch, bins, frames)`."""
        return self.encoder(input_features, **wanted)


def audio_width(config: Any) -> int:
    """Return how many numbers the vectors of an encoder of sound have, by its configuration."""
    return kept_width(config, KEY, int(config.hidden_size))


def mean_of_frames(encoder: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the frames of each sound, shape `(batch, width)`.

    `mask`, shape `(batch, samples)`, says which samples are a sound's own; None: all are.
    """
    if mask is None:
        return states.mean(dim=1)
    own = encoder._get_feature_vector_attention_mask(states.shape[1], mask)  # (batch, frames)
    weights = own.unsqueeze(-1).to(states.dtype)
    mean: Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1)
    return mean


def _vectors(
    self: Any, inputs: Tensor, mask: Tensor | None, wanted: dict[str, Any]
) -> AudioFeaturesOutput:
    encoder = self.base_model
    masked = {} if mask is None else {"attention_mask": mask}
    inside = encoder(**{self.main_input_name: inputs}, **masked, **wanted)
    vector = vector_of(self.config, KEY)
    states = inside.last_hidden_state
    if vector.mode == "cls":
        found = states[:, 0]
    elif vector.mode == "patch_mean":
        found = states[:, vector.first_patch :].mean(dim=1)
    elif vector.mode == "frame_mean":
        found = mean_of_frames(encoder, states, mask)
    else:
        found = inside.pooler_output
    return AudioFeaturesOutput(
        audio_embeds=finished(found, vector),
        hidden_states=inside.hidden_states,
        attentions=inside.attentions,
    )


def _of_samples(
    self: Any, input_values: Tensor, attention_mask: Tensor | None = None, **wanted: Any
) -> AudioFeaturesOutput:
    return _vectors(self, input_values, attention_mask, wanted)


def _of_features(self: Any, input_features: Tensor, **wanted: Any) -> AudioFeaturesOutput:
    return _vectors(self, input_features, None, wanted)


_CLASSES: dict[type[Any], type[Any]] = {}


def _class_around(base: type[Any]) -> type[Any]:
    """Return the class of an encoder of sound around the plain encoder's class, made once."""
    if base in _CLASSES:
        return _CLASSES[base]

    def __init__(self: Any, config: Any) -> None:  # noqa: N807 - it becomes the method
        transformers.PreTrainedModel.__init__(self, config)
        setattr(self, self.base_model_prefix, base(config))
        self.post_init()

    reads = base.main_input_name
    members = {
        "__init__": __init__,
        "forward": _of_features if reads == _SPECTROGRAM else _of_samples,
        "base_model_prefix": base.base_model_prefix,
        "main_input_name": reads,
        "config_class": base.config_class,
        "made_by": (_class_around, base),  # another process makes the same class by it
    }
    stem = base.__name__.removesuffix("Model")
    made = type(f"{stem}ForAudioFeatures", base.__bases__[:1], members)
    return _CLASSES.setdefault(base, made)


class AutoAudioEncoder(AutoFeatureEncoder):
    """Makes vectors around encoders of sound."""

    key = KEY

    def around(self, base: type[Any]) -> type[Any]:
        """Return the class around a plain encoder's; of Whisper that is without its decoder."""
        is_whisper = issubclass(base, WhisperPreTrainedModel)
        return _class_around(WhisperEncoderModel if is_whisper else base)
