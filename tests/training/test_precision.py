import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.data import Dataset
from compressor.errors import EnvironmentMismatch
from compressor.models.torch_model import TorchModel, load_checkpoint
from compressor.training.batches import TrainingBatch
from compressor.training.distill_settings import DistillSettings
from compressor.training.losses import hidden_state_loss, relation_loss
from compressor.training.precision import LossScaler, autocast, precision_on
from compressor.training.recovery import distill, finetune
from compressor.training.settings import FinetuneSettings, TrainingSettings
from compressor.training.trainer import train
from compressor.training.training_run import Objective, StepHook, TrainingRun

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
    train(tiny_bert, text_dataset, settings, training_run, Objective(loss, {}))

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

    with autocast(CPU, "bfloat16"):
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

    with autocast(CPU, "float32"):
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
        ("float32", {"avx512_bf16": True}, "float32"),
        ("bfloat16", {}, "bfloat16"),
        ("auto", {"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ("auto", {"amx_bf16": True}, "bfloat16"),
        ("auto", {"avx512_bf16": False, "amx_bf16": False}, "float32"),
        ("auto", {"architecture": "aarch64"}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_has_it(
    precision: str, features: dict[str, object], expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    settings = TrainingSettings.model_validate({"precision": precision})

    assert precision_on(settings, CPU) == expected


@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_auto_is_float16_on_a_gpu_without_bfloat16(
    has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)

    found = precision_on(TrainingSettings(precision="auto"), torch.device("cuda"))

    assert found == ("bfloat16" if has_bfloat16 else "float16")


def test_float16_is_refused_where_it_is_slow(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    with pytest.raises(EnvironmentMismatch, match="CUDA devices, and training runs on 'cpu'"):
        finetune(tiny_bert, text_dataset, FinetuneSettings(precision="float16"), training_run)


@pytest.fixture
def float16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU, which computes float16 slowly, show what a GPU does."""
    monkeypatch.setattr("compressor.training.precision._FLOAT16_DEVICES", frozenset({"cpu"}))


HALF: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-3, "warmup_ratio": 0}


@pytest.mark.usefixtures("float16_on_cpu")
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.1])
def test_the_loss_is_scaled_and_the_gradients_are_not(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    max_grad_norm: float,
):
    # From 2 ** 16 on the first steps overflow and are left out.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=256.0))
    exact = tiny_bert.clone()
    settings: dict[str, Any] = {
        **HALF, "max_steps": 3, "optimizer": "sgd", "learning_rate": 0.02, "dropout": False,
        "max_grad_norm": max_grad_norm,
    }  # fmt: skip
    elsewhere = dataclasses.replace(training_run, work_dir=training_run.work_dir / "exact")
    finetune(exact, text_dataset, FinetuneSettings(**settings), elsewhere)

    half = FinetuneSettings(**settings, precision="float16")
    summary = finetune(tiny_bert, text_dataset, half, training_run)

    found, expected = tiny_bert.module.state_dict(), exact.module.state_dict()
    # Gradients of 11 bits; those that were still scaled would move weights 256 times as far.
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-4)
    assert not torch.equal(found["classifier.weight"], expected["classifier.weight"])
    assert summary.sentence().endswith("; matmuls in float16")


@pytest.mark.usefixtures("float16_on_cpu")
def test_a_step_whose_gradients_overflow_is_left_out(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    seen: list[Tensor] = []

    def note(step: int, total: int) -> None:
        seen.append(tiny_bert.module.classifier.bias.detach().clone())

    def loss(module: nn.Module, batch: TrainingBatch) -> Tensor:
        logits = module(**batch.inputs).logits
        steep = 1e30 if not seen else 1.0
        # Finite as it is, and not once it is scaled.
        return functional.cross_entropy(logits.float(), batch.targets) * 1e4 * steep / 1e4

    start = tiny_bert.module.classifier.bias.detach().clone()
    settings = TrainingSettings(**HALF, max_steps=2, precision="float16")
    objective, hook = Objective(loss, {}), StepHook(note)
    train(tiny_bert, text_dataset, settings, training_run, objective, hook)

    assert torch.equal(seen[0], start)
    assert not torch.equal(seen[1], start)


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


@pytest.mark.usefixtures("float16_on_cpu")
def test_a_stopped_training_goes_on_with_its_scale(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
):
    grow_soon = partial(torch.amp.GradScaler, init_scale=2.0**10, growth_interval=2)
    monkeypatch.setattr(torch.amp, "GradScaler", grow_soon)
    settings = FinetuneSettings(**HALF, epochs=1, precision="float16")
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0)
    undisturbed, stopped = tiny_bert.clone(), tiny_bert.clone()
    elsewhere = dataclasses.replace(run, work_dir=run.work_dir / "undisturbed")
    finetune(undisturbed, text_dataset, settings, elsewhere)

    def stop(step: int, total: int) -> None:
        if step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(stopped, text_dataset, settings, run, hook=StepHook(stop))
    finetune(tiny_bert, text_dataset, settings, run)

    found, expected = tiny_bert.module.state_dict(), undisturbed.module.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_scale_is_given_back():
    first, second = (LossScaler(CPU) for _ in range(2))
    optimizer = torch.optim.SGD([parameter := torch.zeros(1, requires_grad=True)], lr=1.0)
    first.scaler.scale(parameter.sum() * float("inf")).backward()
    first.scaler.step(optimizer)
    first.scaler.update()

    second.load_state_dict(first.state_dict())

    assert second.scaler.get_scale() == first.scaler.get_scale() == 2.0**15
    assert second.state_dict() == first.state_dict()


def test_half_precision_is_summed_in_float32():
    # 4,096 squared errors of 1 over squares of 4; bfloat16 would stop counting at 256.
    teacher = torch.full((1, 64, 64), 2.0, dtype=torch.bfloat16)
    student = torch.full((1, 64, 64), 1.0, dtype=torch.bfloat16)

    loss = hidden_state_loss(student, teacher).mean

    assert loss.dtype == torch.float32
    assert loss.item() == 0.25
    assert relation_loss(student, teacher, 4).mean.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_training_in_float16_on_a_gpu_learns(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    run = dataclasses.replace(training_run, device=torch.device("cuda"))
    settings = FinetuneSettings(**{**HALF, "epochs": 20}, precision="float16", dropout=False)

    summary = finetune(tiny_bert, text_dataset, settings, run)

    assert summary.final_loss < 0.5
    assert tiny_bert.device == torch.device("cpu")
    assert {value.dtype for value in tiny_bert.module.parameters()} == {torch.float32}
