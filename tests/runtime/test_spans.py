from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from byte_level import byte_level_tokenizer
from conftest import TINY, word_piece_tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from compressor.runtime.pieces import encode_documents
from compressor.runtime.spans import AGGREGATIONS, Span, kinds_of_words, spans_of
from compressor.runtime.tags import read_tags
from compressor.tasks import load_task
from compressor.tasks.examples import Words

IOB2 = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = [
    "The films, the unlovely films!",
    "it is Good; and UNGOODLY bad-ish films",
    "naïve 🙂 film's  two  spaces\tand a\nline",
    "Ünlovely ﬁlms and ½ of İt's 東京 plot",
    "the [SEP] film [UNK] good",
    "x",
    ",,,",
]


def unigram_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer like XLM-RoBERTa's, whose pieces are not marked inside a word."""
    tokenizer = word_piece_tokenizer()
    backend = tokenizer.backend_tokenizer
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁", "▁film", "▁the", "s", "▁good"]
    letters = sorted({letter for text in TEXTS for letter in text if letter.isascii()} - set("s "))
    scored = [(piece, -1.0 - at / 50) for at, piece in enumerate([*pieces, *letters])]
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.model = models.Unigram(scored, unk_id=1)
    backend.decoder = decoders.Metaspace()
    return tokenizer


def tagger(tokenizer: Any, labels: Sequence[str]) -> Any:
    """Return a random tagger whose tags differ from token to token."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        **TINY,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    module: Any = transformers.BertForTokenClassification(config).eval()
    for part in (module.classifier, module.bert.embeddings.word_embeddings):
        torch.nn.init.normal_(part.weight, std=0.7)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        usual = module(**inputs).logits.mean(dim=(0, 1))
        module.classifier.bias -= usual  # else one tag wins everywhere
    return module


def logits_of(module: Any, batch: Any) -> Any:
    inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
    with torch.inference_mode():
        return module(**inputs).logits.numpy()


def ours(module: Any, tokenizer: Any, labels: Sequence[str], strategy: str, texts: Any) -> Any:
    task = load_task("token-classification").for_labels(labels).aggregated(strategy)
    batch = task.encode(tokenizer, task.given(texts))
    return task.predictions(task.collect([logits_of(module, batch)], [batch]), labels)


def theirs(module: Any, tokenizer: Any, strategy: str, texts: Any, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that pieces of a word are told by spaces
        tag: Any = transformers.pipeline(
            "token-classification", model=module, tokenizer=tokenizer, device="cpu"
        )
        return [tag(text, aggregation_strategy=strategy, **settings) for text in texts]


def assert_same(found: Sequence[Span], expected: Sequence[Any]) -> None:
    scores = [item["score"] for item in found]
    assert scores == pytest.approx([float(item["score"]) for item in expected], abs=1e-5)
    without = [{**item, "score": 0} for item in found]
    assert without == [{**item, "score": 0} for item in expected]


@pytest.mark.parametrize("strategy", AGGREGATIONS)
@pytest.mark.parametrize("labels", [IOB2, ("O", "I-PER", "I-LOC"), ("NOUN", "VERB", "DET")])
@pytest.mark.parametrize(
    "tokenizer",
    [
        word_piece_tokenizer(),
        byte_level_tokenizer(),
        byte_level_tokenizer(add_prefix_space=True),
        unigram_tokenizer(),
    ],
    ids=["word-piece", "byte-level", "byte-level with a space in front", "unigram"],
)
def test_spans_are_those_of_the_pipeline_of_transformers(
    strategy: str, labels: Sequence[str], tokenizer: Any
):
    module = tagger(tokenizer, labels)
    found = ours(module, tokenizer, labels, strategy, TEXTS)
    expected = theirs(module, tokenizer, strategy, TEXTS)
    assert sum(map(len, expected)) > 10
    for own, other in zip(found, expected, strict=True):
        assert_same(own, other)


@pytest.mark.parametrize("strategy", AGGREGATIONS)
def test_spans_of_words_are_those_of_the_pipeline_of_transformers(strategy: str):
    tokenizer = word_piece_tokenizer()
    module = tagger(tokenizer, IOB2)
    documents = [["The", "films", ",", "unlovely", "ones"], ["it", "goods", "bad"], ["films"]]
    found = ours(module, tokenizer, IOB2, strategy, documents)
    for own, words in zip(found, documents, strict=True):
        expected = theirs(module, tokenizer, strategy, [words], is_split_into_words=True)
        assert_same(own, expected[0][0])


def given(text: Any, tags: Sequence[str], labels: Sequence[str], strategy: Any) -> list[Span]:
    """Return the spans of a text whose tokens surely have these tags."""
    (document,) = encode_documents(word_piece_tokenizer(), [text], None).documents
    logits = np.full((len(document), len(labels)), -5.0, dtype=np.float32)
    for row, tag in enumerate(tags):
        logits[row, labels.index(tag)] = 5.0
    return spans_of(document, logits, read_tags(labels), strategy)


@pytest.mark.parametrize("spelling", ["{0}-{1}", "{0}_{1}", "{1}-{0}"])
@pytest.mark.parametrize("letters", ["BIES", "BILU", "BMES", "BIIS"])
def test_tags_of_other_schemes_and_spellings_are_joined_to_one_span(letters: str, spelling: str):
    begin, inside, end, single = letters
    once = dict.fromkeys(letters)
    labels = ["O", *(spelling.format(item, kind) for kind in ("PER", "LOC") for item in once)]
    tags = [spelling.format(letter, "PER") for letter in (begin, inside, end, single)]
    tags.append(spelling.format(single, "LOC"))
    found = given("a film is good bad", tags, labels, "simple")
    assert [(item["entity_group"], item["word"]) for item in found] == [
        ("PER", "a film is"), ("PER", "good"), ("LOC", "bad"),
    ]  # fmt: skip


def test_a_plain_tag_keeps_its_dashes():
    found = given("a film", ["E-MAIL", "PHONE"], ["O", "E-MAIL", "PHONE"], "first")
    assert [item["entity_group"] for item in found] == ["E-MAIL", "PHONE"]


def test_words_that_were_given_are_words_whatever_they_look_like():
    found = given(Words(("film's", "bad")), ["B-PER", "O", "O", "I-PER"], IOB2, "first")
    assert [(item["start"], item["end"]) for item in found] == [(0, 10)]


def test_spans_of_words_in_a_report_are_those_of_the_artifact():
    random = np.random.default_rng(0)
    words = ("films", "\u200b", "it", "unlovely", "good", "the", "ing")
    (document,) = encode_documents(word_piece_tokenizer(), [Words(words)], None).documents
    tags = read_tags(IOB2)
    for _ in range(50):
        labels = random.integers(len(IOB2), size=len(words))
        logits = np.zeros((len(document), len(IOB2)), dtype=np.float32)
        for word, token in enumerate(document.first_pieces.tolist()):
            if token >= 0:
                logits[token, labels[word]] = 1.0
        labels[document.first_pieces < 0] = -1
        spans = spans_of(document, logits, tags, "first")
        expected = [(item["entity_group"], item["start"], item["end"]) for item in spans]
        assert kinds_of_words(words, labels.tolist(), tags) == expected


def test_a_document_without_tokens_has_no_spans():
    assert given(Words(("\u200b",)), [], IOB2, "simple") == []


@pytest.mark.parametrize(
    ("tag", "expected"), [("B-", (False, "B-")), ("O", (False, "O")), ("", (False, ""))]
)
def test_odd_tags_are_kinds_of_their_own(tag: str, expected: tuple[bool, str]):
    assert read_tags([tag]).spans[tag] == expected
