"""An encoder without a head that gives one vector for each image.

A class is made around transformers' own, as for sentence encoders: the encoder is its `base_model`
under the usual prefix, so that pruning, loading, rebuilding and export see nothing new. What is
saved is the plain encoder or, where vectors are projected, what transformers calls
`CLIPVisionModelWithProjection`, so that every other tool loads it.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from compressor.errors import EnvironmentMismatch
from compressor.tasks.feature_encoder import AutoFeatureEncoder, finished, kept_width
from compressor.tasks.feature_encoder import vector_of as stored_vector
from compressor.tasks.feature_vector import FeatureVector
from compressor.tasks.image_vectors import KEY

_PROJECTION = "visual_projection"  # the attribute that holds the projection, as in CLIP


@dataclass
class ImageFeaturesOutput(ModelOutput):
    """What an image encoder gives: vectors of shape `(batch, width)`, and its inside."""

    image_embeds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def vector_of(module: Any) -> FeatureVector:
    """Return how an image encoder makes its vectors."""
    return stored_vector(module.config, KEY)


def feature_width(config: Any) -> int:
    """Return how many numbers the vectors of an image encoder have, by its configuration."""
    is_projected = stored_vector(config, KEY).mode == "projection"
    return kept_width(config, KEY, config.projection_dim if is_projected else config.hidden_size)


def _initialise(self: Any, config: Any, base: type[Any]) -> None:
    transformers.PreTrainedModel.__init__(self, config)
    vector = vector_of(self)
    has_pooler = "add_pooling_layer" in inspect.signature(base.__init__).parameters
    options = {"add_pooling_layer": vector.mode == "pooler"} if has_pooler else {}
    setattr(self, self.base_model_prefix, base(config, **options))
    if vector.mode == "projection":
        projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        setattr(self, _PROJECTION, projection)
    self.post_init()


def _forward(self: Any, pixel_values: Tensor, **wanted: Any) -> ImageFeaturesOutput:
    inside = self.base_model(pixel_values=pixel_values, **wanted)
    vector = vector_of(self)
    if vector.mode == "cls":
        found = inside.last_hidden_state[:, 0]
    elif vector.mode == "patch_mean":
        found = inside.last_hidden_state[:, vector.first_patch :].mean(dim=1)
    else:
        found = inside.pooler_output
    if vector.mode == "projection":
        found = getattr(self, _PROJECTION)(found)
    return ImageFeaturesOutput(
        image_embeds=finished(found, vector),
        hidden_states=inside.hidden_states,
        attentions=inside.attentions,
    )


_CLASSES: dict[tuple[type[Any], bool], type[Any]] = {}


def _class_around(base: type[Any], *, projects: bool) -> type[Any]:
    """Return the class of an image encoder around the plain encoder's class, made once."""
    if (base, projects) in _CLASSES:
        return _CLASSES[base, projects]

    def __init__(self: Any, config: Any) -> None:  # noqa: N807 - it becomes the method
        _initialise(self, config, base)

    stem = base.__name__.removesuffix("Model")
    members = {
        "__init__": __init__,
        "forward": _forward,
        "base_model_prefix": _prefix(base),
        "main_input_name": "pixel_values",
        "config_class": base.config_class,
        # Another process makes the same class by it.
        "made_by": (partial(_class_around, projects=projects), base),
    }
    # What is saved names its class, and transformers has one that projects.
    name = f"{stem}ModelWithProjection" if projects else f"{stem}ForImageFeatures"
    made = type(name, base.__bases__[:1], members)
    return _CLASSES.setdefault((base, projects), made)


def _prefix(base: type[Any]) -> str:
    """Return the name under which classes with a head hold the encoder.

    The towers of pairs of encoders say that of the pair, and are held as `vision_model` in it.
    DINOv3 holds its layers under the name that it says, which would then stand for both.
    """
    is_tower = base.config_class.base_config_key == "vision_config"
    name = str(base.base_model_prefix)
    return "vision_model" if is_tower or name == "model" else name


class AutoImageEncoder(AutoFeatureEncoder):
    """Makes vectors around encoders of images."""

    key = KEY

    def from_pretrained(self, directory: Any, *, config: Any, **options: Any) -> Any:
        """Load the weights, those of a plain encoder, of one with a head or of a pair.

        Raises `EnvironmentMismatch` where the encoder's own pooler is to be read and is not there.
        """
        found = super().from_pretrained(directory, config=config, **options)
        if self.vector.mode == "pooler" and isinstance(found, tuple):
            missing = sorted(key for key in found[1]["missing_keys"] if ".pooler." in key)
            if missing:
                raise EnvironmentMismatch(
                    f"{Path(directory)}: the weights lack {', '.join(missing)}, which vectors are "
                    f"made with; set model.pooling to cls or mean, or give a checkpoint that has "
                    f"them"
                )
        return found

    def around(self, base: type[Any]) -> type[Any]:
        """Return the class around a plain encoder's, with a projection where one is read."""
        return _class_around(base, projects=self.vector.mode == "projection")
