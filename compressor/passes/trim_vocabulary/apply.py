"""The work of `trim_vocabulary`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Encoding, Tokenizer
from torch import nn

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, NothingToRemove, PassContext
from compressor.passes.trim_vocabulary.cut import (
    pieces_that_must_stay,
    plain_tokenizer,
    trim_vocabulary,
    unreachable_pieces,
)
from compressor.progress import SILENT, Progress
from compressor.tasks import texts_of

if TYPE_CHECKING:
    from compressor.passes.trim_vocabulary.settings import TrimVocabulary

_MOST_HELD_OUT = 2000
_TEXTS_AT_ONCE = 1024


def look_ahead(settings: TrimVocabulary, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for a WordPiece tokenizer, whose words `unreachable` knows, and for enough texts."""
    tokenizer = plain_tokenizer(model.preprocessor)
    if settings.drop == "unreachable":
        unreachable_pieces(tokenizer)
    else:
        _check_texts(tokenizer, settings, ahead)
    return model


def apply(settings: TrimVocabulary, model: TorchModel, context: PassContext) -> TorchModel:
    """Return the model with its new tokenizer; the module is changed in place.

    Raises `StepFailed` before anything changes when the tokenizer is not WordPiece
    (`UnsupportedTokenizer`) or, for `unreachable`, not as BERT's, a pattern matches nothing,
    there are too few texts, or no piece would be dropped.
    """
    before = plain_tokenizer(model.preprocessor)
    wanted = _matching(settings.keep, before.get_vocab())
    if settings.drop == "unreachable":
        stay = set(before.get_vocab().values()) - unreachable_pieces(before)
        trimmed = _trim_to(
            model,
            stay | wanted,
            context,
            all_stay="texts can lead to all {} pieces, so there is nothing to trim; take drop: "
            "unused, or remove this pass",
            why="; no text leads to one of the others, so the tokens of every text stay the same",
        )
    else:
        to_count, held_out = _texts(settings, context.splits, context.seed)
        needed = pieces_that_must_stay(before) | wanted
        for text in model.task.fixed_texts(model.preprocessor):
            needed |= set(before.encode(text, add_special_tokens=False).ids)
        needed |= {index for index in before.get_vocab().values() if index < settings.keep_first}
        stay = needed | _pieces_in(to_count, before, settings, context.progress)
        # Where the others alone are all there are, no number of occurrences changes that.
        is_counted = len(needed) < len(stay)
        remedy = f"raise min_count (it is {settings.min_count}), or remove this pass"
        if settings.keep_first:
            remedy = f"lower keep_first (it is {settings.keep_first}), {remedy}"
        trimmed = _trim_to(
            model,
            stay,
            context,
            all_stay="all {} pieces are in use, so there is nothing to trim; " + remedy
            if is_counted
            else "lower keep_first, or remove this pass: all {} pieces stay"
            if settings.keep_first
            else "all {} pieces have to stay, however often they occur: special tokens, single "
            "characters, and pieces with characters that are no pieces; remove this pass",
            why=f", counted in {len(to_count):,} texts",
        )
        _report_changes(before, plain_tokenizer(trimmed.preprocessor), held_out, context)
    return trimmed


def _check_texts(tokenizer: Tokenizer, settings: TrimVocabulary, ahead: Ahead) -> None:
    """Raise `StepFailed` where there are too few texts, or none of their pieces counts as in use.

    With a `min_count` of 1 every piece counts that occurs, so that nothing has to be counted.
    """
    to_count, _ = _texts(settings, ahead.splits, ahead.seed)
    if settings.min_count > 1:
        _pieces_in(to_count, tokenizer, settings, SILENT)


def _trim_to(
    model: TorchModel, stay: set[int], context: PassContext, *, all_stay: str, why: str
) -> TorchModel:
    """Cut the vocabulary down to `stay` and note `why`; `all_stay` is the error if nothing goes."""
    table = model.module.get_input_embeddings()
    assert isinstance(table, nn.Embedding), "it has a row for each piece"
    rows = table.num_embeddings
    if len(stay) == rows:
        raise NothingToRemove(all_stay.format(f"{rows:,}"))
    trimmed = trim_vocabulary(model, sorted(stay))
    context.note(f"{len(stay):,} of {rows:,} pieces stay ({len(stay) / rows:.1%}){why}")
    return trimmed


def _pieces_in(
    texts: Sequence[str], tokenizer: Tokenizer, settings: TrimVocabulary, progress: Progress
) -> set[int]:
    """Return the pieces that occur in `texts` as often as `min_count` asks.

    Raises `StepFailed` when none does: what is in use cannot be told from what is not.
    """
    counts: Counter[int] = Counter()
    with progress.bar("counting pieces", len(texts)) as advance:
        for chunk in _chunks(texts):
            for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
                counts.update(encoding.ids)
            advance(len(chunk))
    most = max(counts.values(), default=0)
    if most < settings.min_count:
        raise StepFailed(
            f"min_count: no piece occurs {settings.min_count:,} times in {len(texts):,} texts, the "
            f"most frequent {most:,} times, so none would count as in use; lower it"
        )
    return {index for index, count in counts.items() if count >= settings.min_count}


def _texts(
    settings: TrimVocabulary, splits: Mapping[str, Dataset], seed: int
) -> tuple[list[str], list[str]]:
    """Return the texts to count, and those that are held out, one each at least.

    A pair of texts is two.
    """
    examples = [example for name in settings.count_in for example in splits[name].examples]
    if len(examples) < 2:
        raise StepFailed(f"count_in: {settings.too_few_texts(len(examples))}")
    number = min(_MOST_HELD_OUT, round(settings.held_out * len(examples)))
    number = min(max(1, number), len(examples) - 1)
    order = np.random.default_rng(seed).permutation(len(examples))
    held_out = set(order[:number].tolist())
    parts: tuple[list[str], list[str]] = ([], [])
    for position, example in enumerate(examples):
        parts[position in held_out].extend(texts_of(example))
    return parts


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        yield list(texts[start : start + _TEXTS_AT_ONCE])


def _matching(patterns: Sequence[str], vocabulary: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for position, pattern in enumerate(patterns):
        own = {index for piece, index in vocabulary.items() if fnmatchcase(piece, pattern)}
        if not own:
            raise StepFailed(
                f"keep[{position}]: '{pattern}' matches none of the {len(vocabulary):,} pieces; "
                f"pieces inside a word begin with ##, [ is written [[]"
            )
        found |= own
    return found


def _report_changes(
    before: Tokenizer, after: Tokenizer, texts: Sequence[str], context: PassContext
) -> None:
    changed, example, lengths = 0, "", [0, 0]
    for chunk in _chunks(texts):
        pairs = zip(
            before.encode_batch(chunk, add_special_tokens=False),
            after.encode_batch(chunk, add_special_tokens=False),
            strict=True,
        )
        for old, new in pairs:
            lengths[0] += len(old.tokens)
            lengths[1] += len(new.tokens)
            if old.tokens != new.tokens:
                changed += 1
                example = example or _first_difference(old, new)
    longer = lengths[1] / max(lengths[0], 1) - 1
    context.record(
        "changed_tokens",
        {"texts": len(texts), "changed": changed, "more_tokens": round(longer, 6)},
    )
    shown = f", for example {example}" if example else ""
    context.note(
        f"of {len(texts):,} texts that were not counted, the tokens of {changed:,} change "
        f"({changed / len(texts):.1%}{shown}); they are {longer:.1%} longer in all"
    )


def _first_difference(old: Encoding, new: Encoding) -> str:
    """Return the first word that is split in another way, as `before -> after`."""
    one, other = _words(old), _words(new)
    word = next(word for word in one if one[word] != other[word])
    return f"'{' '.join(one[word])}' -> '{' '.join(other[word])}'"


def _words(encoding: Encoding) -> dict[int | None, list[str]]:
    """Return the pieces of each word, by its position in the text."""
    words: dict[int | None, list[str]] = {}
    for word, piece in zip(encoding.word_ids, encoding.tokens, strict=True):
        words.setdefault(word, []).append(piece)
    return words
