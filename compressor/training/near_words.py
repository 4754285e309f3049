"""Words that lie near each other in a model's table of pieces, to put in each other's place.

A word is taken where its tokenizer has one piece for all of it, and is replaced by another word of
the same texts whose piece has a similar vector. Some of these mean the opposite ("good" lies near
"bad"), which does no harm where a teacher says what the changed text means.

Ref: Jiao et al. 2020, arXiv:1909.10351, section 3.2 and algorithm 1 (15 candidates of a word; there
from GloVe and a masked language model, here from the teacher's own table).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.tasks import Example
from compressor.tasks.examples import texts_of

NEAREST = 15
_MOST_WORDS = 20_000  # the most frequent ones; the others stay as they are
_AT_ONCE = 1024  # words that are compared with all others together
_BEFORE = "a"  # a word inside a text is split otherwise than one at its beginning


@dataclass(frozen=True)
class NearWords:
    """For each word the words that are nearest to it, the nearest first."""

    near: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, model: TorchModel, examples: Iterable[Example]) -> NearWords:
        """Return the nearest of the words of `examples`, by the cosine of the model's table.

        Raises `StepFailed` where fewer than two words are one piece each.
        """
        counts = Counter(
            word for example in examples for text in texts_of(example) for word in text.split()
        )
        words, ids = _single_pieces(model, [word for word, _ in counts.most_common(_MOST_WORDS)])
        if len(words) < 2:
            raise StepFailed(
                "replace_probability: fewer than two words of the texts are one piece of the "
                "teacher's tokenizer, so none has another near it; set it to 0"
            )
        table = model.module.get_input_embeddings()
        with torch.inference_mode():
            device = next(model.module.parameters()).device
            vectors = table(torch.tensor(ids, device=device)).float().cpu()
            vectors = torch.nn.functional.normalize(vectors, dim=1)
            near = {}
            count = min(NEAREST, len(words) - 1)
            for start in range(0, len(words), _AT_ONCE):
                cosines = vectors[start : start + _AT_ONCE] @ vectors.T
                own = torch.arange(len(cosines))
                cosines[own, start + own] = -2.0  # no word is near itself
                found = cosines.topk(count, dim=1).indices.tolist()
                for place, others in enumerate(found):
                    near[words[start + place]] = [words[other] for other in others]
        return cls(near)

    def replaced(
        self, words: Sequence[str], probability: float, random: np.random.Generator
    ) -> list[str]:
        """Return the words, each that has others near it with one of them in its place, by chance.

        `probability` is that of each word, whichever of its neighbours is drawn.
        """
        is_drawn = random.random(len(words)) < probability
        chosen = random.integers(0, NEAREST, len(words))
        return [
            near[int(place) % len(near)] if draw and (near := self.near.get(word)) else word
            for word, draw, place in zip(words, is_drawn, chosen, strict=True)
        ]


def _single_pieces(model: TorchModel, words: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the words that are one piece each, and their ids; of several with one id the first."""
    read = model.preprocessor
    found: dict[int, str] = {}
    before: list[int] = read([_BEFORE], add_special_tokens=False)["input_ids"][0]
    texts = [f"{_BEFORE} {word}" for word in words]
    if texts:
        split = read(texts, add_special_tokens=False)["input_ids"]
        for word, ids in zip(words, split, strict=True):
            if len(ids) == len(before) + 1 and list(ids[:-1]) == list(before):
                found.setdefault(int(ids[-1]), word)
    found.pop(getattr(read, "unk_token_id", None) or -1, None)
    return list(found.values()), list(found)
