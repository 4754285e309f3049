"""Image features: one image in, one vector out.

Labels are not needed. How good a compressed encoder is, is how near its vectors are to the
untouched checkpoint's, and whether each image keeps its nearest other image, which is what search
by image, deduplication and classification by neighbours read off vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.errors import RecipeError
from compressor.measurements import Score
from compressor.tasks.base import Guess, Truth
from compressor.tasks.columns import Columns, UnlabelledImageColumns
from compressor.tasks.examples import Example, image_of
from compressor.tasks.feature_vector import FeatureVector
from compressor.tasks.features import NEIGHBOUR_AGREEMENT, FeatureTask, same
from compressor.tasks.head import ConfigFile
from compressor.tasks.image_task import PIXELS_CODE, PIXELS_WORDS, ImageTask
from compressor.tasks.image_texts import KEY as TEXTS_KEY
from compressor.tasks.image_texts import ImageTexts
from compressor.tasks.image_vectors import (
    KEY,
    OF_TEXTS,
    is_pair,
    read_vector,
    reads_images,
    tower_of,
)
from compressor.tasks.metrics import Metric, UsualDrop
from compressor.tasks.pixels import thumbnails
from compressor.tasks.pooling import read_config
from compressor.tasks.report_words import ReportWords
from compressor.tasks.vectors import (
    BYTES_CODE,
    SIMILARITIES_CODE,
    VECTORS,
    cosine_metrics,
    guess_of,
)

IMAGE_COSINE, IMAGE_COSINE_P5 = cosine_metrics("image_cosine", "image")
ZERO_SHOT_AGREEMENT = Metric(
    "zero_shot_agreement",
    "zero-shot agreement",
    "the share of images whose nearest text of model.zero_shot, by the untouched checkpoint's "
    "encoder of texts, is the one that is nearest to the untouched checkpoint's vector",
    "mean",
    label_free=True,
    unit="image",
    units="images",
    usual_drop=UsualDrop(0.002, 0.02, 0.06),
    most_pruned_drop=0.05,
)
_CODE = f"""\
{PIXELS_CODE}\
[vectors] = session.run(["image_embeds"], {{{{node.name: pixels}}}})
{SIMILARITIES_CODE}"""

_BYTES_CODE = f"""\
{PIXELS_CODE}\
[codes] = session.run(["image_embeds"], {{{{node.name: pixels}}}})
{BYTES_CODE}"""


@dataclass(frozen=True)
class ImageFeatures(FeatureTask, ImageTask):
    """Vectors of an encoder of images, or of that in a pair with one of texts.

    `zero_shot` are texts to see images beside.
    """

    zero_shot: ImageTexts | None = None

    name: ClassVar[str] = "image-features"
    other_heads: ClassVar[tuple[str, ...]] = ("VisionModelWithProjection",)
    noun: ClassVar[str] = "image"
    key: ClassVar[str] = KEY
    cosine_of: ClassVar[tuple[Metric, Metric]] = (IMAGE_COSINE, IMAGE_COSINE_P5)
    only_compares: ClassVar[str] = "where images are light and dark"
    output: ClassVar[str] = "image_embeds"  # as transformers' CLIPVisionModelWithProjection
    metrics: ClassVar[tuple[Metric, ...]] = (
        IMAGE_COSINE,
        IMAGE_COSINE_P5,
        NEIGHBOUR_AGREEMENT,
        ZERO_SHOT_AGREEMENT,
    )
    words: ClassVar[ReportWords] = ReportWords(
        code=_CODE,
        inputs=PIXELS_WORDS,
        packages="pillow",
        code_of_bytes=_BYTES_CODE,
        hub_task="image-feature-extraction",
        row="image",
        predictions_title="Nearest images",
        predictions_shown="search images whose nearest other search image the original finds "
        "nearest",
        score="cosine similarity",
        flips_title="Images with another nearest neighbour",
        another="another nearest image",
        changed=(
            "image",
            "has another nearest neighbour among the other images",
            "have another nearest neighbour among the other images",
        ),
        flips_order="Those come first whose vector moved most: 1 minus its cosine similarity.",
        flips_header=" nearest image",
        flips_sure="and its cosine similarity",
        flips_moved=True,
    )

    @classmethod
    def is_for(cls, config: ConfigFile) -> bool:
        """Return whether config.json is of an encoder of images."""
        return reads_images(config)

    @classmethod
    def part_of(cls, config: ConfigFile) -> ConfigFile:
        """Return what config.json says of the encoder of images, which may be one of a pair."""
        return tower_of(config)

    @classmethod
    def is_of_another_part(cls, key: str) -> bool:
        """Return whether a key of the weights is of the encoder of texts in a pair."""
        return OF_TEXTS.match(key) is not None

    def loaded_part(self, config: Any) -> Any:
        """Return the configuration of the encoder of images, which may be one of a pair."""
        tower = getattr(config, "vision_config", None)
        if tower is None:
            return config
        if hasattr(config, "projection_dim"):  # what a pair projects to is said of the pair
            tower.projection_dim = config.projection_dim
        return tower

    def fitted_to(self, directory: Path) -> Self:
        """Return the same task; raises `RecipeError` for texts that the checkpoint cannot read."""
        if self.zero_shot is not None and not is_pair(read_config(directory)):
            raise RecipeError(
                f"{TEXTS_KEY}: {directory} is an encoder of images alone, which reads no texts; "
                f"give the whole pair as model.checkpoint, or remove it"
            )
        return self

    def texts_beside(self) -> Sequence[str]:
        """Return the texts that images are compared with."""
        texts = () if self.zero_shot is None else self.zero_shot.texts
        return [text for own in texts for text in own]

    def with_text_vectors(self, vectors: NDArray[np.float32]) -> Self:
        """Return the task with the vectors of its texts."""
        assert self.zero_shot is not None, "there were texts"
        return replace(self, zero_shot=self.zero_shot.with_vectors(vectors))

    def facts(self) -> dict[str, Any]:
        """Return the settings; of texts a digest of their vectors too, and nothing without them."""
        names = (item.name for item in fields(self))
        found = {name: getattr(self, name) for name in names if name != "zero_shot"}
        return found if self.zero_shot is None else {**found, "zero_shot": self.zero_shot.facts()}

    def auto_class(self, directory: Path) -> Any:
        """Return what makes vectors around a plain encoder, as checkpoint or recipe say."""
        from compressor.tasks.image_encoder import AutoImageEncoder

        return AutoImageEncoder(self.vector(directory))

    def vector(self, directory: Path) -> FeatureVector:
        """Return how vectors are made, by the files in `directory`, else by the recipe."""
        return read_vector(directory, mode=self.pooling, normalize=self.normalize)

    def vector_width(self, config: Any) -> int:
        """Return how many numbers a vector has."""
        from compressor.tasks.image_encoder import feature_width

        return feature_width(config)

    def saved_module(self, module: Any) -> Any:
        """Return the plain encoder, or the whole where transformers has a class that projects."""
        from compressor.tasks.image_encoder import vector_of

        return module if vector_of(module).mode == "projection" else module.base_model

    def columns(self, metric: str) -> Columns:  # noqa: ARG002 - whatever is scored
        """Return images alone."""
        return UnlabelledImageColumns()

    def outlines(self, examples: Sequence[Example]) -> NDArray[np.float32]:
        """Return small grey copies."""
        return thumbnails(image for item in examples if (image := image_of(item)) is not None)

    def other_score(
        self, metric: str, before: NDArray[np.float32], after: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float]:
        """Return `zero_shot_agreement`: the share of images whose nearest text is the one before.

        Raises `KeyError` for another metric.
        """
        if metric != ZERO_SHOT_AGREEMENT.name:
            raise KeyError(metric)
        assert self.zero_shot is not None, "unscorable was asked"
        shares = same(self.zero_shot.nearest(before), self.zero_shot.nearest(after))
        return shares, ZERO_SHOT_AGREEMENT.value_of(shares)

    def unscorable(self, metric: str, truth: Truth) -> str | None:
        """Return that there are too few different images, or no texts to compare them with."""
        if metric == ZERO_SHOT_AGREEMENT.name and self.zero_shot is None:
            return (
                f"{metric} compares images with texts; list them as model.zero_shot, or take "
                f"{NEIGHBOUR_AGREEMENT.name}"
            )
        return super().unscorable(metric, truth)

    def guesses(self, baseline: Score, truth: Truth, labels: Sequence[str]) -> tuple[Guess, ...]:
        """Return what vectors score that know nothing of what is in an image.

        For `zero_shot_agreement` the text that is nearest to most.
        """
        if baseline.metric != ZERO_SHOT_AGREEMENT.name:
            return super().guesses(baseline, truth, labels)
        assert self.zero_shot is not None, "unscorable was asked"
        found = self.zero_shot.nearest(baseline.kept[VECTORS])
        alike = np.full_like(found, np.bincount(found).argmax())
        who = "a model that finds the same text for every image"
        return (guess_of(who, baseline, same(found, alike)),)
