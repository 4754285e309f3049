import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.training.batches import TrainingBatch
from compressor.training.losses import hidden_state_loss, relation_loss
from compressor.training.precision import autocast, computes_in_bfloat16
from compressor.training.recovery import distill
from compressor.training.settings import DistillSettings, TrainingSettings
from compressor.training.trainer import train
from compressor.training.training_run import TrainingRun

CPU = torch.device("cpu")
LOSSES = {
    "label_weight": 1.0,
    "hidden_weight": 1.0,
    "attention_weight": 1.0,
    "sublayer_weight": 1.0,
    "relation_weight": 1.0,
}


def distilled(
    model: TorchModel, dataset: Dataset, run: TrainingRun, precision: str
) -> tuple[dict[str, Tensor], float]:
    name = model.module.config._name_or_path
    student, teacher = load_checkpoint(name), load_checkpoint(name)
    with torch.no_grad():
        teacher.module.classifier.weight.mul_(-1.5)
    settings = DistillSettings.model_validate(
        {**LOSSES, "precision": precision, "max_steps": 4, "batch_size": 8}
    )
    summary = distill(student, teacher, dataset, settings, run)
    weights = {name: value.clone() for name, value in student.module.state_dict().items()}
    return weights, summary.final_loss


def test_matrix_products_are_bfloat16_and_weights_stay_float32(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    seen: list[torch.dtype] = []

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        logits = module(**batch.inputs).logits
        seen.append(logits.dtype)
        return functional.cross_entropy(logits.float(), batch.targets)

    settings = TrainingSettings(max_steps=1, precision="bfloat16")
    train(tiny_bert, text_dataset, settings, training_run, loss=loss, goal={})

    assert seen == [torch.bfloat16]
    assert {value.dtype for value in tiny_bert.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("by_name", [False, True])
def test_attention_is_computed_in_float32_among_bfloat16_products(by_name: bool):
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 3, 5, 8, generator=random).bfloat16() for _ in range(3)]
    mask = torch.randn(2, 1, 5, 5, generator=random).bfloat16()
    precise = functional.scaled_dot_product_attention(
        *(value.float() for value in states), attn_mask=mask.float()
    )

    with autocast(CPU, bfloat16=True):
        if by_name:
            named = dict(zip(("query", "key", "value"), states, strict=True))
            found = functional.scaled_dot_product_attention(**named, attn_mask=mask)
        else:
            found = functional.scaled_dot_product_attention(*states, mask)
        product = states[0].float() @ states[1].float().mT

    torch.testing.assert_close(found, precise.bfloat16(), rtol=0, atol=0)
    assert product.dtype == torch.bfloat16


def test_attention_in_a_float32_block_is_left_alone():
    states = torch.randn(1, 1, 4, 8, generator=torch.Generator().manual_seed(0))

    with autocast(CPU, bfloat16=False):
        found = functional.scaled_dot_product_attention(states, states, states)

    assert found.dtype == torch.float32


def test_every_loss_is_nearly_the_same_in_bfloat16(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    elsewhere = dataclasses.replace(training_run, work_dir=training_run.work_dir / "bfloat16")

    exact, exact_loss = distilled(tiny_bert, text_dataset, training_run, "float32")
    half, half_loss = distilled(tiny_bert, text_dataset, elsewhere, "bfloat16")

    assert half_loss == pytest.approx(exact_loss, rel=0.02)
    assert any(not torch.equal(value, exact[name]) for name, value in half.items())


def test_the_same_seed_gives_the_same_weights_in_bfloat16(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    elsewhere = dataclasses.replace(training_run, work_dir=training_run.work_dir / "again")

    first, _ = distilled(tiny_bert, text_dataset, training_run, "bfloat16")
    second, _ = distilled(tiny_bert, text_dataset, elsewhere, "bfloat16")

    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_finished_run_in_float32_is_not_taken_for_one_in_bfloat16(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    first, _ = distilled(tiny_bert, text_dataset, training_run, "auto")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    second, _ = distilled(tiny_bert, text_dataset, training_run, "auto")

    assert any(not torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("precision", "features", "expected"),
    [
        ("float32", {"avx512_bf16": True}, False),
        ("bfloat16", {}, True),
        ("auto", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("auto", {"amx_bf16": True}, True),
        ("auto", {"avx512_bf16": False, "amx_bf16": False}, False),
        ("auto", {"architecture": "aarch64"}, False),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_has_it(
    precision: str, features: dict[str, object], expected: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    settings = TrainingSettings.model_validate({"precision": precision})

    assert computes_in_bfloat16(settings, CPU) is expected


def test_half_precision_is_summed_in_float32():
    # 4,096 squared errors of 1 over squares of 4; bfloat16 would stop counting at 256.
    teacher = torch.full((1, 64, 64), 2.0, dtype=torch.bfloat16)
    student = torch.full((1, 64, 64), 1.0, dtype=torch.bfloat16)

    loss = hidden_state_loss(student, teacher)

    assert loss.dtype == torch.float32
    assert loss.item() == 0.25
    assert relation_loss(student, teacher, 4).dtype == torch.float32
