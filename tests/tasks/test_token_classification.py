from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import word_piece_tokenizer
from numpy.typing import NDArray
from scipy.stats import beta
from tokenizers import Tokenizer, models, pre_tokenizers

from compressor.measurements import Score
from compressor.starter.provable import INT8_COST, Judged, look_forward
from compressor.tasks import UNLABELLED, Truth, load_task
from compressor.tasks.examples import Words
from compressor.tasks.head import HeadProblem
from compressor.tasks.losses import TokenLosses
from compressor.tasks.token_classification import TokenClassification
from compressor.tasks.word_tags import TokenLogits

LABELS = ("I-PER", "O", "B-PER", "B-LOC", "I-LOC")
TOKENIZER = word_piece_tokenizer()
DOCUMENTS = (
    Words(("the", "films", "unlovely", "good")),
    Words(("it", "\u200b", "bad")),
    Words(("a", "film")),
)
TRUE = (("B-PER", "I-PER", "O", "B-LOC"), ("B-LOC", "O", "O"), ("O", "O"))
TASK = TokenClassification().for_labels(LABELS)


def ids(*documents: Sequence[str]) -> NDArray[Any]:
    found = np.empty(len(documents), dtype=object)
    for row, tags in enumerate(documents):
        found[row] = np.array([LABELS.index(tag) for tag in tags])
    return found


def outputs(*documents: Sequence[str], task: TokenClassification = TASK) -> TokenLogits:
    """Return what a model gives that tags the words of `DOCUMENTS` so, and later pieces wrongly."""
    batch = task.encode(TOKENIZER, DOCUMENTS[: len(documents)])
    array = np.zeros((*batch["input_ids"].shape, len(LABELS)), dtype=np.float32)
    array[:, :, 0] = 1.0
    for row in batch.rows:
        first = batch.documents[row.document].first_pieces
        for word, tag in enumerate(documents[row.document]):
            if row.window.start <= first[word] < row.window.end:
                column = row.column + first[word] - row.window.start
                array[row.document, column, LABELS.index(tag)] = 3.0
    return task.collect([array], [batch])


TRUTH = Truth(DOCUMENTS, ids(*TRUE))


def score(metric: str, *documents: Sequence[str], reference: Score | None = None) -> Score:
    truth = Truth(DOCUMENTS, ids(*TRUE), reference=reference)
    return TASK.score(metric, outputs(*documents), truth)


WRONG = (("B-PER", "O", "B-LOC", "B-LOC"), ("B-LOC", "O", "O"), ("O", "B-PER"))


def test_entities_are_right_where_their_words_and_kind_are():
    # Labelled: PER 0-2, LOC 3-4; LOC 0-1; none. Found: PER 0-1, LOC 2-3, LOC 3-4; LOC 0-1; PER 1-2.
    found = score("entity_f1", *WRONG)
    assert found.value == pytest.approx(2 * 2 / (5 + 3))
    assert found.sums is not None
    assert found.sums.tolist() == [[1, 3, 2], [1, 1, 1], [0, 1, 0]]
    assert score("entity_precision", *WRONG).value == pytest.approx(2 / 5)
    assert score("entity_recall", *WRONG).value == pytest.approx(2 / 3)
    # LOC: 2 of 3 found, 2 labelled: 0.8; PER: none of 2 found is right.
    assert score("entity_f1_macro", *WRONG).value == pytest.approx(0.4)


def test_a_word_without_a_token_gets_no_tag_and_shifts_none():
    found = score("token_accuracy", *TRUE)
    assert outputs(*TRUE).tags[1].tolist() == [LABELS.index("B-LOC"), -1, LABELS.index("O")]
    assert found.value == pytest.approx(8 / 9)  # the word that gives no token is labelled O
    assert score("entity_f1", *TRUE).value == 1.0


def test_agreement_is_that_of_documents_and_of_entities_alone():
    reference = score("agreement", *TRUE)
    assert reference.value == 1.0
    assert score("agreement", *WRONG, reference=reference).value == pytest.approx(1 / 3)
    # A tag that begins no entity makes none: the second document stays as it was.
    stray = (TRUE[0], ("B-LOC", "O", "I-PER"), TRUE[2])
    assert score("agreement", *stray, reference=reference).value == 1.0
    assert TASK.changed(outputs(*TRUE), outputs(*WRONG)).tolist() == [True, False, True]
    truth = Truth(DOCUMENTS, None, reference=reference)
    assert TASK.hits("agreement", outputs(*WRONG), truth, [0, 1, 2]) is not None


def test_flips_say_what_came_and_went_in_words():
    flips = TASK.flips(score("entity_f1", *TRUE), score("entity_f1", *WRONG), TRUTH, LABELS)
    assert [(item.position, item.kind, item.before, item.after) for item in flips] == [
        (0, "lost", "PER the films", "PER the; LOC unlovely"),
        (2, "lost", "no entity", "PER film"),
    ]
    assert flips[0].label == "PER the films"
    assert [item.lost for item in flips] == [3.0, 1.0]
    back = TASK.flips(score("entity_f1", *WRONG), score("entity_f1", *TRUE), TRUTH, LABELS)
    assert [item.kind for item in back] == ["won", "won"]


def test_documents_that_are_as_wrong_as_before_are_no_flips_unless_without_labels():
    first = (TRUE[0], ("O", "O", "B-PER"), TRUE[2])
    second = (TRUE[0], ("B-PER", "O", "O"), TRUE[2])
    both = score("entity_f1", *first), score("entity_f1", *second)
    assert TASK.flips(*both, TRUTH, LABELS) == []
    (flip,) = TASK.flips(*both, Truth(DOCUMENTS), LABELS)
    assert (flip.kind, flip.before, flip.after) == ("changed", "PER bad", "PER it")


def test_samples_are_documents_with_entities_of_different_kinds():
    before = score("entity_f1", *TRUE)

    def predict(examples: Sequence[Any]) -> Any:
        assert list(examples) == [DOCUMENTS[1], DOCUMENTS[0]]  # LOC, then PER
        return [[], [{"entity_group": "PER", "start": 0, "end": 9}]]

    found = TASK.samples(before, before, TRUTH, LABELS, predict, 5)
    assert [(item.position, item.before, item.after) for item in found] == [
        (1, "LOC it", "no entity"),
        (0, "PER the films; LOC good", "PER the films"),
    ]
    assert found[1].label == "PER the films; LOC good"


def test_guesses_are_scored_like_models():
    guesses = TASK.guesses(score("entity_f1", *TRUE), TRUTH, LABELS)
    by_name = {guess.who: guess.score for guess in guesses}
    assert by_name["a model that tags every word 'O'"].value == 0.0
    # Every word an entity LOC: of 9 found, 2 of 3 are there.
    assert by_name["a model that tags every word 'B-LOC'"].value == pytest.approx(2 * 2 / (9 + 3))
    assert len(by_name) == 4
    assert all(0 <= item.value < 1 for item in by_name.values())
    assert all(item.sums is not None for item in by_name.values())


def test_a_guess_agrees_where_documents_have_no_entity():
    baseline = TASK.score("agreement", outputs(*TRUE), Truth(DOCUMENTS))
    guesses = TASK.guesses(baseline, Truth(DOCUMENTS), LABELS)
    assert guesses[0].who == "a model that tags every word 'O'"
    assert guesses[0].score.value == pytest.approx(1 / 3)


def test_what_agreement_will_prove_can_be_told_beforehand():
    baseline = TASK.score("agreement", outputs(*TRUE), Truth(DOCUMENTS))
    found = look_forward(Judged(TASK, LABELS, baseline, Truth(DOCUMENTS)), 100, INT8_COST)
    assert found.drop == pytest.approx(0.02)  # P(2 or fewer of 100 change) is 0.92 at 1%
    # Of 3 documents a model that sees no entity agrees on one: Clopper and Pearson for 2 of 3.
    assert found.guess_drop == pytest.approx(beta.ppf(0.05, 2, 2))


def test_a_model_that_tags_every_word_alike_is_told():
    alike = [("O",) * len(document.words) for document in DOCUMENTS]
    assert TASK.constant(score("entity_f1", *alike), LABELS) == "tags every word 'O'"
    assert TASK.constant(score("entity_f1", *TRUE), LABELS) is None


def test_what_cannot_be_scored_is_told():
    nothing = Truth(DOCUMENTS, ids(*[("O",) * len(document.words) for document in DOCUMENTS]))
    assert TASK.unscorable("entity_f1", Truth(DOCUMENTS)) == (
        "has no tags, so nothing but agreement can be scored on it"
    )
    assert "no word belongs to an entity" in str(TASK.unscorable("entity_f1", nothing))
    assert "every tag is 'O'" in str(TASK.unscorable("token_accuracy", nothing))
    assert TASK.unscorable("agreement", Truth(DOCUMENTS)) is None
    assert TASK.unscorable("entity_f1", TRUTH) is None


def test_targets_stand_at_the_first_piece_of_each_word():
    batch = TASK.encode(TOKENIZER, DOCUMENTS)
    expected = [
        # [CLS] the film ##s [UNK] good [SEP]: a piece behind the first has none.
        [None, "B-PER", "I-PER", None, "O", "B-LOC", None],
        [None, "B-LOC", "O", None],
        [None, "O", "O", None],
    ]
    found = TASK.targets(batch, ids(*TRUE)).tolist()
    assert TOKENIZER.convert_ids_to_tokens(batch["input_ids"][0].tolist())[3] == "##s"
    for row, wanted in zip(found, expected, strict=True):
        padded = wanted + [None] * (len(row) - len(wanted))
        assert row == [UNLABELLED if tag is None else LABELS.index(tag) for tag in padded]


def test_each_word_of_a_long_document_has_one_target():
    task = TokenClassification(max_length=8).for_labels(LABELS)
    words = Words(tuple(["films", "good", "unlovely"] * 9))
    batch = task.encode(TOKENIZER, [words, Words(("it",))])
    tags = ["B-PER", "O", "I-LOC"] * 9
    targets = task.targets(batch, ids(tags, ["O"]))
    assert targets[targets != UNLABELLED].tolist() == [
        LABELS.index(tag) for tag in [*tags, "O"]
    ]  # in order, as no word is cut
    array = np.eye(len(LABELS), dtype=np.float32)[np.where(targets < 0, 0, targets)]
    assert [item.tolist() for item in task.collect([array], [batch]).tags] == [
        item.tolist() for item in ids(tags, ["O"])
    ]


def test_outputs_are_rows_of_words():
    found = outputs(*TRUE)
    assert [row.shape for row in found.per_example()] == [(4, 5), (3, 5), (2, 5)]
    assert found.per_example()[1][1].tolist() == [0.0] * 5
    assert found.numbers.shape == (9, 5)
    again = TokenLogits.joined([found.select([2]), found.select([0, 1])])
    assert [len(row) for row in again.per_example()] == [2, 4, 3]
    assert found.first_not_finite() is None
    found.tokens[1][0] = np.nan
    assert TokenLogits(found.documents, found.tokens).first_not_finite() == 1


def test_outputs_without_padding_are_those_of_each_document():
    task = TokenClassification(max_length=8).for_labels(LABELS)
    batch = task.encode(TOKENIZER, [Words(("films",) * 9), Words(("it",))])
    array = batch["input_ids"].astype(np.float32)[:, :, None]
    first, second = task.without_padding(array, batch)
    assert len(batch.rows) > 3
    assert (
        first[:, 0].tolist() == batch["input_ids"][:-1][batch["attention_mask"][:-1] > 0].tolist()
    )
    assert second.shape == (3, 1)


def whole_words() -> Any:
    """Return a tokenizer that gives each word one token, and a text no ends."""
    words = {word: place for place, word in enumerate(("[UNK]", "[PAD]", "the", "films", "good"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_max_length=64
    )


def test_what_is_said_of_words_stands_at_the_first_token_of_another_tokenizer():
    theirs, own = TASK.encode(whole_words(), DOCUMENTS), TASK.encode(TOKENIZER, DOCUMENTS)
    array = np.arange(theirs["input_ids"].size, dtype=np.float32)
    array = array.reshape(*theirs["input_ids"].shape, 1)  # each token says its own number
    first, second, third = TASK.on_own_tokens(array, theirs, own)
    none = np.nan
    width = theirs["input_ids"].shape[1]
    # [CLS] the film ##s [UNK] good [SEP]
    np.testing.assert_array_equal(first[:, 0], [none, 0, 1, none, 2, 3, none])
    # [CLS] it bad [SEP]: the second word has a token of the other tokenizer alone.
    np.testing.assert_array_equal(second[:, 0], [none, width, width + 2, none])
    np.testing.assert_array_equal(third[:, 0], [none, 2 * width, 2 * width + 1, none])


def test_a_word_that_gave_the_teacher_no_token_is_not_compared():
    document = [Words(("the", "\u00ad", "good"))]  # a soft hyphen, which WordPiece leaves out
    own, theirs = TASK.encode(whole_words(), document), TASK.encode(TOKENIZER, document)
    array = np.ones((*theirs["input_ids"].shape, 1), np.float32)
    [found] = TASK.on_own_tokens(array, theirs, own)
    np.testing.assert_array_equal(found[:, 0], [1, np.nan, 1])


def test_each_window_of_a_long_document_is_told_its_words():
    task = TokenClassification(max_length=8).for_labels(LABELS)
    document = [Words(tuple(["films", "good", "the"] * 9))]
    own, theirs = task.encode(TOKENIZER, document), TASK.encode(whole_words(), document)
    array = np.arange(27, dtype=np.float32).reshape(1, 27, 1)
    [found] = task.on_own_tokens(array, theirs, own)
    assert len(own.rows) > 3
    assert len(found) == np.count_nonzero(own["attention_mask"])
    assert found[~np.isnan(found)].tolist() == list(range(27))


def config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["BertForTokenClassification"],
        "id2label": {"0": "O", "1": "B-PER", "2": "I-PER"},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id2label": {"0": "O"}}, "id2label names one label"),
        ({"id2label": {"0": "O", "1": "I-PER", "2": "E-PER"}}, "prefixes E-, I-"),
        ({"problem_type": "multi_label_classification"}, "a choice of one for each word"),
        ({"architectures": ["BertForSequenceClassification"]}, "one label for a whole text"),
        ({"id2label": {"0": "O", "1": "B-PER"}}, "classifier.weight among the weights has 3 rows"),
    ],
)
def test_a_head_that_does_not_choose_tags_is_refused(changes: dict[str, Any], told: str):
    tensors = {"classifier.weight": torch.zeros(3, 4)}
    TokenClassification.check_head(config(), tensors, None)
    with pytest.raises(HeadProblem, match=told):
        TokenClassification.check_head(config(**changes), tensors, None)


def test_texts_and_lists_of_words_are_given():
    assert TASK.given(["a film", ["a", "film"], ("it",), Words(("x",))]) == [
        "a film", Words(("a", "film")), Words(("it",)), Words(("x",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a film", "not a bare string"),
        ([["a", 3]], "example 0: must be a text or a list of words, and word 1 is 3"),
        ([[]], "example 0: must be a text or a list of words, got a list of 0 entries"),
        ([None], "example 0: must be a text or a list of words, got nothing"),
        (["\ud800"], "half of a surrogate pair"),
    ],
)
def test_anything_else_is_refused(value: Any, told: str):
    with pytest.raises(ValueError, match=told):
        TASK.given(value)


def test_only_known_strategies_put_tokens_together():
    assert TASK.aggregated("max").aggregation == "max"
    with pytest.raises(ValueError, match="must be one of none, simple, first, average, max"):
        TASK.aggregated("most")
    with pytest.raises(ValueError, match="text-classification gives no tags of tokens"):
        load_task("text-classification").aggregated("simple")


def test_losses_leave_padding_and_unlabelled_tokens_out():
    losses, generator = TokenLosses(), torch.Generator().manual_seed(0)
    values = torch.randn(2, 4, 3, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    targets = torch.tensor(
        [[0, UNLABELLED, 2, UNLABELLED], [1, UNLABELLED, UNLABELLED, UNLABELLED]]
    )
    found = losses.on_labels(values, targets)
    log = torch.log_softmax(values, dim=-1)
    assert int(found.count) == 3
    assert float(found.total) == pytest.approx(-float(log[0, 0, 0] + log[0, 2, 2] + log[1, 0, 1]))
    other = values.clone()
    other[mask == 0] += torch.randn(3, 3, generator=generator)
    assert float(losses.to_teacher(values, other, mask, 2.0)) == pytest.approx(0.0, abs=1e-7)
    own = losses.own_targets(values, mask)
    assert own[mask == 0].tolist() == [UNLABELLED] * 3
    values.requires_grad_(True)
    probe = next(iter(losses.fisher_probes(values, mask, generator)))
    (gradient,) = torch.autograd.grad(probe, values)
    assert not gradient[mask == 0].any()


def test_squared_probes_add_up_to_the_fisher_information_of_tokens():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(1, 3, 4, generator=generator)
    scale = torch.ones(1, requires_grad=True)
    p = torch.softmax(values / 2, dim=-1)
    centred = values - (p * values).sum(dim=-1, keepdim=True)
    expected = float((p * centred**2).sum())
    squares = []
    for _ in range(3000):
        probes = TokenLosses().fisher_probes(scale * values, None, generator)
        squares.append(
            sum(
                float(torch.autograd.grad(item, scale, retain_graph=True)[0]) ** 2
                for item in probes
            )
        )
    assert np.mean(squares) == pytest.approx(expected, rel=0.1)


def test_what_is_found_of_each_kind_is_counted_by_document():
    before, after = score("entity_f1", *TRUE), score("entity_f1", *WRONG)
    found = TASK.findings(before, after, TRUTH, LABELS, labelled=True)
    assert list(found) == list(TASK.kinds(LABELS)) == ["LOC", "PER"]
    # Labelled: PER 0-2 and LOC 3-4 in the first document, LOC 0-1 in the second.
    assert found["LOC"].there.tolist() == [1, 1, 0]
    assert found["LOC"].after.tolist() == [1, 1, 0]
    assert found["PER"].before.tolist() == [1, 0, 0]
    assert found["PER"].after.tolist() == [0, 0, 0]
    other = TASK.findings(after, before, TRUTH, LABELS, labelled=False)
    # The model that is now the first found PER 0-1 and PER 1-2, and the second neither.
    assert other["PER"].there.tolist() == [1, 0, 1]
    assert other["PER"].after.tolist() == [0, 0, 0]
    assert other["LOC"].there.tolist() == [2, 1, 0]
    assert other["LOC"].after.tolist() == [1, 1, 0]


@pytest.mark.parametrize("metric", [item.name for item in TASK.metrics])
def test_tags_without_logits_give_the_same_score(metric: str):
    given = outputs(*TRUE)
    order = [len(given) - 1, *range(len(given) - 1)]
    parts = [TASK.for_score(metric, given.select([place])) for place in order]
    back = [order.index(place) for place in range(len(given))]
    compact = type(parts[0]).joined(parts).select(back)
    assert len(compact) == len(given)
    assert compact.first_not_finite() is None

    before, after = (TASK.score(metric, item, TRUTH) for item in (given, compact))

    assert after == before
    assert (after.outcomes == before.outcomes).all()
    assert np.array_equal(after.sums, before.sums) or before.sums is after.sums is None
    assert all(np.array_equal(after.kept[name], before.kept[name]) for name in before.kept)
