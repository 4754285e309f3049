"""By what examples are batched: tokens, as far as they are read."""

from dataclasses import replace

from compressor.models.torch_model import TorchModel


def test_texts_are_batched_by_their_tokens(tiny_bert: TorchModel):
    # A word that the vocabulary lacks is one token, however long.
    texts = ["unknownunknownunknownunknown", "good film good film", ("good", "film good")]
    task = replace(tiny_bert.task, max_length=6)

    found = task.lengths(tiny_bert.preprocessor, texts[:2]).tolist()

    assert found == [3, 6]
    assert task.lengths(tiny_bert.preprocessor, texts[2:]).tolist() == [
        6
    ]  # three words, three separators
    assert replace(task, max_length=5).lengths(tiny_bert.preprocessor, texts[:2]).tolist() == [3, 5]


def test_images_have_one_length(tiny_vit: TorchModel, image_dataset):
    found = tiny_vit.task.lengths(tiny_vit.preprocessor, image_dataset.examples[:3])
    assert found.tolist() == [0, 0, 0]
