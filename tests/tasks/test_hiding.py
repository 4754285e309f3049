"""Pieces are the characters of tokens, and hiding one changes the tokens that read it alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from byte_level import byte_level_tokenizer
from conftest import word_piece_tokenizer

from compressor.models.torch_model import TorchModel
from compressor.runtime.prompts import Query, keep_prompts, read_prompts
from compressor.tasks import ClassLogits, Task, Vectors, load_task
from compressor.tasks.base import Batch
from compressor.tasks.examples import Example, Words
from compressor.tasks.hiding import (
    Cell,
    Hiding,
    Piece,
    cells_of,
    changes_of,
    hidings_of,
    joined,
    log_probabilities,
    log_sigmoid,
)
from compressor.tasks.multi_label import LabelLogits, MultiLabelClassification
from compressor.tasks.question_answering import QuestionAnswering, SpanLogits
from compressor.tasks.text_scoring import ScoreLogits
from compressor.tasks.token_classification import TokenClassification
from compressor.tasks.word_tags import TokenLogits

TOKENIZER = word_piece_tokenizer()
CLASSIFIER = load_task("text-classification")
MASK = TOKENIZER.mask_token_id


def hidden(
    task: Task, example: Example, *, most: int = 99, hiding: Hiding = "mask token"
) -> tuple[tuple[object, ...], list[Batch]]:
    pieces = task.pieces(TOKENIZER, example, most)
    return pieces, list(task.with_hidden(TOKENIZER, example, pieces, hiding))


def tokens(row: np.ndarray) -> str:
    return " ".join(TOKENIZER.convert_ids_to_tokens(row))


def test_pieces_are_the_characters_of_each_token():
    text = "A badly made film"
    pieces = CLASSIFIER.pieces(TOKENIZER, text, 99)
    assert [text[piece.start : piece.end] for piece in pieces] == ["A", "bad", "ly", "made", "film"]


def test_each_row_hides_one_piece_and_keeps_all_other_tokens():
    _, [batch] = hidden(CLASSIFIER, "a good film")
    assert [tokens(row) for row in batch["input_ids"]] == [
        "[CLS] a good film [SEP]",
        "[CLS] [MASK] good film [SEP]",
        "[CLS] a [MASK] film [SEP]",
        "[CLS] a good [MASK] [SEP]",
    ]
    assert batch["attention_mask"].all()


def test_the_first_row_is_what_the_model_reads_otherwise():
    _, [batch] = hidden(CLASSIFIER, ("good", "a bad film"))
    plain = CLASSIFIER.encode(TOKENIZER, [("good", "a bad film")])
    assert {name: value[:1].tolist() for name, value in batch.items()} == {
        name: value.tolist() for name, value in plain.items()
    }


def test_both_texts_of_a_pair_have_pieces():
    pieces, [batch] = hidden(CLASSIFIER, ("good", "bad film"))
    assert pieces == (Piece(0, 0, 4), Piece(1, 0, 3), Piece(1, 4, 8))
    assert tokens(batch["input_ids"][2]) == "[CLS] good [SEP] [MASK] film [SEP]"


def test_removed_tokens_leave_shorter_rows():
    _, [batch] = hidden(CLASSIFIER, "a good film", hiding="removal")
    assert tokens(batch["input_ids"][2]) == "[CLS] a film [SEP] [PAD]"
    assert batch["attention_mask"].sum(axis=1).tolist() == [5, 4, 4, 4]


def test_what_is_cut_off_has_no_pieces():
    task = load_task("text-classification", max_length=4)
    assert task.pieces(TOKENIZER, "a good film", 99) == (Piece(0, 0, 1), Piece(0, 2, 6))


def test_an_empty_text_has_no_pieces():
    pieces, [batch] = hidden(CLASSIFIER, "")
    assert pieces == ()
    assert tokens(batch["input_ids"][0]) == "[CLS] [SEP]"


def test_of_many_tokens_neighbours_are_hidden_together():
    pieces, [batch] = hidden(CLASSIFIER, "a good film and a bad plot", most=3)
    assert pieces == (Piece(0, 0, 11), Piece(0, 12, 21), Piece(0, 22, 26))
    assert tokens(batch["input_ids"][1]) == "[CLS] [MASK] [MASK] [MASK] and a bad plot [SEP]"


def test_pieces_of_two_texts_are_never_joined():
    found = joined(
        [*(Piece(0, n, n + 1) for n in range(5)), *(Piece(1, n, n + 1) for n in (0, 1))], 4
    )
    assert len(found) <= 4
    assert [piece.text for piece in found] == [0, 0, 1]


def test_a_piece_hides_whatever_another_tokenizer_reads_there():
    other = word_piece_tokenizer()
    read = CLASSIFIER.read_text(other, "badly made")  # bad, ##ly and an unknown word
    assert read.tokens_of(Piece(0, 0, 5)).tolist() == [False, True, True, False, False]
    assert read.tokens_of(Piece(0, 6, 8)).tolist() == [False, False, False, True, False]


def test_bytes_of_one_character_are_one_piece():
    tokenizer = byte_level_tokenizer()
    text = "a 🙂🙂 é"
    pieces = CLASSIFIER.pieces(tokenizer, text, 99)
    assert all(text[piece.start : piece.end].strip() for piece in pieces)
    ends = [(piece.start, piece.end) for piece in pieces]
    assert ends == sorted(ends)
    assert all(first[1] <= second[0] for first, second in pairwise(ends))


def test_the_mask_token_comes_first_and_an_end_of_text_is_no_unknown_token():
    assert hidings_of(TOKENIZER, removes=True) == ("mask token", "unknown token", "removal")
    assert hidings_of(byte_level_tokenizer(), removes=False) == ("unknown token",)
    other = byte_level_tokenizer()
    other.unk_token = other.eos_token
    assert hidings_of(other, removes=False) == ()
    assert hidings_of(other, removes=True) == ("removal",)


def test_a_tokenizer_without_offsets_hides_nothing():
    class Slow:
        is_fast = False

    assert hidings_of(Slow(), removes=True) == ()


def test_a_prompt_is_read_and_never_hidden(tiny_encoder: TorchModel):
    tokenizer, task = tiny_encoder.preprocessor, tiny_encoder.task
    keep_prompts(tokenizer, read_prompts({"prompts": {"query": "the plot "}}, tiny_encoder.module))
    pieces = task.pieces(tokenizer, Query("good film"), 99)
    assert pieces == (Piece(0, 0, 4), Piece(0, 5, 9))
    [batch] = task.with_hidden(tokenizer, Query("good film"), pieces, "mask token")
    assert [tokens(row) for row in batch["input_ids"]] == [
        "[CLS] the plot good film [SEP]",
        "[CLS] the plot [MASK] film [SEP]",
        "[CLS] the plot good [MASK] [SEP]",
    ]


def test_a_token_is_hidden_in_every_window_that_reads_it():
    task = TokenClassification(max_length=6).for_labels(("O", "B-PER"))
    document = Words(("a", "good", "film", "and", "plot", "story"))
    pieces, batches = hidden(task, document)
    rows = [tokens(row) for batch in batches for row in batch["input_ids"]]
    assert len(pieces) == 6
    assert rows[:3] == [
        "[CLS] a good film and [SEP]",
        "[CLS] film and plot story [SEP]",
        "[CLS] [MASK] good film and [SEP]",
    ]
    # The third token stands in both windows.
    assert rows[6:8] == ["[CLS] a good [MASK] and [SEP]", "[CLS] [MASK] and plot story [SEP]"]


def test_a_question_is_hidden_in_every_window_of_its_context():
    task = QuestionAnswering(max_length=8)
    pieces, batches = hidden(task, ("good", "a good film and plot story"))
    rows = [tokens(row) for batch in batches for row in batch["input_ids"]]
    assert pieces[:2] == (Piece(0, 0, 4), Piece(1, 0, 1))
    per_example = len(rows) // (1 + len(pieces))
    assert per_example == 2
    assert rows[2].startswith("[CLS] [MASK] [SEP] a good")
    assert rows[3].startswith("[CLS] [MASK] [SEP]")
    assert rows[4].startswith("[CLS] good [SEP] [MASK] good")


def test_cells_cover_an_image_once():
    covered = np.zeros((10, 15), dtype=int)
    for cell in cells_of(10, 15):
        covered[cell.top : cell.bottom, cell.left : cell.right] += 1
    assert (covered == 1).all()
    assert len(cells_of(10, 15)) == 49


def test_a_cell_gets_the_mean_colour(tiny_vit: TorchModel):
    image = np.zeros((8, 8), dtype=np.uint8)
    image[:, 4:] = 200
    [batch] = tiny_vit.task.with_hidden(
        tiny_vit.preprocessor, image, (Cell(0, 0, 8, 4),), "mean colour"
    )
    values = batch["pixel_values"]  # (2, 1, 8, 8), (x / 255 - 0.5) / 0.5 of 0, 200 and 100
    assert values[0, 0, 0, 0] == pytest.approx(-1.0)
    assert values[1, 0, 0, 0] == pytest.approx(100 / 255 / 0.5 - 1)
    assert np.array_equal(values[0, :, :, 4:], values[1, :, :, 4:])


def test_what_hiding_changes_are_characters_or_distances_from_the_mean_colour():
    assert changes_of("good film", (Piece(0, 0, 4), Piece(0, 5, 9))).tolist() == [4.0, 4.0]
    image = np.array([[0, 0], [0, 200]], dtype=np.uint8)  # its mean is 50
    cells = (Cell(0, 0, 2, 1), Cell(0, 1, 2, 2))
    assert changes_of(image, cells).tolist() == [100.0, 200.0]


def test_sure_predictions_still_differ():
    logits = np.array([[20.0, -20.0], [30.0, -30.0]], dtype=np.float32)
    first, second = log_probabilities(logits, np.array([0, 0]))
    assert first < second < 0
    assert log_sigmoid(np.array([-800.0]))[0] == pytest.approx(-800.0)


def test_of_a_classifier_the_originals_class_is_explained():
    original = ClassLogits(np.array([[0.0, 1.0]], dtype=np.float32))
    own = ClassLogits(np.array([[2.0, 0.0], [0.0, 0.0]], dtype=np.float32))
    found = CLASSIFIER.explained(original, own)
    assert found == pytest.approx([-np.log1p(np.exp(2.0)), -np.log(2.0)])


def test_of_label_sets_the_originals_set_is_explained():
    original = LabelLogits(np.array([[1.0, -1.0]], dtype=np.float32))
    own = LabelLogits(np.array([[0.0, np.log(3.0)]], dtype=np.float32))
    # The first holds with one half, the second does not with a quarter.
    assert MultiLabelClassification().explained(original, own) == pytest.approx([np.log(1 / 8)])


def test_of_scores_the_logit_is_explained():
    own = ScoreLogits(np.array([[2.0], [-1.0]], dtype=np.float32))
    assert load_task("text-scoring").explained(own, own).tolist() == [2.0, -1.0]


def test_of_vectors_the_cosine_with_the_whole_is_explained():
    own = Vectors(np.array([[3.0, 4.0], [4.0, 3.0]], dtype=np.float32))
    found = load_task("sentence-embedding").explained(own, own)
    assert found == pytest.approx([1.0, 0.96])


def test_of_tags_those_of_the_original_are_explained():
    task = TokenClassification().for_labels(("O", "B-PER"))
    batch = task.encode(TOKENIZER, [Words(("good", "film"))])
    array = np.zeros((1, 4, 2), dtype=np.float32)
    array[0, 1] = (np.log(3.0), 0.0)  # good: O with 3/4
    original = task.collect([array], [batch])
    array[0, 2] = (0.0, np.log(4.0))  # film: O with 1/5
    found = task.explained(original, task.collect([array], [batch]))
    assert isinstance(original, TokenLogits)
    assert found == pytest.approx([np.log(3 / 4) + np.log(1 / 5)])


def test_of_answers_that_of_the_original_is_explained():
    task = load_task("question-answering")
    batch = task.encode(TOKENIZER, [("good", "a good film")])
    array = np.full((1, batch["input_ids"].shape[1], 2), -50.0, dtype=np.float32)
    array[0, 4, 0], array[0, 5, 1] = 0.0, 0.0  # "good film" starts at 4 and ends at 5
    original = task.collect([array], [batch])
    array[0, 3] = 0.0  # the context's first token gets as much
    found = task.explained(original, task.collect([array], [batch]))
    assert isinstance(original, SpanLogits)
    assert found == pytest.approx([2 * np.log(1 / 2)])


@pytest.mark.parametrize("name", ["audio-classification", "masked-language-modeling"])
def test_a_task_without_explanation_says_why(name: str):
    task = load_task(name)
    assert task.explains == ""
    assert len(task.unexplained.split()) > 5
