"""Cutting the vocabulary of a WordPiece tokenizer, and the embedding table with it.

A word is split greedily into the longest pieces that the vocabulary has, so a word whose piece was
dropped falls back to smaller ones without any other change. Tokenizers of other kinds do not work
like that: a BPE token is the product of merges, a Unigram token competes by its probability.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn

from compressor.errors import StepFailed
from compressor.models.text_inputs import positions_of
from compressor.models.torch_model import TorchModel
from compressor.passes.trim_vocabulary.word_piece import (
    BERT_PARTS,
    TOKENIZER,
    not_as_bert,
    untrimmable,
)
from compressor.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BESIDE = ("vocab.txt", "added_tokens.json", "special_tokens_map.json")


class UnsupportedTokenizer(StepFailed):
    """The vocabulary of this preprocessor cannot be cut; `reason` says why."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        self.reason = reason
        super().__init__(untrimmable(kind, reason))


def plain_tokenizer(preprocessor: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy of the WordPiece tokenizer inside, which neither cuts nor pads.

    Raises `UnsupportedTokenizer` when there is none.
    """
    kind = type(preprocessor).__name__
    if not isinstance(preprocessor, transformers.PreTrainedTokenizerBase):
        raise UnsupportedTokenizer(kind, "it is not a tokenizer")
    if not preprocessor.is_fast:
        raise UnsupportedTokenizer(kind, "it is a slow tokenizer, without a tokenizer.json")
    backend: Any = preprocessor
    tokenizer = Tokenizer.from_str(backend.backend_tokenizer.to_str())
    model = json.loads(tokenizer.to_str())["model"]["type"]
    if model != "WordPiece":
        raise UnsupportedTokenizer(
            kind, f"its model is {model}, where a dropped piece does not fall back to smaller ones"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pieces_that_must_stay(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of added and special tokens, and of what other pieces fall back to.

    These are single characters, at the beginning of a word and inside it, and pieces with a
    character that is no piece by itself. So no word becomes unknown whose characters all are.
    """
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    vocabulary: dict[str, int] = model["vocab"]
    prefix: str = model["continuing_subword_prefix"]
    added = _added_and_unknown(content)

    def splits(piece: str) -> bool:
        inside, text = _inside_a_word(piece, prefix)
        first = (prefix if inside else "") + text[:1]
        return first in vocabulary and all(prefix + letter in vocabulary for letter in text[1:])

    return {
        index
        for piece, index in vocabulary.items()
        if piece in added or len(piece.removeprefix(prefix)) <= 1 or not splits(piece)
    } | {entry["id"] for entry in content["added_tokens"]}


def unreachable_pieces(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of pieces that the tokens of no text contain, added tokens aside.

    A piece is looked up in words, and a word is what BERT's normalizer and splitting at spaces,
    punctuation and Chinese characters leave. Both leave such a word as it is, and so every part of
    it; a piece that they change or split is part of none. In `bert-base-uncased` these are
    `[unused0]` to `[unused993]`, and what continues a word with punctuation or Chinese characters.

    Raises `StepFailed` for a tokenizer with another normalizer or another way to split.
    """
    content = json.loads(tokenizer.to_str())
    found = tuple((content[name] or {}).get("type") for name in BERT_PARTS)
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if found != tuple(BERT_PARTS.values()) or normalizer is None or splitter is None:
        raise StepFailed(not_as_bert(found))
    prefix: str = content["model"]["continuing_subword_prefix"]
    added = _added_and_unknown(content)

    def stays(piece: str) -> bool:
        inside, text = _inside_a_word(piece, prefix)
        # Any letter does for the beginning of the word, as each character is treated by itself.
        word = "a" + text if inside else text
        parts = splitter.pre_tokenize_str(normalizer.normalize_str(word))
        return [part for part, _ in parts] == [word]

    vocabulary: dict[str, int] = content["model"]["vocab"]
    return {index for piece, index in vocabulary.items() if piece not in added and not stays(piece)}


def _added_and_unknown(content: dict[str, Any]) -> set[str]:
    """Return the tokens that are no pieces of words, from the contents of a `tokenizer.json`."""
    added = {str(entry["content"]) for entry in content["added_tokens"]}
    return added | {content["model"]["unk_token"]}


def _inside_a_word(piece: str, prefix: str) -> tuple[bool, str]:
    """Return whether a piece goes on with a word, and its text; the prefix alone does not."""
    inside = piece.startswith(prefix) and piece != prefix
    return inside, piece.removeprefix(prefix) if inside else piece


def trim_vocabulary(model: TorchModel, kept: Sequence[int]) -> TorchModel:
    """Return `model` with only the pieces `kept`, ascending old ids, which become 0, 1, 2, ...

    The module is changed in place; the tokenizer is a new one. Raises `StepFailed` when the model
    derives positions from an id of the padding that would change.
    """
    config = model.module.config
    new_ids = {old: new for new, old in enumerate(kept)}
    pad = config.pad_token_id
    positions = positions_of(model.module)
    counted = None if positions is None else positions.after_padding
    if counted is not None and new_ids.get(counted) != counted:
        raise StepFailed(
            f"model type '{config.model_type}' counts positions from the id of its padding, "
            f"{counted}, which would become {new_ids.get(counted, 'that of another piece')}; keep "
            f"the pieces before it (setting keep)"
        )
    preprocessor = _trim_tokenizer(model.preprocessor, new_ids, model.task)
    table = model.module.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "it has a row for each piece"
    index = torch.tensor(kept, device=table.weight.device)
    fresh = nn.Embedding(len(kept), table.embedding_dim, padding_idx=new_ids.get(pad))
    fresh.weight = nn.Parameter(
        table.weight.detach()[index], requires_grad=table.weight.requires_grad
    )
    model.module.set_input_embeddings(fresh.train(table.training))
    config.vocab_size = len(kept)
    for name, value in list(config.to_dict().items()):
        if name.endswith("_token_id") and value in new_ids:
            setattr(config, name, new_ids[value])
    return TorchModel(model.module, preprocessor, model.task)


def _trim_tokenizer(
    preprocessor: PreTrainedTokenizerBase, new_ids: dict[int, int], task: Task
) -> PreTrainedTokenizerBase:
    """Return the tokenizer as it is when it is saved, its ids are replaced, and it is loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        preprocessor.save_pretrained(folder)
        for name in _BESIDE:
            (folder / name).unlink(missing_ok=True)
        path = folder / TOKENIZER
        content = json.loads(path.read_text(encoding="utf-8"))
        content["truncation"] = content["padding"] = None
        vocabulary: dict[str, int] = content["model"]["vocab"]
        content["model"]["vocab"] = {
            piece: new_ids[old]
            for piece, old in sorted(vocabulary.items(), key=lambda item: item[1])
            if old in new_ids
        }
        for entry in content["added_tokens"]:
            entry["id"] = new_ids[entry["id"]]
        _replace_ids(content["post_processor"], new_ids)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        trimmed: PreTrainedTokenizerBase = task.load_preprocessor(folder)
    trimmed.model_max_length = preprocessor.model_max_length
    trimmed.name_or_path = preprocessor.name_or_path
    return trimmed


def _replace_ids(post_processor: Any, new_ids: dict[int, int]) -> None:
    """Give the special tokens that are put around a text their new ids, in place."""
    if post_processor is None:
        return
    for part in post_processor.get("processors", ()):  # a sequence of processors
        _replace_ids(part, new_ids)
    for entry in post_processor.get("special_tokens", {}).values():  # TemplateProcessing
        entry["ids"] = [new_ids[old] for old in entry["ids"]]
    for name in ("sep", "cls"):  # BertProcessing, RobertaProcessing: a pair of token and id
        if name in post_processor:
            token, old = post_processor[name]
            post_processor[name] = [token, new_ids[old]]
