"""What the files of a text checkpoint say about lengths and padding, read without torch.

A number of tokens that makes no sense, or padding that a model cannot be read with, is refused here
by the file and the key that say so, by `compress validate` as by a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import EnvironmentMismatch
from compressor.models.checkpoint_files import CheckpointFiles
from compressor.models.families import family_of
from compressor.models.families.prunable import first_position
from compressor.models.vocabulary_files import TOKENIZER
from compressor.tasks import NO_LIMIT
from compressor.words import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
# Classes of transformers that pad with nothing where no file names a token; others have their own.
_NAMES_NO_PAD = frozenset(
    name + form
    for name in ("PreTrainedTokenizer", "TokenizersBackend", "GPT2Tokenizer", "LlamaTokenizer")
    for form in ("", "Fast")
)
_OWN_CLASS = "qwen"  # of these model types transformers takes no other class, which has a token
# Tokens of a text up to which an artifact reads what its checkpoint does without being told: the
# attention weights of one layer with 12 heads take 3.2 GB there.
MOST_UNASKED = 8192
_SIDES = ("left", "right")


def tokenizer_limit(place: Path, value: object, *, least: int = 1) -> int | None:
    """Return `model_max_length` as a whole number; None where it sets no limit.

    Raises `EnvironmentMismatch` for what is no number of tokens that leaves room for a text.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value >= NO_LIMIT:  # what transformers writes for no limit is 1e30
            return None
        if value == int(value) and value >= least:
            return int(value)
    raise EnvironmentMismatch(
        f"{place}: model_max_length is {json.dumps(value)}; it must be a whole number of tokens, "
        f"{least} or more: write how many the model reads, or remove it, and then config.json says"
    )


def positions_limit(place: Path, value: object) -> int | None:
    """Return `max_position_embeddings` as a whole number; None where it sets no limit.

    XLNet's is -1, for none. Raises `EnvironmentMismatch` for what is no number of positions.
    """
    if value is None or (type(value) is int and (value == -1 or value >= NO_LIMIT)):
        return None
    if type(value) is not int or value < 1:
        raise EnvironmentMismatch(
            f"{place}: max_position_embeddings is {json.dumps(value)}; it must be a whole number, "
            f"1 or more, or -1 for a model without a limit"
        )
    return value


def check_text_files(
    files: CheckpointFiles,
    *,
    max_length: int | None,
    pooling: str | None,
    is_teacher: bool = False,
    tokens_read: int | None = None,
) -> int | None:
    """Return how many tokens a checkpoint's files allow at most; None where they do not say.

    A model of a family that is not known may read a few less. `max_length` is what the
    artifact is to read at most where the recipe says so, `pooling` that of a sentence encoder. What
    a teacher gives for a text may depend on its batch, and is no score. `tokens_read` is what
    another file says in place of the tokenizer's own limit.

    Raises `EnvironmentMismatch` for limits and padding that cannot be right.
    """
    config, place = files.config, files.directory / "config.json"
    settings = _read(files.directory / TOKENIZER_CONFIG)
    if settings is None:
        return None
    own = tokenizer_limit(files.directory / TOKENIZER_CONFIG, settings.get("model_max_length"))
    own = own if tokens_read is None else tokens_read
    positions = positions_limit(place, config.get("max_position_embeddings"))
    if positions is not None:
        positions = max(1, positions - first_position(config))  # loading refuses one without room
    limit = min((found for found in (own, positions) if found is not None), default=None)
    _check_side(files, settings, pooling)
    if _surely_without_pad(files, settings):
        raise no_pad_token(files)
    if not is_teacher:
        check_family(files)
    check_attention(files, min(limit or NO_LIMIT, max_length or NO_LIMIT))
    return limit


def check_family(files: CheckpointFiles) -> None:
    """Raise `EnvironmentMismatch` for a family of which no artifact can be right.

    That is where outputs depend on how far a text is padded, and where no graph computes them.
    """
    kind = files.config.get("model_type")
    family = family_of(kind)
    if not family.has_own_ways(files.config):
        return
    if (reason := family.not_exported) is not None:
        raise EnvironmentMismatch(f"{files.name}: {not_exported(kind, reason)}")
    if (reason := family.reads_padding) is not None:
        raise EnvironmentMismatch(
            f"{files.name}: models of type '{kind}' {reason}, so a prediction depends on how far a "
            f"text is padded in its batch; use an architecture whose mask keeps padding out"
        )


def not_exported(kind: object, reason: str) -> str:
    """Return that models of a type cannot be exported, and what to do."""
    return (
        f"models of type '{kind}' {reason}, so no ONNX file gives their predictions for texts of "
        f"any length; use an architecture that exports, such as BERT, RoBERTa or ModernBERT"
    )


def no_pad_token(files: CheckpointFiles) -> EnvironmentMismatch:
    """Return that a tokenizer cannot pad, and what to do."""
    return EnvironmentMismatch(
        f"{files.directory / TOKENIZER_CONFIG}: names no pad_token, so texts of different "
        f"length cannot be read together; name one of the vocabulary, and set pad_token_id in "
        f"config.json to its id"
    )


def require_vocabulary(files: CheckpointFiles, largest: int, rows: int) -> None:
    """Raise `EnvironmentMismatch` unless the largest id of a tokenizer has a row in the table."""
    if not 0 <= largest < rows:
        raise EnvironmentMismatch(
            f"{files.name}: the tokenizer's largest id is {largest}, the embedding table has "
            f"{counted(rows, 'row')}; the tokenizer belongs to another checkpoint"
        )


def full_attention(config: Mapping[str, object]) -> int | None:
    """Return how many tokens see each other whatever was read before; None for any number."""
    family = family_of(config.get("model_type"))
    if not family.is_block_sparse or config.get("attention_type", "block_sparse") != "block_sparse":
        return None
    size, random = config.get("block_size", 64), config.get("num_random_blocks", 3)
    return (5 + 2 * random) * size if type(size) is int and type(random) is int else 0


def check_attention(files: CheckpointFiles, max_length: int) -> None:
    """Raise `EnvironmentMismatch` where attention is another for some of the texts that are read.

    `max_length` is the most tokens that are read of one.
    """
    full = full_attention(files.config)
    if full is not None and max_length > full:
        raise EnvironmentMismatch(
            f"{files.name}: its attention is block_sparse, which it uses for texts of more than "
            f"{full} tokens only, and not at all once it has read a shorter one, so predictions "
            f"depend on what was read before; set export.max_length to {full} or less, or "
            f"attention_type in {files.directory / 'config.json'} to original_full"
        )


def keep_settings_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take cutting and padding out of what becomes `tokenizer.json`, in place.

    transformers leaves there what was used last, or what the checkpoint's author used: a cut at 128
    tokens, padding to 512. It does not read it, and everything else that reads that file does. The
    sides, which transformers keeps nowhere else, go to `tokenizer_config.json`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    for side in ("padding_side", "truncation_side"):
        tokenizer.init_kwargs[side] = getattr(tokenizer, side)
    backend.no_truncation()
    backend.no_padding()


def _check_side(
    files: CheckpointFiles, settings: Mapping[str, object], pooling: str | None
) -> None:
    place, side = files.directory / TOKENIZER_CONFIG, settings.get("padding_side", "right")
    if side not in _SIDES:
        raise EnvironmentMismatch(
            f"{place}: padding_side is {json.dumps(side)}; allowed are {' and '.join(_SIDES)}"
        )
    if side == "left" and "cls" in (pooling or "").split("+"):
        raise EnvironmentMismatch(
            f"{place}: padding_side is left, and the vector of a text is the state of its first "
            f"token, which is padding then; set padding_side to right"
        )


def _surely_without_pad(files: CheckpointFiles, settings: Mapping[str, object]) -> bool:
    """Return whether no file names a token to pad with, and transformers would take none.

    False where only loading the tokenizer can tell.
    """
    named = _read(files.directory / SPECIAL_TOKENS) or {}
    if settings.get("pad_token") or named.get("pad_token"):
        return False
    if "pad_token" in settings:
        return True
    is_own = str(files.config.get("model_type")).startswith(_OWN_CLASS)
    if is_own or (kind := settings.get("tokenizer_class")) not in _NAMES_NO_PAD:
        return False
    if str(kind).startswith("GPT2"):  # what tokenizer.json pads with is not asked
        return True
    written = _read(files.directory / TOKENIZER)
    return written is not None and not written.get("padding")


def _read(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None when there is none, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # loading the tokenizer says what is wrong with it
    return content if isinstance(content, dict) else None
