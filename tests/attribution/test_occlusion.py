"""Occlusion of models that add up a weight for each token, of which attributions are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from byte_level import byte_level_tokenizer
from conftest import word_piece_tokenizer

from compressor.attribution.agreement import agreements
from compressor.attribution.occlusion import Reader, ask, hiding_for, occlude
from compressor.errors import RecipeError, StepFailed
from compressor.models.torch_model import TorchModel
from compressor.tasks import Batch, load_task
from compressor.tasks.token_classification import TokenClassification

TOKENIZER = word_piece_tokenizer()
SCORING = load_task("text-scoring")
CHOOSING = load_task("text-classification")


@dataclass(frozen=True)
class Bag:
    """Adds up a weight for each token; with `classes` it gives the sum and 0."""

    weights: dict[str, float]
    classes: bool = False

    def predict(self, batch: Batch) -> np.ndarray:
        table = np.zeros(len(TOKENIZER), dtype=np.float32)
        table[TOKENIZER.convert_tokens_to_ids(list(self.weights))] = list(self.weights.values())
        total = (table[batch["input_ids"]] * batch["attention_mask"]).sum(axis=1)
        columns = [total, np.zeros_like(total)] if self.classes else [total]
        return np.stack(columns, axis=1).astype(np.float32)


def attributions(model: Bag, *texts: str, original: Bag | None = None, most: int = 99) -> list:
    task = CHOOSING if model.classes else SCORING
    reader = Reader(model, TOKENIZER)
    asked = ask(Reader(original or model, TOKENIZER), task, texts, most=most)
    return [item.tolist() for item in occlude(reader, task, asked, "mask token")]


def test_an_attribution_is_what_the_mask_token_takes_away():
    model = Bag({"good": 2.0, "bad": -3.0, "[MASK]": 0.5, "[CLS]": 7.0})
    assert attributions(model, "a good film", "bad") == [[-0.5, 1.5, -0.5], [-3.5]]


def test_neighbours_that_are_hidden_together_share_an_attribution():
    model = Bag({"good": 2.0, "fine": 1.0})
    assert attributions(model, "good fine film story", most=2) == [[3.0, 0.0]]


def test_an_empty_text_has_no_attribution():
    assert attributions(Bag({"good": 1.0}), "") == [[]]


def test_every_model_explains_what_the_original_predicts():
    original = Bag({"good": 2.0}, classes=True)  # the first class
    other = Bag({"good": -2.0}, classes=True)  # the second
    [[before]] = attributions(original, "good")
    [[after]] = attributions(other, "good", original=original)
    # log 1/(1+e^-2) - log 1/2, and log 1/(1+e^2) - log 1/2.
    assert before == pytest.approx(np.log(2) - np.log1p(np.exp(-2)))
    assert after == pytest.approx(np.log(2) - np.log1p(np.exp(2)))


def test_models_of_equal_predictions_and_other_reasons_do_not_agree():
    texts = ["good fine film story plot", "great lovely film plot movie"]
    before = Bag({"good": 3.0, "great": 3.0, "fine": 2.0, "lovely": 2.0, "film": 1.0}, classes=True)
    after = Bag({"plot": 4.0, "story": 3.0, "movie": 3.0, "film": 1.0}, classes=True)
    batch = CHOOSING.encode(TOKENIZER, texts)
    assert (before.predict(batch).argmax(axis=1) == after.predict(batch).argmax(axis=1)).all()
    own = [np.array(item) for item in attributions(before, *texts)]
    other = [np.array(item) for item in attributions(after, *texts, original=before)]
    assert agreements(own, own).tolist() == [1.0, 1.0]
    assert agreements(own, other).max() < 0


def test_real_models_are_asked_the_same_way(tiny_bert: TorchModel, tiny_vit: TorchModel):
    for model, example, count in ((tiny_bert, "a good film", 3), (tiny_vit, np.eye(8), 49)):
        reader = Reader(model, model.preprocessor)
        given = example if isinstance(example, str) else (200 * example).astype(np.uint8)
        asked = ask(reader, model.task, [given])
        hiding = hiding_for(model.task, model.preprocessor, model.preprocessor)
        [found] = occlude(reader, model.task, asked, hiding)
        assert found.shape == (count,)
        assert np.ptp(found) > 0


def test_a_model_with_another_tokenizer_is_asked_about_the_same_characters():
    # Bytes and pieces of them: each counts 1, and an unknown token 0.
    tokenizer = byte_level_tokenizer()

    class Count:
        def predict(self, batch: Batch) -> np.ndarray:
            known = batch["attention_mask"] * (batch["input_ids"] != tokenizer.unk_token_id)
            return known.sum(axis=1, keepdims=True).astype(np.float32)

    text = "bad films"
    hiding = hiding_for(SCORING, TOKENIZER, tokenizer)
    assert hiding == "unknown token"
    asked = ask(Reader(Bag({"bad": 1.0}), TOKENIZER), SCORING, [text])
    [found] = occlude(Reader(Count(), tokenizer), SCORING, asked, hiding)
    own = SCORING.read_text(tokenizer, text)
    assert [text[piece.start : piece.end] for piece in asked[0].pieces] == ["bad", "film", "s"]
    assert found.tolist() == [float(own.tokens_of(piece).sum()) for piece in asked[0].pieces]
    assert found[0] == len(tokenizer.tokenize("bad"))


def test_a_number_that_is_not_finite_is_told():
    with pytest.raises(StepFailed, match="not finite"):
        attributions(Bag({"[MASK]": float("nan"), "[CLS]": 0.0}), "good film")


def test_a_task_without_attributions_is_refused_with_its_reason():
    task = load_task("masked-language-modeling")
    with pytest.raises(RecipeError, match="masked-language-modeling has none: what is predicted"):
        hiding_for(task, TOKENIZER)


def test_both_tokenizers_must_hide_in_the_same_way():
    other = word_piece_tokenizer()
    other.mask_token = None
    assert hiding_for(SCORING, TOKENIZER, other) == "unknown token"
    other.unk_token = None
    assert hiding_for(SCORING, TOKENIZER, other) == "removal"
    with pytest.raises(RecipeError, match=r"fast tokenizer \(tokenizer.json\) with a mask token"):
        hiding_for(TokenClassification(), TOKENIZER, other)
