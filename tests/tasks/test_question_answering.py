"""Question answering: what a tiny random model gives, by transformers' own classes and by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import TINY, word_piece_tokenizer

from compressor.errors import EnvironmentMismatch
from compressor.measurements import Score
from compressor.models.checkpoint import find_checkpoint
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.tasks import Truth, load_task
from compressor.tasks.answers import GoldAnswer
from compressor.tasks.question_answering import Answer, SpanLogits

TASK = load_task("question-answering")
CONTEXT = "the film was lovely and the plot awful"
PAIRS = [
    ("is it good", CONTEXT),
    ("is it bad", CONTEXT),
    ("is it funny", "a very funny story"),
    ("is it good", "it is a movie"),
]
GOLD = [
    (GoldAnswer("lovely", 13), GoldAnswer("was lovely", 9)),
    (GoldAnswer("awful", 33),),
    (GoldAnswer("very funny", 2),),
    (),
]


def labels(found: list[Any] = GOLD) -> np.ndarray:
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array


def new_model(folder: Path, **options: Any) -> TorchModel:
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    config = transformers.BertConfig(
        **TINY, vocab_size=len(tokenizer), max_position_embeddings=64, **options
    )
    module = transformers.BertForQuestionAnswering(config)
    with torch.no_grad():
        module.qa_outputs.weight.mul_(5)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    return new_model(tmp_path_factory.mktemp("answers"))


def marked(spans: Mapping[int, tuple[int, int]]) -> SpanLogits:
    """Return what a model gives that is sure of the tokens `spans` of the pairs; others none."""
    batch = TASK.encode(word_piece_tokenizer(), PAIRS)
    array = np.zeros((*batch["input_ids"].shape, 2), dtype=np.float32)
    for place, row in enumerate(batch.rows):
        first, last = spans.get(place, (-1, -1))
        array[place, row.columns[first + 1], 0] = 9
        array[place, row.columns[last + 1], 1] = 9
    outputs = TASK.collect([array], [batch])
    assert isinstance(outputs, SpanLogits)
    return outputs


RIGHT = {0: (3, 3), 1: (7, 7), 2: (1, 2)}


def test_the_checkpoint_is_recognized_and_saved_as_it_was(model: TorchModel, tmp_path: Path):
    assert model.task.name == "question-answering"
    model.save(tmp_path)
    assert find_checkpoint(str(tmp_path)).infer_task() == "question-answering"
    again = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert type(again) is transformers.BertForQuestionAnswering
    saved = again.state_dict()
    assert saved.keys() == model.module.state_dict().keys()
    assert all(torch.equal(value, saved[key]) for key, value in model.module.state_dict().items())


@pytest.mark.parametrize("kind", ["Bert", "DistilBert", "Roberta"])
def test_starts_and_ends_are_those_of_transformers(kind: str, tmp_path: Path):
    torch.manual_seed(0)
    tokenizer = word_piece_tokenizer()
    sizes: dict[str, Any] = dict(TINY)
    if kind == "DistilBert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = getattr(transformers, f"{kind}Config")(
        **sizes, vocab_size=len(tokenizer), max_position_embeddings=70, pad_token_id=0
    )
    plain = getattr(transformers, f"{kind}ForQuestionAnswering")(config).eval()
    plain.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path)
    batch = model.task.encode(model.preprocessor, PAIRS)
    found = model.predict(batch)
    with torch.no_grad():
        inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
        own = plain(**inputs)
    np.testing.assert_allclose(found[..., 0], own.start_logits, atol=1e-5)
    np.testing.assert_allclose(found[..., 1], own.end_logits, atol=1e-5)


def test_the_best_answer_is_a_softmax_of_starts_times_one_of_ends(model: TorchModel):
    """Of transformers' own outputs, over the tokens of the context and that of no answer."""
    tokenizer, module = model.preprocessor, model.module
    plain = transformers.BertForQuestionAnswering(module.config).eval()
    plain.load_state_dict(module.state_dict())
    batch = model.task.encode(tokenizer, PAIRS)
    outputs = model.task.collect([model.predict(batch)], [batch])
    predicted = model.task.predictions(outputs, ())
    for (question, context), found in zip(PAIRS, predicted, strict=True):
        encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            given = plain(**encoded)
        own = [place == 0 or side == 1 for place, side in enumerate(encoded.sequence_ids(0))]
        starts, ends = (
            torch.softmax(item[0].masked_fill(~torch.tensor(own), -1e4), dim=-1)
            for item in (given.start_logits, given.end_logits)
        )
        expected = [(float(starts[0] * ends[0]), 0, 0)]
        for first in range(1, len(own)):
            for last in range(first, min(first + 15, len(own))):
                if own[first] and own[last]:
                    score = float(starts[first] * ends[last])
                    expected.append((score, offsets[first][0], offsets[last][1]))
        expected.sort(reverse=True)
        assert [(item["start"], item["end"]) for item in found] == [
            place[1:] for place in expected[:5]
        ]
        np.testing.assert_allclose(
            [item["score"] for item in found], [item[0] for item in expected[:5]], atol=1e-4
        )
        assert all(item["answer"] == context[item["start"] : item["end"]] for item in found)


def test_windows_are_put_together_whatever_the_batch(model: TorchModel):
    task = load_task("question-answering", max_length=12)
    long = [(question, f"{context} and {CONTEXT}") for question, context in PAIRS]
    together = task.encode(model.preprocessor, long)
    assert len(together["input_ids"]) > len(long)
    outputs = task.collect([model.predict(together)], [together])
    assert len(outputs) == len(long)
    for place, pair in enumerate(long):
        alone = task.encode(model.preprocessor, [pair])
        own = task.collect([model.predict(alone)], [alone])
        np.testing.assert_allclose(own.numbers, outputs.select([place]).numbers, atol=1e-5)
        [first], [second] = (task.predictions(x, ()) for x in (own, outputs.select([place])))
        assert [item["answer"] for item in first] == [item["answer"] for item in second]


def test_targets_are_the_tokens_of_the_first_answer():
    batch = TASK.encode(word_piece_tokenizer(), PAIRS)
    targets = TASK.targets(batch, labels())
    assert targets.shape == (*batch["input_ids"].shape, 2)
    ids = word_piece_tokenizer().convert_ids_to_tokens
    starts, ends = ((targets[..., place] == 1).argmax(axis=1) for place in (0, 1))
    words = [
        ids(row[start : end + 1])
        for row, start, end in zip(batch["input_ids"], starts, ends, strict=True)
    ]
    assert words == [["lovely"], ["awful"], ["very", "funny"], ["[CLS]"]]
    padding = np.repeat((batch["attention_mask"] == 0)[..., None], 2, axis=-1)
    np.testing.assert_array_equal(targets == -100, padding)
    assert ((targets == 1).sum(axis=1) == 1).all()


def test_a_window_without_the_whole_answer_has_none():
    task = load_task("question-answering", max_length=11)
    batch = task.encode(word_piece_tokenizer(), PAIRS[:1])
    gold = [(GoldAnswer("was lovely", 9),)]
    targets = task.targets(batch, labels(gold))
    starts = (targets[..., 0] == 1).argmax(axis=1)
    holds = [row.window.start <= 2 and row.window.end >= 4 for row in batch.rows]
    assert [start != 0 for start in starts] == holds
    assert set(holds) == {True, False}


def test_scores_by_hand():
    outputs = marked({0: (2, 3), 1: (3, 3), 2: (2, 2), 3: (3, 3)})
    assert outputs.answers() == ["was lovely", "lovely", "funny", "movie"]
    truth = Truth(PAIRS, labels())
    f1 = TASK.score("answer_f1", outputs, truth)
    assert f1.sums is not None
    # The first two questions are about one text.
    np.testing.assert_allclose(f1.sums, [[1, 2], [2 / 3, 1], [0, 1]])
    assert f1.value == pytest.approx(5 / 12)
    exact = TASK.score("answer_exact_match", outputs, truth)
    assert exact.sums is not None
    np.testing.assert_array_equal(exact.sums, [[1, 2], [0, 1], [0, 1]])
    assert exact.value == 0.25
    assert TASK.hits("answer_exact_match", outputs, truth, range(4)).tolist() == [1, 0, 0, 0]
    assert TASK.hits("answer_f1", outputs, truth, range(4)) is None


def test_questions_about_one_text_are_one_unit():
    found = TASK.score("answer_exact_match", marked(RIGHT), Truth(PAIRS, labels()))
    assert found.value == 1.0
    assert found.num_examples == 3
    assert found.units is not None
    assert found.units.tolist() == [0, 0, 1, 2]


def test_agreement_is_of_texts():
    before, after = marked(RIGHT), marked({**RIGHT, 1: (3, 3)})
    reference = TASK.score("answer_agreement", before, Truth(PAIRS))
    assert reference.value == 1.0
    truth = Truth(PAIRS, reference=reference)
    assert TASK.score("answer_agreement", after, truth).value == 0.75
    assert TASK.hits("answer_agreement", after, truth, range(4)).tolist() == [1, 0, 1, 1]
    assert TASK.changed(before, after).tolist() == [False, True, False, False]


def test_flips_are_answers_that_got_better_or_worse():
    truth = Truth(PAIRS, labels())
    right = TASK.score("answer_f1", marked(RIGHT), truth)
    other = TASK.score("answer_f1", marked({0: (2, 3), 1: (0, 0), 2: (2, 2)}), truth)
    flips = TASK.flips(right, other, truth, ())
    assert [(item.position, item.before, item.after, item.label, item.kind) for item in flips] == [
        (1, "awful", "the", "awful", "lost"),
        (2, "very funny", "funny", "very funny", "lost"),
    ]
    assert [item.lost for item in flips] == pytest.approx([1, 1 / 3])
    back = TASK.flips(other, right, truth, ())
    assert [item.kind for item in back] == ["won", "won"]
    unlabelled = TASK.flips(right, other, Truth(PAIRS), ())
    assert [item.position for item in unlabelled] == [0, 1, 2]
    assert {item.kind for item in unlabelled} == {"changed"}
    assert TASK.flips(right, TASK.score("answer_f1", marked({}), truth), truth, ())[0].after == (
        "no answer"
    )


def test_samples_are_questions_with_an_answer_and_without():
    truth = Truth(PAIRS, labels())
    score = TASK.score("answer_f1", marked(RIGHT), truth)

    def predict(examples: Any) -> list[list[Answer]]:
        return [[Answer(answer="it", start=0, end=2, score=0.5)] for _ in examples]

    found = TASK.samples(score, score, truth, (), predict, 2)
    assert {(item.before, item.after, item.label) for item in found} == {
        ("lovely", "it", "lovely / was lovely"),
        ("no answer", "it", "no answer"),
    }


def test_guesses_by_hand():
    truth = Truth(PAIRS, labels())
    score = TASK.score("answer_f1", marked(RIGHT), truth)
    found = {guess.who: guess.score.value for guess in TASK.guesses(score, truth, ())}
    assert found["a model that finds no answer to any question"] == 0.25
    # The first 4: "the film was lovely" has an F1 of 0.8, "a very funny story" too, others none.
    assert found["a model that answers with the first words of the context"] == pytest.approx(0.4)
    # The first two swap their answers; the others may draw their own.
    others = found["a model that gives the checkpoint's answers, but to others of the context"]
    assert others in (0.0, 0.25, 0.5)
    assert "a model that gives the checkpoint's answers, but to other questions" in found


def test_the_first_words_are_guessed_as_many_as_do_best():
    pairs = [("it", f"{a} {b} and it is") for a in ("good", "bad") for b in ("film", "plot")]
    gold = [(GoldAnswer(context.split(" and")[0], 0),) for _, context in pairs]
    truth = Truth(pairs, labels(gold))
    own = Score(
        "answer_exact_match",
        0.0,
        4,
        kept={"starts": np.zeros(4, dtype=np.int64), "ends": np.zeros(4, dtype=np.int64)},
    )
    found = {guess.who: guess.score.value for guess in TASK.guesses(own, truth, ())}
    assert found == {
        "a model that finds no answer to any question": 0.0,
        "a model that answers with the first words of the context": 1.0,
        "a model that gives the checkpoint's answers, but to other questions": 0.0,
    }


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ({}, "finds no answer to any question"),
        (dict.fromkeys(range(4), (1, 2)), "marks tokens 1 to 2 of every context (the first is 0)"),
        (RIGHT, None),
    ],
)
def test_what_is_always_the_same_is_said(spans: dict[int, tuple[int, int]], told: str | None):
    score = TASK.score("answer_agreement", marked(spans), Truth(PAIRS))
    assert TASK.constant(score, ()) == told


def test_rows_without_or_with_one_answer_cannot_be_scored():
    assert TASK.unscorable("answer_agreement", Truth(PAIRS)) is None
    assert "has no answers" in (TASK.unscorable("answer_f1", Truth(PAIRS)) or "")
    none = TASK.unscorable("answer_f1", Truth(PAIRS, labels([(), ()])))
    assert none is not None
    assert none.startswith("the right answer to every question is no answer, so a model")
    assert TASK.unscorable("answer_f1", Truth(PAIRS, labels())) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("is it good", "not a bare string"),
        (["is it good"], "example 0: must be a question and a context"),
        ([PAIRS[0], ("a", "b", "c")], "example 1: must be a question and a context"),
        ([{"question": "a"}], "example 0: must have the keys question and context, got question"),
        ([{"question": "a", "context": 3}], "example 0: must be a question and a context"),
        ([("a", "\ud800")], "example 0: half of a surrogate pair"),
    ],
)
def test_what_is_no_question_is_refused(value: Any, told: str):
    with pytest.raises(ValueError, match=told):
        TASK.given(value)


def test_a_head_of_three_numbers_is_refused(tmp_path: Path):
    with pytest.raises(EnvironmentMismatch, match="the head has 3 labels"):
        new_model(tmp_path, num_labels=3)


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path):
    config = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=64, num_labels=2,
    )  # fmt: skip
    transformers.BartForQuestionAnswering(config).save_pretrained(tmp_path)
    word_piece_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(EnvironmentMismatch, match="is an encoder with a decoder"):
        load_checkpoint(tmp_path)
