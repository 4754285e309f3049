"""Every optimizer takes the steps of its paper, and a stopped training goes on with its state."""

import dataclasses
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.optimizers import optimizer_of
from compressor.training.recovery import finetune
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import StepHook, TrainingRun

needs_package = pytest.mark.skipif(
    find_spec("pytorch_optimizer") is None, reason="pytorch-optimizer is not installed"
)
ALL = [
    "adamw",
    "adam",
    "sgd",
    "adagrad",
    "rmsprop",
    "adafactor",
    pytest.param("adabelief", marks=needs_package),
    pytest.param("lion", marks=needs_package),
]


def steps_of(gradients: list[float], **settings: Any) -> list[float]:
    """Return where steps of learning rate 0.1 lead from 1, a number with these gradients."""
    found = optimizer_of(FinetuneSettings(learning_rate=0.1, **settings))
    assert found is not None
    kind, arguments = found
    parameter = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    optimizer: Any = kind([parameter], **arguments)
    seen = []
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        seen.append(parameter.item())
    return seen


def test_sgd_adds_up_gradients_with_momentum():
    # v = 0.5, then 0.9 * 0.5 + 1 = 1.45.
    assert steps_of([0.5, 1.0], optimizer="sgd") == pytest.approx([0.95, 0.805])
    assert steps_of([0.5, 1.0], optimizer="sgd", momentum=0.0) == pytest.approx([0.95, 0.85])


def test_adagrad_divides_by_the_root_of_all_squares():
    assert steps_of([3.0, 4.0], optimizer="adagrad") == pytest.approx([0.9, 0.9 - 0.1 * 4 / 5])


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    # v = 0.01 * 4 = 0.2 squared, then 0.99 * 0.04 + 0.01 * 1.
    expected = [1 - 0.1 * 2 / 0.2, 1 - 0.1 * 2 / 0.2 - 0.1 / math.sqrt(0.0496)]
    assert steps_of([2.0, 1.0], optimizer="rmsprop") == pytest.approx(expected, abs=1e-6)


def test_adam_corrects_both_means_for_their_start():
    # Means 0.2 and 0.28 over 0.1 and 0.19; squares 0.004 and 0.004996 over 0.001 and 0.001999.
    second = (0.28 / 0.19) / math.sqrt(0.004996 / 0.001999)
    expected = [0.9, 0.9 - 0.1 * second]
    assert steps_of([2.0, 1.0], optimizer="adam") == pytest.approx(expected)


def test_adafactor_divides_by_the_root_of_a_mean_whose_decay_grows():
    # The first step decays by 0, the second by 1 - 2 ** -0.8 of the squares.
    decay = 1 - 2**-0.8
    second = 1 / math.sqrt(decay * 4 + (1 - decay) * 1)
    expected = [0.9, 0.9 - 0.1 * second]
    assert steps_of([2.0, 1.0], optimizer="adafactor") == pytest.approx(expected)


@needs_package
def test_lion_moves_by_the_sign_of_a_mix_of_momentum_and_gradient():
    # Momentum 0.01 * 2; then 0.9 * 0.02 - 0.1 * 0.1 is positive, and 0.9 * 0.0188 - 0.1 is not.
    assert steps_of([2.0, -0.1, -1.0], optimizer="lion") == pytest.approx([0.9, 0.8, 0.9])


@needs_package
def test_adabelief_divides_by_how_far_gradients_are_from_their_mean():
    # Mean 0.2, 1.8 off it; then 0.28, 0.72 off it.
    squares = [0.001 * 1.8**2, 0.999 * 0.001 * 1.8**2 + 0.001 * 0.72**2]
    first = 2 / math.sqrt(squares[0] / 0.001)
    second = (0.28 / 0.19) / math.sqrt(squares[1] / 0.001999)
    found = steps_of([2.0, 1.0], optimizer="adabelief")
    assert found == pytest.approx([1 - 0.1 * first, 1 - 0.1 * (first + second)])


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


def stop_at_three(step: int, total: int) -> None:
    if step == 3:
        raise Stopped


@pytest.mark.parametrize("name", ALL)
def test_a_training_that_is_stopped_goes_on_with_the_state_of_its_optimizer(
    name: Any, tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    settings = FinetuneSettings(
        max_steps=5, batch_size=8, optimizer=name, learning_rate=1e-3, layer_decay=0.9
    )
    run = dataclasses.replace(training_run, checkpoint_seconds=0.0)
    start, stopped = tiny_bert.clone(), tiny_bert.clone()
    undisturbed = dataclasses.replace(run, work_dir=run.work_dir / "undisturbed")
    finetune(tiny_bert, text_dataset, settings, undisturbed)
    with pytest.raises(Stopped):
        finetune(stopped, text_dataset, settings, run, hook=StepHook(stop_at_three))

    seen: list[int] = []
    finetune(start, text_dataset, settings, run, hook=StepHook(lambda step, _: seen.append(step)))

    assert seen == [3, 4, 5]  # the third stopped before its checkpoint
    found: dict[str, Tensor] = start.module.state_dict()
    expected = tiny_bert.module.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_gradient_that_is_longer_than_its_norm_may_be_is_cut(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    free, cut = tiny_bert.clone(), tiny_bert.clone()
    before = {name: value.clone() for name, value in tiny_bert.module.named_parameters()}

    def moved(model: TorchModel, norm: float) -> float:
        settings = FinetuneSettings(
            max_steps=1, optimizer="sgd", momentum=0, learning_rate=0.01, weight_decay=0,
            warmup_ratio=0, max_grad_norm=norm,
        )  # fmt: skip
        run = dataclasses.replace(training_run, work_dir=training_run.work_dir / f"{norm}")
        finetune(model, text_dataset, settings, run)
        change = [value - before[name] for name, value in model.module.named_parameters()]
        return float(torch.cat([value.detach().flatten() for value in change]).norm())

    assert moved(cut, 1e-2) == pytest.approx(1e-4, rel=1e-3)
    assert moved(free, 0) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer sgd needs a learning_rate of its own"),
        ({"optimizer": "lion"}, "1e-5 for lion"),
        ({"momentum": 0.9}, "momentum belongs to optimizer sgd or rmsprop and would do nothing"),
        ({"optimizer": "sgd", "learning_rate": 0.1, "betas": [0.9, 0.99]}, "betas belongs to"),
        ({"optimizer": "adafactor", "learning_rate": 1e-3, "epsilon": 1e-8}, "epsilon belongs to"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        FinetuneSettings.model_validate(settings)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("compressor.training.settings.find_spec", lambda name: None)
    [(setting, why)] = FinetuneSettings(optimizer="lion", learning_rate=1e-5).missing_packages()

    assert setting == "optimizer"
    assert "install compressor with its extra 'optimizers'" in why


def test_the_betas_of_adamw_reach_it(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
):
    seen: list[Any] = []
    step = torch.optim.AdamW.step

    def noting(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        seen.append((optimizer.param_groups[0]["betas"], optimizer.param_groups[0]["eps"]))
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    settings = FinetuneSettings(max_steps=1, betas=(0.8, 0.95), epsilon=1e-6)
    finetune(tiny_bert, text_dataset, settings, training_run)

    assert seen == [((0.8, 0.95), 1e-6)]
