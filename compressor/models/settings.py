"""The recipe's `model`: which checkpoint, and what it is for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
)

from compressor.paths import HubName
from compressor.setting_errors import did_you_mean
from compressor.tasks import ImageTexts, task_names
from compressor.tasks.pooling import PoolingMode


def _known_task(name: str) -> str:
    if name not in task_names():
        raise ValueError(f"unknown task '{name}'{did_you_mean(name, task_names())}")
    return name


_Label = Annotated[str, StringConstraints(min_length=1)]
_Threshold = Annotated[float, Field(strict=True, gt=0, lt=1)]


class ModelSettings(BaseModel):
    """The recipe's `model`: the checkpoint to compress."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: HubName = Field(
        description="directory relative to the recipe, Hub id such as org/name, "
        "builtin:all-minilm-l6-v2, a sentence encoder that the extra `demo` installs, or "
        "builtin:digits-vit, which the package trains itself"
    )
    revision: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        default=None, description="branch, tag or commit of a Hub id; left out, its main branch"
    )
    base: HubName | None = Field(
        default=None,
        # Left out it is no part of what artifacts and stored steps say of a recipe.
        exclude_if=lambda value: value is None,
        description="for an adapter (PEFT), the model that it was trained on, into which it is "
        "merged: a directory relative to the recipe, or a Hub id; left out, what its "
        "adapter_config.json names",
    )
    task: Annotated[str, AfterValidator(_known_task)] | None = Field(
        default=None,
        description="what the checkpoint is for; left out, inferred from its architecture and "
        "labels",
    )
    pooling: PoolingMode | None = Field(
        default=None,
        description="for sentence-embedding, what a vector is: the mean of the states of all "
        "tokens, that of the first (cls) or last token (lasttoken), the largest of each number "
        "(max), the sum by the square root of the number of tokens (mean_sqrt_len_tokens), or the "
        "mean where later tokens weigh more (weightedmean); left out, what the checkpoint's files "
        "say, else mean",
    )
    normalize: bool | None = Field(
        default=None,
        description="for sentence-embedding, whether every vector is scaled to length 1; left "
        "out, what the checkpoint's files say, else false",
    )
    thresholds: (
        _Threshold
        | Literal["chosen"]
        | Annotated[dict[_Label, _Threshold], Field(min_length=1)]
        | None
    ) = Field(
        default=None,
        # Left out it is no part of what artifacts and stored steps say of a recipe.
        exclude_if=lambda value: value is None,
        description="for multi-label-classification, from which probability on a label is "
        "predicted, the same before and after: one number, a number for each label by its name "
        "(others keep 0.5), or chosen, which takes for each label the one with the highest F1 of "
        "the untouched checkpoint on data.search; left out, 0.5",
    )

    zero_shot: (
        Annotated[list[_Label], Field(min_length=2)]
        | Annotated[
            dict[_Label, _Label | Annotated[list[_Label], Field(min_length=1)]],
            Field(min_length=2),
        ]
        | None
    ) = Field(
        default=None,
        # Left out it is no part of what artifacts and stored steps say of a recipe.
        exclude_if=lambda value: value is None,
        description="for image-features of a pair with an encoder of texts, such as CLIP, the "
        "texts among which the nearest to each image is looked for, by the untouched checkpoint's "
        "encoder of texts: a list, or one or several for each name; the metric "
        "zero_shot_agreement counts the images that keep theirs",
    )

    @field_validator("zero_shot", mode="after")
    @classmethod
    def _texts_differ(cls, given: Any) -> Any:
        if isinstance(given, list) and len(set(given)) < len(given):
            raise ValueError("every text must be there once; remove those that are repeated")
        return given

    @property
    def image_texts(self) -> ImageTexts | None:
        """Return the texts of `zero_shot`."""
        given = self.zero_shot
        if isinstance(given, dict):
            given = {name: [own] if isinstance(own, str) else own for name, own in given.items()}
        return None if given is None else ImageTexts.of(given)

    @property
    def task_options(self) -> dict[str, Any]:
        """Return what `load_task` takes besides the name and the length."""
        return {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "thresholds": self.thresholds,
            "zero_shot": self.image_texts,
        }
