"""What the campaign mutates: tiny random models, rows that they answer, and a finished run.

Everything is made here, without a download, and judged by transformers alone: the labels of the
rows are the answers that transformers gives, so that a score below 1 means rows read wrongly.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = (
    "good", "great", "fine", "lovely", "brilliant", "funny", "bad", "awful", "poor", "dull",
    "terrible", "boring", "a", "the", "film", "movie", "plot", "very", "quite", "and", "was",
    "story", "it", "is", "not", "but", "long", "short", "old", "new", "actor", "scene", "end",
    "start",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("##s", "##ly", "##ing", "un", ",", ".", "!", '"', "'")
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    # Weights of the usual spread would leave layers this narrow near zero.
    "initializer_range": 0.3,
}
NUM_ROWS = 40
POSITIONS = 64
SEED = 0


@dataclass(frozen=True)
class Subjects:
    """The folder of everything that is mutated, and what is right of it."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """Return the folder of the classifier of texts."""
        return self.folder / "bert"

    @property
    def encoder(self) -> Path:
        """Return the folder of the sentence encoder."""
        return self.folder / "encoder"

    @property
    def vision(self) -> Path:
        """Return the folder of the classifier of images."""
        return self.folder / "vit"

    @property
    def rows(self) -> Path:
        """Return the file of texts and labels."""
        return self.folder / "rows.csv"

    @property
    def run(self) -> Path:
        """Return the output directory of a finished run without passes."""
        return self.folder / "run"

    def texts(self) -> list[str]:
        """Return the texts of the rows."""
        with self.rows.open(newline="", encoding="utf-8") as stream:
            return [row["text"] for row in csv.DictReader(stream)]


@dataclass(frozen=True)
class Reference:
    """What transformers alone says of a checkpoint: outputs, and weights it did or did not take."""

    outputs: NDArray[np.float32]
    unlike: tuple[str, ...]  # names of weights that are missing, left over or of another shape


def probes(subjects: Subjects) -> list[str]:
    """Return texts of which answers are compared, one longer than the model reads among them."""
    return [*subjects.texts()[:10], " ".join(WORDS * 3)]


def make(folder: Path) -> Subjects:
    """Write the models and the rows; the run is made by `finish`."""
    subjects = Subjects(folder)
    tokenizer = word_piece()
    labels: dict[str, Any] = {
        "id2label": {0: "negative", 1: "positive"},
        "label2id": {"negative": 0, "positive": 1},
    }
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        **TINY, vocab_size=len(tokenizer), max_position_embeddings=POSITIONS, **labels
    )
    transformers.BertForSequenceClassification(config).save_pretrained(subjects.checkpoint)
    tokenizer.save_pretrained(subjects.checkpoint)
    _make_encoder(subjects, tokenizer)
    _make_vision(subjects)
    texts = _texts(NUM_ROWS)
    answers = text_reference(subjects.checkpoint, texts).outputs.argmax(axis=1)
    for name in ("rows.csv", "rows.tsv"):
        with (folder / name).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(
                stream, delimiter="\t" if name.endswith("tsv") else ",", lineterminator="\n"
            )
            writer.writerows([("text", "label"), *zip(texts, answers.tolist(), strict=True)])
    _make_lines(subjects, texts, answers.tolist())
    return subjects


def word_piece() -> Any:
    """Return a tokenizer of the words above."""
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS, *PIECES))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings: dict[str, Any] = {
        "tokenizer_object": tokenizer,
        "model_max_length": POSITIONS,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **dict(zip(names, SPECIAL, strict=True)),
    }
    return transformers.PreTrainedTokenizerFast(**settings)


def text_reference(folder: Path, texts: Sequence[str]) -> Reference:
    """Return what transformers gives for each text alone; raises whatever transformers raises."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model, unlike = _load(transformers.AutoModelForSequenceClassification, folder)
    longest = min(int(tokenizer.model_max_length), int(model.config.max_position_embeddings))
    found = []
    with torch.no_grad():
        for text in texts:
            batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
            found.append(model(**batch, return_dict=True).logits[0].float().numpy())
    return Reference(np.stack(found), unlike)


def image_reference(folder: Path, images: Sequence[NDArray[np.uint8]]) -> Reference:
    """Return what transformers gives for each image alone; raises whatever transformers raises."""
    auto: Any = transformers.AutoImageProcessor
    processor = auto.from_pretrained(folder, backend="pil")
    model, unlike = _load(transformers.AutoModelForImageClassification, folder)
    found = []
    with torch.no_grad():
        for image in images:
            batch = processor(
                [image[..., None]], return_tensors="pt", input_data_format="channels_last"
            )
            found.append(model(**batch).logits[0].numpy())
    return Reference(np.stack(found), unlike)


def images(count: int = 12) -> list[NDArray[np.uint8]]:
    """Return grey images of 8x8."""
    made = np.random.default_rng(SEED)
    return [made.integers(0, 255, size=(8, 8)).astype(np.uint8) for _ in range(count)]


def _load(auto: Any, folder: Path) -> tuple[Any, tuple[str, ...]]:
    # How attention is computed, and not what: a config that names a kernel is no other model.
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model, info = auto.from_pretrained(folder, **options, output_loading_info=True)
    names = {str(name) for key in info for name in info[key]}
    return model.eval(), tuple(sorted(names))


def _make_encoder(subjects: Subjects, tokenizer: Any) -> None:
    folder = subjects.encoder
    config = transformers.BertConfig(
        **TINY, vocab_size=len(tokenizer), max_position_embeddings=POSITIONS
    )
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')


def _make_vision(subjects: Subjects) -> None:
    torch.manual_seed(SEED)
    labels: dict[str, Any] = {
        "id2label": {0: "zero", 1: "one", 2: "two"},
        "label2id": {"zero": 0, "one": 1, "two": 2},
    }
    config = transformers.ViTConfig(**TINY, image_size=8, patch_size=2, num_channels=1, **labels)
    transformers.ViTForImageClassification(config).save_pretrained(subjects.vision)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5]
    )
    processor.save_pretrained(subjects.vision)


def _make_lines(subjects: Subjects, texts: Sequence[str], answers: Sequence[int]) -> None:
    table = [{"text": text, "label": label} for text, label in zip(texts, answers, strict=True)]
    lines = "".join(json.dumps(row) + "\n" for row in table)
    (subjects.folder / "rows.jsonl").write_text(lines)
    pq.write_table(pa.Table.from_pylist(table), subjects.folder / "rows.parquet")
    pictures = subjects.folder / "pictures"
    pictures.mkdir()
    found = image_reference(subjects.vision, images()).outputs.argmax(axis=1).tolist()
    rows = ["image,label"]
    for index, (image, label) in enumerate(zip(images(), found, strict=True)):
        Image.fromarray(image).save(pictures / f"{index}.png")
        rows.append(f"pictures/{index}.png,{label}")
    (subjects.folder / "images.csv").write_text("\n".join(rows) + "\n")


def _texts(count: int) -> list[str]:
    draw = random.Random(SEED)  # noqa: S311 - no secret
    found: list[str] = []
    while len(found) < count:
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 12)))
        if text not in found:
            found.append(text)
    return found
