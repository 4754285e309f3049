"""What `check_init.py` compresses: tiny models of every task, and rows that they can learn.

Words are made up; a dozen of them tell each of two classes, and what is learnt follows from those.
"""

from __future__ import annotations

import json
import wave
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from sweep_architectures import FROM_THE_LEFT
from tiny_configs import tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional

Kind = Literal["labelled", "unlabelled", "one-sided", "mislabelled"]
Row = dict[str, Any]

TEXTS = (
    "bert", "roberta", "distilbert", "electra", "mpnet", "xlm-roberta", "albert", "deberta-v2",
    "modernbert", "camembert",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{index}" for index in range(58))
OF_CLASS = 12  # words that tell each of the two classes; the others are neutral
NAMES = ("no", "yes")
SIDE = 16  # pixels
SHORTEST = 3  # words
RATE = 16_000  # samples a second
WRONG = 0.05  # labels are never clean
RARE = 0.04  # rows of the second class where nearly all are of the first
_EVEN: tuple[Kind, ...] = ("labelled", "labelled", "unlabelled", "mislabelled")


@dataclass(frozen=True)
class Wanted:
    """What a subject is asked for: the family, the most words of a text, and how rows are."""

    family: str
    kind: Kind
    words: int


class Subject(ABC):
    """A task: a module that learns it, and rows."""

    families: ClassVar[tuple[str, ...]] = TEXTS
    kinds: ClassVar[tuple[Kind, ...]] = _EVEN
    names: ClassVar[tuple[str, ...]] = NAMES
    auto: ClassVar[Any]

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the configuration beside those of the family."""
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: index for index, name in enumerate(self.names)},
        }

    def module(self) -> Any:
        """Return the random module."""
        config = tiny_config(self.wanted.family.partition(" ")[0], **self.settings)
        return self.auto.from_config(config)

    @abstractmethod
    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return what the module loses on a batch of fresh rows."""

    @abstractmethod
    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:
        """Return a row as data files have it; `place` is where a file of its own may lie."""

    def save(self, module: Any, folder: Path) -> None:
        """Save the module with what reads its inputs."""
        made = tokenizer()
        if self.wanted.family in FROM_THE_LEFT:
            made.padding_side = made.init_kwargs["padding_side"] = "left"
        made.save_pretrained(folder)
        module.save_pretrained(folder)

    def text(self, label: int, draws: np.random.Generator) -> str:
        """Return words of which more tell one class."""
        length = int(draws.integers(SHORTEST, self.wanted.words + 1))
        telling = max(1, length // 3)
        words = [*draws.choice(_own(label), telling), *draws.choice(_NEUTRAL, length - telling)]
        draws.shuffle(words)
        return " ".join(map(str, words))

    def told(self, index: int, draws: np.random.Generator) -> tuple[int, int]:
        """Return the class of a row, and what its label says."""
        share = RARE if self.wanted.kind == "one-sided" else 0.5
        label = int(draws.random() < share) if index > 1 else index
        told = label if draws.random() > WRONG else 1 - label
        if self.wanted.kind == "mislabelled":
            told = int(draws.random() < 0.5)
        return label, told

    @property
    def is_labelled(self) -> bool:
        """Return whether rows have labels."""
        return self.wanted.kind != "unlabelled"


_NEUTRAL = WORDS[2 * OF_CLASS :]


def _own(label: int) -> Sequence[str]:
    return WORDS[label * OF_CLASS : (label + 1) * OF_CLASS]


class Single(Subject):
    """Texts of two classes."""

    kinds: ClassVar[tuple[Kind, ...]] = (*_EVEN[:1], *_EVEN, "one-sided")
    auto = transformers.AutoModelForSequenceClassification

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the cross entropy."""
        labels = draws.integers(0, 2, size)
        inputs = _read([self.text(int(label), draws) for label in labels])
        found: Tensor = module(**inputs, labels=torch.from_numpy(labels)).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return a text and its class by name."""
        label, told = self.told(index, draws)
        row: Row = self.input(label, draws)
        return {**row, "label": NAMES[told]} if self.is_labelled else row

    def input(self, label: int, draws: np.random.Generator) -> Row:
        """Return the row without its label."""
        return {"text": self.text(label, draws)}


class Pair(Single):
    """The same words in two columns."""

    def input(self, label: int, draws: np.random.Generator) -> Row:
        """Return both texts."""
        words = self.text(label, draws).split()
        return {"text1": " ".join(words[::2]), "text2": " ".join(words[1::2]) or "the"}


class Pictures(Subject):
    """Noisy images that are bright above or below."""

    families = ("vit", "deit", "beit", "dinov2", "resnet")
    kinds = Single.kinds
    auto = transformers.AutoModelForImageClassification

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the cross entropy."""
        labels = draws.integers(0, 2, size)
        pixels = np.stack([self.image(int(label), draws) for label in labels])
        inputs = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / 127.5 - 1).float()
        found: Tensor = module(pixel_values=inputs, labels=torch.from_numpy(labels)).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:
        """Return the name of a file of an image, and its class."""
        label, told = self.told(index, draws)
        path = place.with_suffix(".png")
        Image.fromarray(self.image(label, draws)).save(path)
        row: Row = {"image": path.name}
        return {**row, "label": NAMES[told]} if self.is_labelled else row

    def save(self, module: Any, folder: Path) -> None:
        """Save the module with what reads images."""
        transformers.ViTImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ).save_pretrained(folder)
        module.save_pretrained(folder)

    def image(self, label: int, draws: np.random.Generator) -> NDArray[np.uint8]:
        """Return the pixels."""
        pixels = draws.integers(0, 120, (SIDE, SIDE, 3)).astype(np.uint8)
        half = np.s_[: SIDE // 2] if label else np.s_[SIDE // 2 :]
        pixels[half] += 100
        return pixels


class Vectors(Single):
    """An encoder of sentences, with graded pairs of texts or texts alone."""

    families = ("bert", "roberta", "mpnet", "xlm-roberta", "distilbert")
    kinds = ("labelled", "unlabelled")

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return two texts and how alike they are, or one text."""
        label, _ = self.told(index, draws)
        if not self.is_labelled:
            return {"text": self.text(label, draws)}
        other = int(draws.integers(0, 2))
        grade = 4.0 * (other == label) + float(draws.random())
        first, second = self.text(label, draws), self.text(other, draws)
        return {"sentence1": first, "sentence2": second, "score": round(grade, 2)}

    def save(self, module: Any, folder: Path) -> None:
        """Save the encoder without its head, in the layout of sentence-transformers."""
        pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
        super().save(module.base_model, folder)
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        kinds = {"": "Transformer", "1_Pooling": "Pooling"}
        steps = [
            {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(steps))


class Tagged(Subject):
    """Documents word by word: words that tell a class are entities of it."""

    names = ("O", "B-no", "I-no", "B-yes", "I-yes")
    auto = transformers.AutoModelForTokenClassification

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the cross entropy of the tags, a token for each word."""
        documents = [self.words(draws) for _ in range(size)]
        inputs = _read([" ".join(words) for words in documents])
        labels = torch.full(inputs["input_ids"].shape, -100)
        for row, words in enumerate(documents):
            tags = [self.names.index(tag) for tag in self.tags(words)]
            labels[row, 1 : 1 + len(words)] = torch.tensor(tags)
        found: Tensor = module(**inputs, labels=labels).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return the words and their tags by name."""
        words = self.words(draws)
        tags = self.tags(words)
        if self.wanted.kind == "mislabelled":
            draws.shuffle(tags)
        return {"tokens": words, "ner_tags": tags} if self.is_labelled else {"tokens": words}

    def words(self, draws: np.random.Generator) -> list[str]:
        """Return the words of a document."""
        return self.text(int(draws.integers(0, 2)), draws).split()

    def tags(self, words: Sequence[str]) -> list[str]:
        """Return the tags of words."""
        found, last = [], ""
        for word in words:
            kind = next((NAMES[label] for label in (0, 1) if word in _own(label)), "")
            found.append(f"{'I' if kind == last else 'B'}-{kind}" if kind else "O")
            last = kind
        return found


class Ranked(Subject):
    """A reranker: passages of the query's class are relevant to it."""

    names = ("LABEL_0",)
    auto = transformers.AutoModelForSequenceClassification

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of a CrossEncoder of sentence-transformers."""
        activation = "torch.nn.modules.activation.Sigmoid"
        return {**super().settings, "sentence_transformers": {"activation_fn": activation}}

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the binary cross entropy."""
        labels, others = draws.integers(0, 2, size), draws.integers(0, 2, size)
        inputs = _read(
            [self.text(int(label), draws) for label in labels],
            [self.text(int(label), draws) for label in others],
        )
        wanted = torch.from_numpy(labels == others).float()
        return functional.binary_cross_entropy_with_logits(module(**inputs).logits[:, 0], wanted)

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return a query, one of its passages, and whether it is relevant."""
        query = index // 8
        label = query % 2
        other = label if index % 8 < 2 else 1 - label  # two of eight are relevant
        told = float(other == label)
        if self.wanted.kind == "mislabelled":
            told = float(draws.random() < 0.25)
        fixed = np.random.default_rng(query)
        row: Row = {"query": f"{self.text(label, fixed)}", "passage": self.text(other, draws)}
        return {**row, "score": told} if self.is_labelled else row


class Graded(Subject):
    """A regression: the share of words that tell the first class."""

    names = ("LABEL_0",)
    auto = transformers.AutoModelForSequenceClassification

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of a regression."""
        return {**super().settings, "problem_type": "regression"}

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the mean squared error."""
        texts = [self.mixed(draws) for _ in range(size)]
        wanted = torch.tensor([self.grade(text) for text in texts])
        return functional.mse_loss(module(**_read(texts)).logits[:, 0], wanted)

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return a text and its grade."""
        text = self.mixed(draws)
        noise = float(draws.normal()) * (5.0 if self.wanted.kind == "mislabelled" else 0.1)
        row: Row = {"text": text}
        return {**row, "score": round(self.grade(text) + noise, 3)} if self.is_labelled else row

    def mixed(self, draws: np.random.Generator) -> str:
        """Return words of both classes."""
        return " ".join(self.text(label, draws) for label in (0, 1))

    def grade(self, text: str) -> float:
        """Return the grade of a text, 0 to 5."""
        words = text.split()
        return 5.0 * sum(word in _own(0) for word in words) / len(words)


class Sets(Subject):
    """Texts to which each of three labels applies or not."""

    names = ("no", "yes", "both")
    auto = transformers.AutoModelForSequenceClassification

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of several labels."""
        return {**super().settings, "problem_type": "multi_label_classification"}

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the binary cross entropy of each label."""
        texts = [self.some(draws) for _ in range(size)]
        wanted = torch.tensor([self.holding(text) for text in texts]).float()
        found: Tensor = module(**_read(texts), labels=wanted).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return a text and the names of its labels."""
        text = self.some(draws)
        holding = self.holding(self.some(draws) if self.wanted.kind == "mislabelled" else text)
        labels = [name for name, holds in zip(self.names, holding, strict=True) if holds]
        return {"text": text, "labels": labels} if self.is_labelled else {"text": text}

    def some(self, draws: np.random.Generator) -> str:
        """Return words of none, one or both classes."""
        parts = [self.text(label, draws) for label in (0, 1) if draws.random() < 0.5]
        return " ".join(parts) or " ".join(draws.choice(_NEUTRAL, SHORTEST))

    def holding(self, text: str) -> tuple[bool, bool, bool]:
        """Return which labels apply to a text."""
        words = set(text.split())
        first, second = (bool(words & set(_own(label))) for label in (0, 1))
        return first, second, first and second


class Asked(Subject):
    """Questions for the word of a class in a context; some contexts have none."""

    families = tuple(name for name in TEXTS if name != "modernbert")
    names = ("LABEL_0", "LABEL_1")
    auto = transformers.AutoModelForQuestionAnswering

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the cross entropy of the places of first and last token."""
        rows = [self.asked(draws) for _ in range(size)]
        inputs = _read([row[0] for row in rows], [" ".join(row[1]) for row in rows])
        ends = inputs["input_ids"] == SPECIAL.index("[SEP]")
        begins = ends.int().argmax(dim=1) + 1
        offsets = torch.tensor([-1 if row[2] is None else row[2] for row in rows])
        places = torch.where(offsets < 0, 0, begins + offsets)
        found: Tensor = module(**inputs, start_positions=places, end_positions=places).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return question, context and answers as SQuAD has them."""
        question, words, answer = self.asked(draws)
        if self.wanted.kind == "mislabelled":
            answer = int(draws.integers(0, len(words)))
        row: Row = {"question": question, "context": " ".join(words)}
        if not self.is_labelled:
            return row
        found: dict[str, list[Any]] = {"text": [], "answer_start": []}
        if answer is not None:
            start = sum(len(word) + 1 for word in words[:answer])
            found = {"text": [words[answer]], "answer_start": [start]}
        return {**row, "answers": found}

    def asked(self, draws: np.random.Generator) -> tuple[str, list[str], int | None]:
        """Return a question, the words of its context, and which of them answers it."""
        label = int(draws.integers(0, 2))
        length = int(draws.integers(SHORTEST, self.wanted.words + 1))
        words = [str(word) for word in draws.choice(_NEUTRAL, length)]
        places = draws.choice(length, 2, replace=False)
        for own, place in enumerate(places):
            words[place] = str(draws.choice(_own(own)))
        answer: int | None = int(places[label])
        if draws.random() < 0.2:
            words[int(places[label])] = str(_NEUTRAL[0])
            answer = None
        return f"the {_own(label)[0]}", words, answer


class Masked(Subject):
    """Texts in which every word follows from the one before it."""

    kinds = ("unlabelled",)
    auto = transformers.AutoModelForMaskedLM

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the cross entropy of words that are hidden."""
        inputs = _read([self.chain(draws) for _ in range(size)])
        ids = inputs["input_ids"]
        is_hidden = torch.from_numpy(draws.random(ids.shape) < 0.3) & (ids >= len(SPECIAL))
        labels = ids.masked_fill(~is_hidden, -100)
        hidden = {**inputs, "input_ids": ids.masked_fill(is_hidden, SPECIAL.index("[MASK]"))}
        found: Tensor = module(**hidden, labels=labels).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:  # noqa: ARG002
        """Return a text."""
        return {"text": self.chain(draws)}

    def chain(self, draws: np.random.Generator) -> str:
        """Return words in their order, from one of them on."""
        length, first = (int(draws.integers(low, high)) for low, high in ((6, 30), (0, len(WORDS))))
        return " ".join(WORDS[(first + place) % len(WORDS)] for place in range(length))


class Sounds(Subject):
    """Tones that are low or high; a model with norms over whole sounds reads no mask."""

    families = ("wav2vec2", "hubert", "wav2vec2 (whole)")
    kinds = ("labelled", "unlabelled", "mislabelled")
    auto = transformers.AutoModelForAudioClassification

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of the norms beside those of the labels."""
        norm = "group" if "whole" in self.wanted.family else "layer"
        return {**super().settings, "feat_extract_norm": norm}

    def loss(self, module: Any, size: int, draws: np.random.Generator) -> Tensor:
        """Return the cross entropy."""
        labels = draws.integers(0, 2, size)
        tones = [self.tone(int(label), draws) for label in labels]
        read = self.reader()(
            tones, sampling_rate=RATE, padding="max_length", max_length=2400, return_tensors="pt"
        )
        found: Tensor = module(**read, labels=torch.from_numpy(labels)).loss
        return found

    def row(self, index: int, place: Path, draws: np.random.Generator) -> Row:
        """Return the name of a file of sound, and its class."""
        label, told = self.told(index, draws)
        path = place.with_suffix(".wav")
        with wave.open(str(path), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(RATE)
            stream.writeframes((self.tone(label, draws) * 20_000).astype("<i2").tobytes())
        row: Row = {"audio": path.name}
        return {**row, "label": NAMES[told]} if self.is_labelled else row

    def save(self, module: Any, folder: Path) -> None:
        """Save the module with what reads sounds."""
        self.reader().save_pretrained(folder)
        module.save_pretrained(folder)

    def reader(self) -> Any:
        """Return the feature extractor."""
        is_masked = self.settings["feat_extract_norm"] == "layer"
        return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=is_masked)

    def tone(self, label: int, draws: np.random.Generator) -> NDArray[np.float32]:
        """Return samples."""
        places = np.arange(int(draws.integers(800, 2400)))
        pitch = draws.uniform(*((0.05, 0.15), (0.5, 0.9))[label])
        noise = draws.normal(size=len(places)) * 0.05
        return np.asarray(0.6 * np.sin(places * pitch) + noise, dtype=np.float32)


SUBJECTS: dict[str, type[Subject]] = {
    "single": Single,
    "pair": Pair,
    "image": Pictures,
    "encoder": Vectors,
    "tags": Tagged,
    "ranking": Ranked,
    "grades": Graded,
    "sets": Sets,
    "questions": Asked,
    "hidden": Masked,
    "sounds": Sounds,
}


def tokenizer() -> Any:
    """Return a tokenizer of made-up words, for single texts and pairs."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, "the", *WORDS))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    special = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings: dict[str, Any] = {
        "tokenizer_object": made,
        "model_max_length": 60,
        "model_input_names": ["input_ids", "attention_mask"],
        **dict(zip(special, SPECIAL, strict=True)),
    }
    return transformers.PreTrainedTokenizerFast(**settings)


def _read(texts: Sequence[str], others: Sequence[str] | None = None) -> dict[str, Tensor]:
    second = None if others is None else list(others)
    return dict(
        tokenizer()(list(texts), second, padding=True, truncation=True, return_tensors="pt")
    )
