"""Trims a multilingual tagger to one language, and counts what changes.

    tools/trim_multilingual.py train.conll --dev dev.conll --texts corpus.tsv ... \\
        --results docs/results/vocabulary.json

The checkpoint is made here, of the shape of Multilingual-MiniLM: XLM-RoBERTa with 12 layers of 384
and 250,002 pieces, random weights. Pieces of the language of the texts are trained on them, as
SentencePiece does; the others are words of random characters of a dozen scripts, the Latin one
among them, with lower scores. So sizes and what happens to pieces are those of a real checkpoint,
and what a tag means is not.

For each way to trim: bytes of the weights file, for how many dev sentences the pieces change, and
how many get other entities, where the pieces changed and where they did not (none may).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from classifier_rows import quieten
from results import write_results
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from compressor.data import Dataset
from compressor.data.readers import read_table
from compressor.data.settings import SplitSource
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.models.weight_files import WEIGHTS
from compressor.passes import PassContext, apply_pass
from compressor.passes.trim_vocabulary.settings import TrimVocabulary
from compressor.progress import SILENT
from compressor.tasks.examples import Words

PIECES = 250_002
_OWN = 30_000  # of the language of the texts
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
# First and last letter of what the other pieces are made of, and their share of those.
_SCRIPTS = (
    ("a", "z", 0.3),
    ("а", "я", 0.15),
    ("α", "ω", 0.05),
    ("ب", "ي", 0.1),
    ("א", "ת", 0.03),
    ("अ", "ह", 0.08),
    ("ก", "ฮ", 0.05),
    ("ა", "ჰ", 0.03),
    ("ա", "ֆ", 0.03),
    ("가", "힣", 0.08),
    ("一", "龥", 0.1),
)


def own_pieces(texts: list[str]) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=_OWN,
        special_tokens=["<unk>"],
        unk_token="<unk>",  # noqa: S106 -- no password
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(item) for item in json.loads(tokenizer.to_str())["model"]["vocab"][1:]]


def other_pieces(own: list[tuple[str, float]], number: int) -> Iterator[tuple[str, float]]:
    """Yield pieces of other languages, the most frequent first, and each character by itself."""
    draw = random.Random(0)  # noqa: S311 -- the same pieces on every machine
    known, lowest = {piece for piece, _ in own}, min(score for _, score in own)
    weights = [share for _, _, share in _SCRIPTS]
    made = 0
    for first, last, _ in _SCRIPTS:
        for code in range(ord(first), ord(last) + 1):
            if chr(code) not in known:
                known.add(chr(code))
                made += 1
                yield chr(code), lowest - 4
    while made < number:
        first, last, _ = draw.choices(_SCRIPTS, weights)[0]
        letters = [chr(draw.randint(ord(first), ord(last))) for _ in range(draw.randint(2, 8))]
        piece = draw.choice(("▁", "")) + "".join(letters)
        if piece not in known:
            known.add(piece)
            made += 1
            yield piece, lowest - 3 * made / number


def make_checkpoint(folder: Path, texts: list[str], tags: list[str]) -> None:
    own = own_pieces(texts)
    others = other_pieces(own, PIECES - len(own) - len(_SPECIAL) - 1)
    vocabulary = [*((name, 0.0) for name in _SPECIAL), *own, *others, ("<mask>", 0.0)]
    transformers.XLMRobertaTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=514,
        type_vocab_size=1,
        initializer_range=0.1,
        id2label=dict(enumerate(tags)),
    )
    transformers.XLMRobertaForTokenClassification(config).save_pretrained(folder)


def entities(model: TorchModel, sentences: list[Words]) -> tuple[list[list[int]], list[Any]]:
    """Return the old ids of each sentence, as far as the table tells, and what was found."""
    ids, found = [], []
    for start in range(0, len(sentences), 64):
        batch = model.task.encode(model.preprocessor, sentences[start : start + 64])
        outputs = model.task.collect([model.predict(batch)], [batch])
        found += model.task.predictions(outputs, model.labels)
        ids += [document.ids.tolist() for document in batch.documents]  # type: ignore[attr-defined]
    return ids, found


def measure(name: str, given: dict[str, Any], folder: Path, data: Any) -> dict[str, Any]:
    settings = TrimVocabulary.model_validate(given)
    splits, dev, before_ids, before, bytes_before = data
    model = load_checkpoint(folder, task="token-classification")
    notes: list[str] = []
    started = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        context = PassContext(
            splits,
            lambda: load_checkpoint(folder),
            torch.device("cpu"),
            0,
            Path(scratch),
            SILENT,
            notes.append,
        )
        trimmed = apply_pass(settings, model, context)
        seconds = time.process_time() - started
        trimmed.save(Path(scratch) / "trimmed")
        size = (Path(scratch) / "trimmed" / WEIGHTS).stat().st_size
        trimmed = load_checkpoint(Path(scratch) / "trimmed", task="token-classification")
        after_ids, after = entities(trimmed, dev)
        old = load_checkpoint(folder, task="token-classification").preprocessor.get_vocab()
    new = trimmed.preprocessor.get_vocab()
    renamed = {new[piece]: old[piece] for piece in new}
    moved = [
        mine != [renamed[index] for index in theirs]
        for mine, theirs in zip(before_ids, after_ids, strict=True)
    ]
    other = [spans(one) != spans(two) for one, two in zip(before, after, strict=True)]
    row = {
        "name": name,
        "settings": {"kind": settings.kind, **settings.settings},
        "pieces": len(new),
        "bytes_before": bytes_before,
        "bytes_after": size,
        "times_smaller": round(bytes_before / size, 3),
        "sentences": len(dev),
        "pieces_changed": sum(moved),
        "other_entities_where_pieces_changed": sum(
            changed for changed, was_moved in zip(other, moved, strict=True) if was_moved
        ),
        "other_entities_elsewhere": sum(
            changed for changed, was_moved in zip(other, moved, strict=True) if not was_moved
        ),
        "entities": sum(map(len, before)),
        "seconds": round(seconds, 1),
        "notes": notes,
    }
    print(json.dumps(row), flush=True)
    return row


def spans(found: Any) -> list[tuple[Any, ...]]:
    return [(item["entity_group"], item["start"], item["end"]) for item in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", type=Path, help="a CoNLL file whose pieces stay")
    parser.add_argument("--dev", type=Path, required=True, help="a CoNLL file to compare on")
    parser.add_argument(
        "--texts",
        type=Path,
        required=True,
        nargs="+",
        help="more text: the last column of each line of .tsv files",
    )
    parser.add_argument("--results", type=Path, help="where to write the results file")
    arguments = parser.parse_args()
    quieten()
    columns = [
        read_table(SplitSource(path=path, format="conll"), ("text", "label"), ()).columns
        for path in (arguments.train, arguments.dev)
    ]
    train, dev = ([Words(tuple(words)) for words in column["text"]] for column in columns)
    tags = sorted({tag for column in columns for row in column["label"] for tag in row})
    texts = [
        line.rpartition("\t")[2]
        for path in arguments.texts
        for line in path.read_text(encoding="utf-8").splitlines()[1:]
    ]
    counted = Dataset("train", tuple(train), None, np.arange(len(train)), "train")
    more = replace(counted, name="calibration", examples=tuple(texts), rows=np.arange(len(texts)))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        make_checkpoint(folder, [*texts, *(" ".join(item.words) for item in train)], tags)
        untouched = load_checkpoint(folder, task="token-classification")
        before_ids, before = entities(untouched, dev)
        size = (folder / WEIGHTS).stat().st_size
        del untouched
        data = {"train": counted, "calibration": more}, dev, before_ids, before, size
        both = {"count_in": ["train", "calibration"]}
        scripts = {"keep_scripts": ["Latin"]}
        for name, given in (
            ("train", {}),
            ("train and texts", both),
            ("train and texts, Latin", {**both, **scripts}),
            ("all of Latin", {"drop": "other_scripts", **scripts}),
        ):
            rows.append(measure(name, given, folder, data))
    if arguments.results is not None:
        about = {
            "checkpoint": "XLM-RoBERTa, 12 layers of 384, 250,002 pieces, random weights",
            "entities": sum(map(len, before)),
        }
        write_results(arguments.results, rows, about=about)
    return 1 if any(row["other_entities_elsewhere"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
