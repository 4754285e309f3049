"""More texts, or lists of words, for a teacher to predict: joined, with words changed or left out.

A teacher is so sure of the rows that it was trained on that its predictions there say little more
than a label. On texts that nobody wrote, two sentences of different opinion in one or a sentence
that lacks a word, it has to weigh, and how it does is what a student can learn. No label is needed;
where there are some, two joined texts of one class keep theirs.

Ref: hiding words: Tang et al. 2019, arXiv:1903.12136, section 3.2; mixing examples for
distillation: Liang et al. 2021, arXiv:2011.00593 (there embeddings, here texts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.tasks import Example, image_of
from compressor.tasks.examples import Words
from compressor.training.distill_settings import CHANGES, DistillSettings
from compressor.training.near_words import NearWords
from compressor.training.schedules import total_steps
from compressor.words import listing

Settings = TypeVar("Settings", bound=DistillSettings)

# Keeps these draws apart from the order of batches, which the seed and the number of an epoch give.
_STREAM = 0x74657874
_MOST_DRAWS = 10  # of each text; a longer training reads them again


def augmented(
    model: TorchModel, teacher: TorchModel, dataset: Dataset, settings: Settings, seed: int
) -> tuple[Dataset, Settings]:
    """Return changed texts of `dataset`, up to ten of each for as many epochs, and the settings.

    With the settings that come back, training on them takes as many steps as with `settings` on
    `dataset`. Both stay as they are where nothing is asked for.

    Raises what `check_augmentation` raises.
    """
    if not settings.augments:
        return dataset, settings
    mask = check_augmentation(model, teacher, dataset, settings)
    copies = min(math.ceil(settings.epochs), _MOST_DRAWS)
    near = NearWords.of(teacher, dataset.examples) if settings.replace_probability > 0 else None
    random = np.random.default_rng([seed, _STREAM])
    change = partial(_without_words, settings, mask, near, random)
    examples: list[Example] = []
    partners: list[int] = []
    for _ in range(copies):
        for row, example in enumerate(dataset.examples):
            other = int(random.integers(len(dataset)))
            joined = _joined(example, dataset.examples[other], settings, random)
            partners.append(row if joined is example else other)
            examples.append(_changed(joined, change))
    labels = None
    if dataset.labels is not None:
        rows = np.tile(np.arange(len(dataset)), copies)
        own, theirs = (dataset.labels[places] for places in (rows, np.array(partners)))
        labels = model.task.labels_of_changed(own, theirs)
    return (
        replace(
            dataset,
            examples=tuple(examples),
            labels=labels,
            rows=np.tile(dataset.rows, copies),
            groups=None,
            columns={name: values * copies for name, values in dataset.columns.items()},
        ),
        _of_as_many_steps(settings, len(dataset), copies),
    )


def check_augmentation(
    model: TorchModel, teacher: TorchModel, dataset: Dataset, settings: DistillSettings
) -> str:
    """Return the token that hides a word, empty where none is hidden.

    Raises `StepFailed` when `settings` ask for changes and the examples are no texts, when pairs
    are to be joined, and when student or teacher has no token to hide words with, or they have
    different ones. Also when the loss on labels needs those of changed texts and nobody can tell.
    """
    example = next(iter(dataset.examples), "")
    if settings.augments and not isinstance(example, str | tuple | Words):
        found = "neither" if image_of(example) is None else "images"
        raise StepFailed(
            f"{listing(CHANGES)} change texts and lists of words, and these examples are {found}; "
            f"leave them out"
        )
    if settings.join_probability > 0 and isinstance(example, tuple):
        raise StepFailed(
            "join_probability: only single texts can be joined, and these examples are pairs; set "
            "join_probability to 0"
        )
    if settings.augments and settings.label_weight > 0 and dataset.labels is not None:
        first = dataset.labels[:1]
        if model.task.labels_of_changed(first, first) is None:
            raise StepFailed(
                f"label_weight: {model.task.name} cannot tell the labels of changed texts; set it "
                f"to 0, or {listing(CHANGES)}"
            )
    return _mask_token(model, teacher) if settings.mask_probability > 0 else ""


def _of_as_many_steps(settings: Settings, num_examples: int, copies: int) -> Settings:
    steps = total_steps(num_examples, settings)
    # In batches of all copies together: an epoch of one of them may end with a smaller one.
    epoch = math.ceil(num_examples * copies / settings.batch_size)
    update: dict[str, float] = {"epochs": steps / epoch, "max_steps": steps}
    if settings.schedule in ("step", "exponential"):
        own = math.ceil(num_examples / settings.batch_size)
        update["decay_epochs"] = settings.decay_epochs * own / epoch
    return settings.model_copy(update=update)


def _mask_token(model: TorchModel, teacher: TorchModel) -> str:
    tokens = [getattr(each.preprocessor, "mask_token", None) for each in (model, teacher)]
    if tokens[0] is None or tokens[0] != tokens[1]:
        raise StepFailed(
            f"mask_probability: hiding words takes a mask token that student and teacher share, "
            f"the student's is {tokens[0]!r} and the teacher's {tokens[1]!r}; set mask_probability "
            f"to 0, drop_probability leaves words out instead"
        )
    return str(tokens[0])


def _joined(
    example: Example, other: Example, settings: DistillSettings, random: np.random.Generator
) -> Example:
    """Return `example`, or it and `other` in either order as one text or one list of words."""
    if random.random() >= settings.join_probability:
        return example
    first, second = (example, other) if random.random() < 0.5 else (other, example)
    if isinstance(first, Words) and isinstance(second, Words):
        return Words(first.words + second.words)
    return f"{first} {second}"


def _changed(example: Example, change: Callable[[Sequence[str]], list[str]]) -> Example:
    """Return the example with other words, as `change` makes them of those of each text."""
    if isinstance(example, str):
        return " ".join(change(example.split()))
    if isinstance(example, Words):
        return Words(tuple(change(example.words)))
    assert isinstance(example, tuple), "the examples are checked"
    first, second = (" ".join(change(text.split())) for text in example)
    return first, second


def _without_words(
    settings: DistillSettings,
    mask: str,
    near: NearWords | None,
    random: np.random.Generator,
    words: Sequence[str],
) -> list[str]:
    """Return the words without some, at least one staying, and some of the rest replaced."""
    kept = _drawn(words, 1 - settings.drop_probability, random) or list(words)
    if near is not None:
        kept = near.replaced(kept, settings.replace_probability, random)
    hidden = random.random(len(kept)) < settings.mask_probability
    return [mask if hide else word for word, hide in zip(kept, hidden, strict=True)]


def _drawn(words: Sequence[str], probability: float, random: np.random.Generator) -> list[str]:
    chosen = random.random(len(words)) < probability
    return [word for word, is_in in zip(words, chosen, strict=True) if is_in]
