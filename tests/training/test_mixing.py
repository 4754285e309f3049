"""Examples that are mixed two and two: inputs, labels, and what is drawn."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes.distill.settings import Distill
from compressor.tasks import load_task
from compressor.training.batches import TrainingBatch
from compressor.training.distill_settings import DistillSettings
from compressor.training.mixing import Mix, Mixer, mixed_loss, run_mixed
from compressor.training.recovery import distill, finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import StepHook, TrainingRun


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
    mixer, images = Mixer(0, mixup_alpha=0.0, cutmix_alpha=1.0), torch.zeros(4, 3, 10, 20)
    images[1] = 1.0

    for _ in range(20):
        mix = mixer.draw(images)
        pasted = mix.of(images)[mix.partners == 1]
        stays = 1.0 if mix.partners[1] == 1 else 1 - float(pasted[0, 0].mean())
        assert mix.partners[1] == 1 or mix.share == pytest.approx(stays)


def test_shares_are_drawn_from_the_beta_distribution():
    mixer = Mixer(0, mixup_alpha=0.5)
    shares = torch.tensor([mixer.draw(torch.zeros(3, 1)).share for _ in range(2000)])

    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 8, abs=0.01)


def test_with_both_a_batch_takes_one_of_them_by_chance():
    mixer = Mixer(0, mixup_alpha=0.5, cutmix_alpha=1.0)
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


def test_positions_that_are_counted_by_padding_go_on_where_a_partner_is_longer():
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        initializer_range=0.5,
        pad_token_id=1,
    )
    module = transformers.RobertaForSequenceClassification(config).eval()
    ids = torch.tensor([[0, 5, 2, 1, 1], [0, 7, 8, 9, 2]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long()}

    found = run_mixed(module, inputs, Mix(0.25, torch.tensor([1, 0]))).logits

    words = module.get_input_embeddings().weight[ids]
    expected = module(
        inputs_embeds=0.25 * words + 0.75 * words.flip(0),
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(2, 7).expand(2, 5),
    ).logits
    torch.testing.assert_close(found, expected)


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
        finetune(stopped, dataset, own, run, hook=StepHook(stop_at_four))
    finetune(model, dataset, own, run)

    found, expected = model.module.state_dict(), undisturbed.module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    without = own.model_copy(update={"mixup_alpha": 0.0, "cutmix_alpha": 0.0})
    finetune(plain, dataset, without, dataclasses.replace(run, work_dir=run.work_dir / "plain"))
    others: dict[str, Tensor] = plain.module.state_dict()
    assert not torch.equal(others["classifier.weight"], expected["classifier.weight"])


@pytest.mark.parametrize(("kind", "label_weight"), [("text", 0.0), ("text", 0.5), ("image", 0.0)])
def test_a_student_learns_what_its_teacher_says_of_the_mixed_example(
    kind: str, label_weight: float, tiny_bert: TorchModel, tiny_vit: TorchModel,
    text_dataset: Dataset, image_dataset: Dataset, training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    model = tiny_bert if kind == "text" else tiny_vit
    dataset = text_dataset if kind == "text" else image_dataset
    teacher = model.clone()
    with torch.no_grad():
        teacher.module.get_input_embeddings().weight.mul_(-1.5) if kind == "text" else None
        teacher.module.classifier.weight.mul_(-2)
    whole = len(dataset)
    settings = DistillSettings(
        max_steps=1,
        batch_size=whole,
        mixup_alpha=0.4,
        dropout=False,
        logits_loss="mse",
        label_weight=label_weight,
    )
    drawn: list[tuple[Mix, dict[str, Tensor]]] = []
    draw = Mixer.draw
    read = model.module.main_input_name

    def remember(self: Mixer, values: Tensor) -> Mix:
        drawn.append((draw(self, values), values))
        return drawn[-1][0]

    monkeypatch.setattr(Mixer, "draw", remember)
    before = model.clone()

    summary = distill(model, teacher, dataset, settings, training_run)

    [(mix, values)] = drawn
    batch = batch_of(before, dataset, list(range(whole)))
    rows = [int((batch.inputs[read] == row).flatten(1).all(dim=1).nonzero()[0]) for row in values]
    inputs = {name: value[rows] for name, value in batch.inputs.items()}
    with torch.no_grad():
        own, wanted = (run_mixed(each.module, inputs, mix).logits for each in (before, teacher))
        unmixed = teacher.module(**inputs).logits
    labels = mixed_loss(functional.cross_entropy, own, batch.targets[rows], mix)
    mixed, plain = (
        float((own - each).square().mean() + label_weight * labels) for each in (wanted, unmixed)
    )
    assert summary.final_loss == pytest.approx(mixed, rel=1e-4)
    assert summary.final_loss != pytest.approx(plain, rel=1e-3)


def test_a_teacher_of_other_tokens_is_not_given_mixed_examples(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    teacher = tiny_bert.clone()
    teacher.preprocessor = copy.deepcopy(teacher.preprocessor)
    teacher.preprocessor.add_tokens(["another"])

    with pytest.raises(StepFailed, match="cannot be given the same mixed examples; set mixup"):
        distill(tiny_bert, teacher, text_dataset, DistillSettings(mixup_alpha=0.2), training_run)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"hidden_weight": 1},
            "which hidden_weight cannot; remove mixup_alpha, or set hidden_weight to 0",
        ),
        ({"margin_weight": 1}, "which margin_weight cannot"),
        ({"teacher_cache": "cache"}, "or set teacher_cache to null"),
        ({"logits_weight": 0, "label_weight": 1}, "mixup_alpha would do nothing with logits"),
    ],
)
def test_what_cannot_be_mixed_is_refused(given: dict[str, object], said: str):
    with pytest.raises(ValidationError, match=said):
        DistillSettings.model_validate({"mixup_alpha": 0.2, **given})


@pytest.mark.parametrize(
    ("task", "more", "keys"),
    [
        ("text-classification", {"label_weight": 1.0}, []),
        ("sentence-embedding", {}, []),
        ("multi-label-classification", {}, []),
        ("multi-label-classification", {"label_weight": 1.0}, ["mixup_alpha"]),
        ("token-classification", {}, ["mixup_alpha"]),
        ("masked-language-modeling", {}, ["mixup_alpha"]),
    ],
)
def test_tasks_say_whether_a_teacher_can_be_asked_about_mixed_examples(
    task: str, more: dict[str, float], keys: list[str]
):
    settings = Distill(mixup_alpha=0.2, **more)

    assert [key for key, _ in settings.unfit_for(load_task(task))] == keys
