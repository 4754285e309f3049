"""The work of `trim_vocabulary`; apart from its settings because it needs torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Encoding, Tokenizer

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.scripts import characters_of, written_in
from compressor.models.torch_model import TorchModel
from compressor.passes.base import Ahead, NothingToRemove, PassContext
from compressor.passes.trim_vocabulary.cut import (
    named_ids,
    table_of,
    trim_vocabulary,
    vocabulary_of,
)
from compressor.passes.trim_vocabulary.vocabulary import Vocabulary
from compressor.progress import SILENT, Progress
from compressor.tasks import texts_of
from compressor.words import counted

if TYPE_CHECKING:
    from compressor.passes.trim_vocabulary.settings import TrimVocabulary

_MOST_HELD_OUT = 2000
_TEXTS_AT_ONCE = 1024
_MOST_SHOWN = 12  # tokens of a word that is split otherwise


def look_ahead(settings: TrimVocabulary, model: TorchModel, ahead: Ahead) -> TorchModel:
    """Look for a tokenizer that can be trimmed as the settings ask, and for enough texts."""
    table_of(model.module)
    vocabulary = vocabulary_of(model.preprocessor)
    _require_unknown(settings, vocabulary)
    if settings.drop == "unreachable":
        vocabulary.unreachable()
    elif settings.drop == "unused":
        _check_texts(vocabulary.tokenizer, settings, ahead)
    return model


def apply(settings: TrimVocabulary, model: TorchModel, context: PassContext) -> TorchModel:
    """Return the model with its new tokenizer; the module is changed in place.

    Raises `StepFailed` before anything changes when the tokenizer is of no kind that can be
    trimmed (`UnsupportedTokenizer`) or, for `unreachable`, of none where something can be proven, a
    pattern matches nothing, there are too few texts, or no piece would be dropped.
    """
    vocabulary = vocabulary_of(model.preprocessor)
    _require_unknown(settings, vocabulary)
    all_ids = set(vocabulary.tokenizer.get_vocab().values())
    wanted = _matching(settings.keep, vocabulary) | (named_ids(model.module.config) & all_ids)
    wanted |= vocabulary.indispensable()
    if settings.drop == "unreachable":
        return _trim_to(
            model,
            vocabulary.closed((all_ids - vocabulary.unreachable()) | wanted),
            context,
            all_stay="texts can lead to all {} pieces, so there is nothing to trim; take drop: "
            "unused, or remove this pass",
            why="; no text leads to one of the others, so the tokens of every text stay the same",
        )
    wanted |= {index for index in all_ids if index < settings.keep_first}
    for text in model.task.fixed_texts(model.preprocessor):
        wanted |= set(vocabulary.tokenizer.encode(text, add_special_tokens=False).ids)
    if settings.drop == "other_scripts":
        scripts = ", ".join(settings.keep_scripts)
        return _trim_to(
            model,
            vocabulary.closed(wanted | _written_in(settings, vocabulary, vocabulary.ids.values())),
            context,
            all_stay="all {} pieces are of " + scripts + " or of no script, so there is nothing to "
            "trim; take drop: unused, or remove this pass",
            why=f": those of {scripts}, those of no script, and what they are made of",
        )
    return _trim_unused(settings, model, context, vocabulary, wanted)


def _trim_unused(
    settings: TrimVocabulary,
    model: TorchModel,
    context: PassContext,
    vocabulary: Vocabulary,
    wanted: set[int],
) -> TorchModel:
    """Leave `wanted`, what pieces fall back to, and what the texts to count contain."""
    to_count, held_out = _texts(settings, context.splits, context.seed)
    needed = vocabulary.closed(wanted | _written_in(settings, vocabulary, vocabulary.characters()))
    stay = vocabulary.closed(
        needed | _pieces_in(to_count, vocabulary.tokenizer, settings, context.progress)
    )
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
    after = vocabulary_of(trimmed.preprocessor)
    _report_changes(vocabulary, after, stay, held_out, context)
    return trimmed


def _written_in(settings: TrimVocabulary, vocabulary: Vocabulary, ids: Iterable[int]) -> set[int]:
    """Return those of `ids` that `keep_scripts` lets stay: all where it names no script."""
    if not settings.keep_scripts:
        return set(ids)
    # What a character becomes may be of another script: the sign for micro is none's, and Unicode's
    # compatibility forms make it a Greek letter.
    made = vocabulary.normalized(characters_of(settings.keep_scripts))
    chosen, fits = set(ids), written_in(settings.keep_scripts, also=made)
    return {
        index
        for piece, index in vocabulary.ids.items()
        if index in chosen and ((text := vocabulary.text_of(piece)) is None or fits(text))
    }


def _require_unknown(settings: TrimVocabulary, vocabulary: Vocabulary) -> None:
    """Raise `StepFailed` where characters of other scripts go and nothing would stand for them."""
    if settings.keep_scripts and not vocabulary.can_lose_characters():
        raise StepFailed(
            "keep_scripts lets characters of other scripts go, and this tokenizer has neither a "
            "token for unknown ones nor bytes, so that it would leave them out of a text or could "
            "not read it; remove keep_scripts, and take drop: unused"
        )


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
    rows = table_of(model.module).num_embeddings
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
    # Behind a prompt, or given word by word, the first word of a text does not stand at the front.
    tells_beginnings = tokenizer.encode("a").tokens != tokenizer.encode(" a").tokens
    with progress.bar("counting pieces", len(texts)) as advance:
        for chunk in _chunks(texts):
            read = [*chunk, *_first_words(chunk)] if tells_beginnings else chunk
            for encoding in tokenizer.encode_batch(read, add_special_tokens=False):
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


def _first_words(texts: Sequence[str]) -> list[str]:
    """Return the first word of each text, behind a space."""
    return [f" {word}" for text in texts for word in text.split(maxsplit=1)[:1]]


def _matching(patterns: Sequence[str], vocabulary: Vocabulary) -> set[int]:
    pieces, found = vocabulary.tokenizer.get_vocab(), set[int]()
    for position, pattern in enumerate(patterns):
        own = {index for piece, index in pieces.items() if fnmatchcase(piece, pattern)}
        if not own:
            raise StepFailed(
                f"keep[{position}]: '{pattern}' matches none of the {len(pieces):,} pieces; "
                f"{vocabulary.written}, [ is written [[]"
            )
        found |= own
    return found


def _report_changes(
    before: Vocabulary,
    after: Vocabulary,
    stay: set[int],
    texts: Sequence[str],
    context: PassContext,
) -> None:
    """Note for how many texts the tokens change, and record it.

    Raises `StepFailed` where they do although all of them stayed: this tokenizer then splits in a
    way that is not the one of its kind.
    """
    changed, example, lengths, unknown = 0, "", [0, 0], 0
    # By their ids: the token of an unknown character reads like the piece that it was.
    old_ids = dict(enumerate(sorted(stay)))
    for chunk in _chunks(texts):
        pairs = zip(
            chunk,
            before.tokenizer.encode_batch(chunk, add_special_tokens=False),
            after.tokenizer.encode_batch(chunk, add_special_tokens=False),
            strict=True,
        )
        for text, old, new in pairs:
            lengths[0] += len(old.tokens)
            lengths[1] += len(new.tokens)
            if old.ids == [old_ids[index] for index in new.ids]:
                continue
            if stay.issuperset(old.ids):
                raise StepFailed(
                    f"the trimmed tokenizer splits {text!r} in another way although all pieces of "
                    f"it stay ({_first_difference(old, new)}); take drop: unreachable, or remove "
                    f"this pass"
                )
            changed += 1
            example = example or _first_difference(old, new)
            unknown += _unknown_in(new, after) > _unknown_in(old, before)
    longer = lengths[1] / max(lengths[0], 1) - 1
    facts = {"texts": len(texts), "changed": changed, "more_tokens": round(longer, 6)}
    if unknown:
        facts["unknown"] = unknown
    context.record("changed_tokens", facts)
    shown = f", for example {example}" if example else ""
    lost = f"; {counted(unknown, 'text')} of them with more unknown characters" if unknown else ""
    context.note(
        f"of {len(texts):,} texts that were not counted, the tokens of {changed:,} change "
        f"({changed / len(texts):.1%}{shown}); they are {longer:.1%} longer in all{lost}"
    )


def _unknown_in(encoding: Encoding, vocabulary: Vocabulary) -> int:
    unknown = vocabulary.unknown()
    return 0 if unknown is None else encoding.ids.count(vocabulary.ids[unknown])


def _first_difference(old: Encoding, new: Encoding) -> str:
    """Return the first word that is split in another way, as `before -> after`.

    Of a long one, as a text is to a tokenizer that does not split at spaces, where it differs.
    """
    one, other = _words(old), _words(new)
    word = next((word for word in one if one[word] != other.get(word)), None)
    if word is None and None not in one:  # the same characters, which are unknown now
        return "a character that is unknown now"
    before, after = one[word], other.get(word, [])
    while max(len(before), len(after)) > _MOST_SHOWN and before[:1] == after[:1]:
        before, after = before[1:], after[1:]
    while max(len(before), len(after)) > _MOST_SHOWN and before[-1:] == after[-1:]:
        before, after = before[:-1], after[:-1]
    return f"'{' '.join(before[:_MOST_SHOWN])}' -> '{' '.join(after[:_MOST_SHOWN])}'"


def _words(encoding: Encoding) -> dict[int | None, list[str]]:
    """Return the pieces of each word, by its position in the text."""
    words: dict[int | None, list[str]] = {}
    for word, piece in zip(encoding.word_ids, encoding.tokens, strict=True):
        words.setdefault(word, []).append(piece)
    return words
