"""Holds a tokenizer that transformers made against the file that it was made from.

transformers 5 takes the vocabulary from `tokenizer.json` and, for most classes, builds the rest
anew: what the file says of normalization, of where words are split and of the tokens around a text
is left out without a word. Everything else that reads the checkpoint, transformers 4 among it, goes
by the file, so a model would be measured on tokens that it was not trained with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint_files import CheckpointFiles
from compressor.models.text_files import TOKENIZER_CONFIG
from compressor.models.vocabulary_files import TOKENIZER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Ordinary texts alone: on rare characters some classes differ from the files of all checkpoints.
_PROBES = (
    "The quick brown Fox jumps over it, isn't that so?",
    "On 14 May 2021 a Café in Zürich sold 3.5 kg.",
    "Быстрая лиса 東京 καλημέρα",
    "two  spaces, a tab\tand\na line",
)
_MOST_WORDS = 24  # of the tokenizer's own, in one more text
_MOST_SHOWN = 8  # ids of a text in a message
_AS_IT_IS = ("PreTrainedTokenizerFast", "TokenizersBackend")  # two names of one class
_ENDS = ("add_bos_token", "add_eos_token")


def require_tokens_of_file(files: CheckpointFiles, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `EnvironmentMismatch` where a text becomes other tokens than `tokenizer.json` says.

    What `tokenizer_config.json` says of capitals, accents, a space in front and marks of beginning
    and end goes before the file, as it does in transformers 4.
    """
    from transformers import PreTrainedTokenizerFast  # only here, as it takes seconds

    place, kind = files.directory / TOKENIZER, type(tokenizer)
    if kind is PreTrainedTokenizerFast or not place.is_file():
        return  # it is the file as it is, or there is none
    own = Tokenizer.from_file(str(place))
    own.no_truncation()
    own.no_padding()
    _take_settings(own, getattr(tokenizer, "backend_tokenizer", None))
    ends = not any(name in _settings(files) for name in _ENDS)
    for text in (*_PROBES, _own_words(own)):
        wanted = own.encode(text, add_special_tokens=ends).ids
        encoded = tokenizer(text, add_special_tokens=ends, truncation=False, verbose=False)
        found = list(encoded["input_ids"])
        if found != wanted:
            ours, theirs = _where_they_part(wanted, found)
            raise EnvironmentMismatch(
                f"{place}: gives {text!r} other tokens ({ours}) than the {kind.__name__} that "
                f"transformers makes of it ({theirs}), which leaves out what the file says beside "
                f"the vocabulary; {_advice(files, kind.__name__)}"
            )


def _advice(files: CheckpointFiles, made: str) -> str:
    save = f"load it as {made} and save it with save_pretrained over both files"
    if _settings(files).get("tokenizer_class") in _AS_IT_IS:  # which is not heeded for some types
        return (
            f"transformers does so for model type '{files.config['model_type']}' whatever class "
            f"{TOKENIZER_CONFIG} names; {save} if the model was trained with that, else give a "
            f"checkpoint of another type"
        )
    return (
        f"if the model was trained with the tokens of the file, set tokenizer_class in "
        f"{TOKENIZER_CONFIG} to {_AS_IT_IS[0]} and name the special tokens there; if with the "
        f"others, {save}"
    )


def _take_settings(own: Tokenizer, backend: Tokenizer | None) -> None:
    """Give a file's tokenizer what transformers 4 writes over it by a class's settings."""
    if backend is None:
        return
    if isinstance(own.normalizer, normalizers.BertNormalizer) and isinstance(
        backend.normalizer, normalizers.BertNormalizer
    ):
        own.normalizer = backend.normalizer
    if isinstance(own.pre_tokenizer, pre_tokenizers.ByteLevel) and isinstance(
        backend.pre_tokenizer, pre_tokenizers.ByteLevel
    ):
        own.pre_tokenizer = backend.pre_tokenizer


def _settings(files: CheckpointFiles) -> Mapping[str, Any]:
    place = files.directory / TOKENIZER_CONFIG
    found = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    return found if isinstance(found, dict) else {}


def _own_words(own: Tokenizer) -> str:
    """Return a text of words that the vocabulary has, from all of it."""
    words = [piece for piece in sorted(own.get_vocab()) if piece.isascii() and piece.isalpha()]
    return " ".join(words[:: max(1, len(words) // _MOST_WORDS)][:_MOST_WORDS])


def _where_they_part(one: Sequence[int], other: Sequence[int]) -> tuple[str, str]:
    """Return some ids of both, from a little before the first that differs."""
    pairs = zip(one, other, strict=False)
    alike = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    start = max(0, alike - 2)
    return _shown(one, start), _shown(other, start)


def _shown(ids: Sequence[int], start: int) -> str:
    before = "..., " if start else ""
    after = ", ..." if len(ids) > start + _MOST_SHOWN else ""
    return before + ", ".join(map(str, ids[start : start + _MOST_SHOWN])) + after
