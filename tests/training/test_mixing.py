"""Examples that are mixed two and two: inputs, labels, and what is drawn."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.training.batches import TrainingBatch
from compressor.training.mixing import Mix, Mixer, mixed_loss, run_mixed
from compressor.training.recovery import finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import TrainingRun


def batch_of(model: TorchModel, dataset: Dataset, rows: list[int]) -> TrainingBatch:
    encoded = model.task.encode(model.preprocessor, [dataset.examples[row] for row in rows])
    inputs = {name: torch.from_numpy(value) for name, value in encoded.items()}
    return TrainingBatch(inputs, torch.from_numpy(dataset.labels[rows]), torch.tensor(rows))


def test_images_are_mixed_pixel_by_pixel():
    images = torch.arange(8.0).view(2, 1, 2, 2)
    mix = Mix(0.75, torch.tensor([1, 0]))

    # 0.75 * (0, 1, 2, 3) + 0.25 * (4, 5, 6, 7), and the other way round.
    assert mix.of(images).flatten().tolist() == [1, 2, 3, 4, 3, 4, 5, 6]


def test_a_box_of_another_image_is_pasted():
    images = torch.stack([torch.zeros(1, 2, 3), torch.ones(1, 2, 3)])
    mix = Mix(2 / 3, torch.tensor([1, 0]), (slice(0, 1), slice(1, 3)))

    assert mix.of(images)[0, 0].tolist() == [[0, 1, 1], [0, 0, 0]]


def test_the_share_of_a_label_is_the_area_that_stays():
    settings = FinetuneSettings(cutmix_alpha=1.0)
    mixer, images = Mixer(settings, seed=0), torch.zeros(4, 3, 10, 20)
    images[1] = 1.0

    for _ in range(20):
        mix = mixer.draw(images)
        pasted = mix.of(images)[mix.partners == 1]
        stays = 1.0 if mix.partners[1] == 1 else 1 - float(pasted[0, 0].mean())
        assert mix.partners[1] == 1 or mix.share == pytest.approx(stays)


def test_shares_are_drawn_from_the_beta_distribution():
    mixer = Mixer(FinetuneSettings(mixup_alpha=0.5), seed=0)
    shares = torch.tensor([mixer.draw(torch.zeros(3, 1)).share for _ in range(2000)])

    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 8, abs=0.01)


def test_with_both_a_batch_takes_one_of_them_by_chance():
    mixer = Mixer(FinetuneSettings(mixup_alpha=0.5, cutmix_alpha=1.0), seed=0)
    boxes = [mixer.draw(torch.zeros(3, 1, 8, 8)).box is not None for _ in range(200)]

    assert 80 < sum(boxes) < 120


def test_the_loss_is_that_of_labels_mixed_in_the_same_proportion():
    outputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    targets, partners = torch.tensor([0, 3, 2]), torch.tensor([1, 2, 0])
    mix = Mix(0.3, partners)

    found = mixed_loss(functional.cross_entropy, outputs, targets, mix)

    labels = functional.one_hot(targets, 4).float()
    expected = functional.cross_entropy(outputs, 0.3 * labels + 0.7 * labels[partners])
    assert float(found) == pytest.approx(float(expected))


def test_texts_are_mixed_by_the_embeddings_of_their_tokens(
    tiny_bert: TorchModel, text_dataset: Dataset
):
    lengths = [len(str(text).split()) for text in text_dataset.examples]
    rows = [lengths.index(min(lengths)), lengths.index(max(lengths))]
    batch = batch_of(tiny_bert, text_dataset, rows)
    mix = Mix(0.25, torch.tensor([1, 0]))

    found = run_mixed(tiny_bert.module, batch.inputs, mix).logits

    table = tiny_bert.module.get_input_embeddings().weight
    words = table[batch.inputs["input_ids"]]
    expected = tiny_bert.module(
        inputs_embeds=0.25 * words + 0.75 * words.flip(0),
        attention_mask=torch.ones_like(batch.inputs["input_ids"]),  # where either has a token
        token_type_ids=batch.inputs["token_type_ids"],
    ).logits
    torch.testing.assert_close(found, expected)
    plain = tiny_bert.module(**batch.inputs).logits
    torch.testing.assert_close(
        run_mixed(tiny_bert.module, batch.inputs, Mix(1.0, torch.arange(2))).logits, plain
    )


def test_a_model_that_reads_no_table_is_refused(
    tiny_bert: TorchModel, text_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    other = torch.nn.Embedding(2, 2)
    monkeypatch.setattr(tiny_bert.module, "get_input_embeddings", lambda: other)

    with pytest.raises(StepFailed, match="table of input embeddings 0 times"):
        run_mixed(
            tiny_bert.module,
            batch_of(tiny_bert, text_dataset, [0, 1]).inputs,
            Mix(0.5, torch.tensor([1, 0])),
        )


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


def stop_at_four(step: int, total: int) -> None:
    if step == 4:
        raise Stopped


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("text", {"mixup_alpha": 0.4}),
        ("image", {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "label_smoothing": 0.1}),
    ],
)
def test_a_stopped_training_draws_what_it_would_have_drawn(
    kind: str, settings: Any, tiny_bert: TorchModel, tiny_vit: TorchModel, text_dataset: Dataset,
    image_dataset: Dataset, training_run: TrainingRun,
):  # fmt: skip
    model = tiny_bert if kind == "text" else tiny_vit
    dataset = text_dataset if kind == "text" else image_dataset
    own = FinetuneSettings(epochs=1, batch_size=8, learning_rate=1e-3, **settings)
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0)
    elsewhere = dataclasses.replace(run, work_dir=run.work_dir / "undisturbed")
    plain, undisturbed, stopped = model.clone(), model.clone(), model.clone()
    finetune(undisturbed, dataset, own, elsewhere)

    with pytest.raises(Stopped):
        finetune(stopped, dataset, own, run, after_step=stop_at_four)
    finetune(model, dataset, own, run)

    found, expected = model.module.state_dict(), undisturbed.module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    without = own.model_copy(update={"mixup_alpha": 0.0, "cutmix_alpha": 0.0})
    finetune(plain, dataset, without, dataclasses.replace(run, work_dir=run.work_dir / "plain"))
    others: dict[str, Tensor] = plain.module.state_dict()
    assert not torch.equal(others["classifier.weight"], expected["classifier.weight"])
