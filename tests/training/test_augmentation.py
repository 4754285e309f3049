from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.tasks.examples import Words
from compressor.tasks.token_classification import TokenClassification
from compressor.training.augmentation import augmented
from compressor.training.distill_settings import DistillSettings
from compressor.training.near_words import NEAREST
from compressor.training.schedules import total_steps


def dataset_of(*examples: Any) -> Dataset:
    labels = np.arange(len(examples)) % 2
    return Dataset("train", examples, labels, np.arange(len(examples)) + 5, "here")


def changed(model: TorchModel, dataset: Dataset, **settings: Any) -> Dataset:
    return augmented(model, model, dataset, DistillSettings(**settings), seed=0)[0]


def test_nothing_changes_where_nothing_is_asked_for(tiny_bert: TorchModel, text_dataset: Dataset):
    settings = DistillSettings(epochs=3)
    found = augmented(tiny_bert, tiny_bert, text_dataset, settings, seed=0)
    assert found[0] is text_dataset
    assert found[1] is settings


def test_every_joined_text_is_two_of_the_split_in_either_order(tiny_bert: TorchModel):
    texts = tuple(f"text {index}" for index in range(40))
    found = changed(tiny_bert, dataset_of(*texts), join_probability=1)
    own_first = 0
    for text, joined in zip(texts, found.examples, strict=True):
        assert isinstance(joined, str)
        parts = joined.split(" text ")
        assert len(parts) == 2
        assert text in (f"text {parts[1]}", parts[0])
        own_first += parts[0] == text
    assert 8 < own_first < 32


def test_words_are_hidden_and_left_out_as_often_as_asked(tiny_bert: TorchModel):
    words = [f"w{index}" for index in range(20_000)]
    [text] = changed(
        tiny_bert, dataset_of(" ".join(words)), drop_probability=0.2, mask_probability=0.25
    ).examples
    assert isinstance(text, str)
    left = text.split()
    shown = [word for word in left if word != "[MASK]"]
    kept = set(shown)
    assert len(left) / 20_000 == pytest.approx(0.8, abs=0.015)
    assert len(shown) / len(left) == pytest.approx(0.75, abs=0.015)
    assert [word for word in words if word in kept] == shown


def test_words_give_way_to_near_ones_of_the_same_texts(tiny_bert: TorchModel):
    read = tiny_bert.preprocessor
    words = [word for word in read.get_vocab() if word.isalpha()]
    known = set(words)
    texts = (" ".join(words), "unheardof words stay")
    [found, other] = changed(tiny_bert, dataset_of(*texts), replace_probability=0.5).examples
    assert str(other).split()[0] == "unheardof"
    given = dict(zip(words, str(found).split(), strict=True))
    moved = {word: new for word, new in given.items() if word != new}
    assert 0.3 < len(moved) / len(words) < 0.7
    assert set(moved.values()) <= known
    # By hand: the places of the new words among all, by the cosine with the old one.
    table = tiny_bert.module.get_input_embeddings().weight.detach()
    vectors = dict(zip(words, table[read.convert_tokens_to_ids(words)], strict=True))
    for word, new in moved.items():
        cosines = {
            each: float(torch.nn.functional.cosine_similarity(vectors[word], vector, dim=0))
            for each, vector in vectors.items()
            if each != word
        }
        assert new in sorted(cosines, key=cosines.__getitem__, reverse=True)[:NEAREST]


def test_texts_without_words_of_one_piece_have_nothing_to_replace(tiny_bert: TorchModel):
    with pytest.raises(StepFailed, match="replace_probability: fewer than two words"):
        changed(tiny_bert, dataset_of("unheardof"), replace_probability=0.5)


def test_a_text_keeps_a_word_and_an_empty_one_stays(tiny_bert: TorchModel):
    found = changed(tiny_bert, dataset_of("one", "", "two"), drop_probability=0.999)
    assert found.examples == ("one", "", "two")


def test_both_texts_of_a_pair_lose_words(tiny_bert: TorchModel):
    pair = (" ".join("ab" * 50), " ".join("cd" * 50))
    [found] = changed(tiny_bert, dataset_of(pair), drop_probability=0.5).examples
    assert isinstance(found, tuple)
    assert set(found[0].split()) == {"a", "b"}
    assert set(found[1].split()) == {"c", "d"}
    assert all(len(text.split()) < 75 for text in found)


def test_lists_of_words_are_joined_and_lose_words_as_texts_do(tiny_bert: TorchModel):
    documents = [Words((f"a{index}", f"b{index}")) for index in range(40)]
    found = changed(tiny_bert, dataset_of(*documents), join_probability=1).examples
    for document, joined in zip(documents, found, strict=True):
        assert isinstance(joined, Words)
        assert len(joined.words) == 4
        assert document.words in (joined.words[:2], joined.words[2:])
    long = Words(tuple(f"w{index}" for index in range(2000)))
    settings = {"drop_probability": 0.2, "mask_probability": 0.25}
    as_words, as_text = (
        changed(tiny_bert, dataset_of(example), **settings).examples[0]
        for example in (long, long.texts[0])
    )
    assert isinstance(as_words, Words)
    assert as_words.words == tuple(str(as_text).split())


def test_documents_that_changed_have_no_tags(tiny_bert: TorchModel):
    task = TokenClassification().for_labels(("O", "B-place", "I-place"))
    tagger = replace(tiny_bert, task=task)
    tags = np.array([np.array([0, 0]), np.array([0])], dtype=object)
    documents = (Words(("one", "two")), Words(("three",)))
    dataset = Dataset("train", documents, tags, np.arange(2), "here")
    assert changed(tagger, dataset, drop_probability=0.5).labels is None
    with pytest.raises(ValueError, match="label_weight: token-classification cannot tell"):
        changed(tagger, dataset, drop_probability=0.5, label_weight=1)


def test_each_epoch_has_texts_of_its_own_and_takes_as_many_steps(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    settings = DistillSettings(epochs=2.5, batch_size=8, join_probability=1)
    found, fitting = augmented(tiny_bert, tiny_bert, text_dataset, settings, seed=0)
    assert len(found) == 3 * 48
    assert found.examples[:48] != found.examples[48:96]
    assert total_steps(len(found), fitting) == total_steps(48, settings)
    assert text_dataset.labels is not None
    assert found.labels is not None
    kept = found.labels != -100
    assert 0 < kept.sum() < len(found)
    assert (found.labels == np.tile(text_dataset.labels, 3))[kept].all()
    assert found.rows.tolist() == 3 * list(range(48))
    many, _ = augmented(
        tiny_bert, tiny_bert, text_dataset, settings.model_copy(update={"epochs": 500.0}), seed=0
    )
    assert len(many) == 10 * 48


@pytest.mark.parametrize("rows", [1, 33, 47])
@pytest.mark.parametrize("epochs", [0.4, 1.0, 3.0, 10.0, 17.3])
def test_smaller_last_batches_do_not_shorten_the_training(
    tiny_bert: TorchModel, rows: int, epochs: float
):
    dataset = dataset_of(*["a film"] * rows)
    settings = DistillSettings(epochs=epochs, batch_size=32, drop_probability=0.1)

    found, fitting = augmented(tiny_bert, tiny_bert, dataset, settings, seed=0)

    assert total_steps(len(found), fitting) == total_steps(rows, settings)


def test_a_seed_gives_the_same_texts(tiny_bert: TorchModel, text_dataset: Dataset):
    settings = DistillSettings(join_probability=0.5, mask_probability=0.1, drop_probability=0.1)
    first, again, other = (
        augmented(tiny_bert, tiny_bert, text_dataset, settings, seed=seed)[0].examples
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_what_cannot_be_changed_is_refused(tiny_bert: TorchModel, tiny_vit: TorchModel):
    with pytest.raises(ValueError, match=r"join_probability: only single texts .* are pairs"):
        changed(tiny_bert, dataset_of(("a", "b")), join_probability=1)
    image = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="these examples are images"):
        changed(tiny_bert, dataset_of(image), drop_probability=0.5)
    with pytest.raises(ValueError, match="these examples are images"):
        changed(tiny_vit, dataset_of(image), mask_probability=0.5)


def test_other_mask_tokens_are_refused(tiny_bert: TorchModel, text_dataset: Dataset):
    class OtherTokens:
        mask_token = "<mask>"

    teacher = replace(tiny_bert, preprocessor=OtherTokens())
    settings = DistillSettings(mask_probability=0.1)
    with pytest.raises(ValueError, match=r"the student's is '\[MASK\]' and the teacher's '<mask>'"):
        augmented(tiny_bert, teacher, text_dataset, settings, seed=0)


def test_joined_texts_keep_the_label_that_both_have_and_no_other(tiny_bert: TorchModel):
    texts = tuple(f"text {index}" for index in range(60))  # of the class `index % 2`
    dataset = dataset_of(*texts)
    settings = DistillSettings(epochs=2, join_probability=0.5, label_weight=1)
    found = augmented(tiny_bert, tiny_bert, dataset, settings, seed=0)[0]
    assert found.labels is not None
    seen = set()
    for text, label in zip(found.examples, found.labels, strict=True):
        classes = {int(word) % 2 for word in str(text).split() if word != "text"}
        assert label == (classes.pop() if len(classes) == 1 else -100)
        seen.add((str(text).count("text"), int(label)))
    assert seen == {(1, 0), (1, 1), (2, 0), (2, 1), (2, -100)}


def test_without_labels_joined_texts_have_none(tiny_bert: TorchModel):
    dataset = replace(dataset_of("a", "b"), labels=None)
    assert changed(tiny_bert, dataset, join_probability=0.5).labels is None
