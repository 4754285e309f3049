import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, StepLR

from compressor.data import Dataset
from compressor.models.torch_model import TorchModel
from compressor.training.recovery import finetune
from compressor.training.schedules import cubic_sparsity, gradual_pruning, total_steps
from compressor.training.settings import FinetuneSettings, TrainingSettings
from compressor.training.training_run import TrainingRun

RATE = 1e-3


@pytest.fixture
def learning_rates(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Return a function that trains and gives the learning rate of each step over the highest.

    The 48 rows make an epoch of 4 steps.
    """

    def found(**settings: Any) -> list[float]:
        rates: list[float] = []
        step = torch.optim.AdamW.step

        def noting(optimizer: torch.optim.AdamW, *args: Any) -> Any:
            rates.append(optimizer.param_groups[0]["lr"] / RATE)
            return step(optimizer, *args)

        monkeypatch.setattr(torch.optim.AdamW, "step", noting)
        own = FinetuneSettings(batch_size=12, learning_rate=RATE, **settings)
        finetune(tiny_bert, text_dataset, own, training_run)
        return rates

    return found


def rates_of(kind: type[LRScheduler], steps: int, **settings: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule: Any = kind(optimizer, **settings)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_steps_of_the_learning_rate_are_those_of_pytorch(learning_rates: Any):
    found = learning_rates(
        epochs=3, warmup_ratio=0, schedule="step", decay_epochs=1.5, decay_factor=0.5
    )

    assert found == pytest.approx(rates_of(StepLR, 12, step_size=6, gamma=0.5))


def test_exponential_decay_is_that_of_pytorch(learning_rates: Any):
    found = learning_rates(epochs=2, warmup_ratio=0, schedule="exponential", decay_factor=0.16)

    # An epoch has four steps.
    assert found == pytest.approx(rates_of(ExponentialLR, 8, gamma=0.16**0.25))


def test_steps_of_the_learning_rate_begin_after_the_warm_up(learning_rates: Any):
    found = learning_rates(
        epochs=2, warmup_ratio=0.25, schedule="step", decay_epochs=0.5, decay_factor=0.5
    )

    assert found == pytest.approx([0, 0.5, 1, 1, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Two half waves of four steps.
        ({"schedule": "cosine_with_restarts"}, 2 * [1, (2 + 2**0.5) / 4, 1 / 2, (2 - 2**0.5) / 4]),
        ({"schedule": "polynomial"}, [(1 - step / 8) ** 2 for step in range(8)]),
        (
            {"schedule": "polynomial", "power": 1, "final_lr_ratio": 0.2},
            [1 - 0.1 * step for step in range(8)],
        ),
        (
            {"schedule": "cosine", "final_lr_ratio": 0.2},
            [0.6 + 0.4 * math.cos(math.pi * step / 8) for step in range(8)],
        ),
        (
            {"schedule": "warmup_stable_decay", "decay_ratio": 0.5},
            [1, 1, 1, 1, 1, 3 / 4, 1 / 2, 1 / 4],
        ),
        ({"schedule": "inverse_sqrt"}, [(1 + step) ** -0.5 for step in range(8)]),
        (
            {"schedule": "inverse_sqrt", "warmup_ratio": 0.25},
            [0, 1 / 2, *((2 / step) ** 0.5 for step in range(2, 8))],
        ),
    ],
)
def test_the_learning_rate_follows_the_formula_of_its_schedule(
    learning_rates: Any, settings: dict[str, Any], expected: list[float]
):
    assert learning_rates(epochs=2, **{"warmup_ratio": 0, **settings}) == pytest.approx(expected)


def test_sparsity_is_initial_until_the_ramp_begins():
    assert cubic_sparsity(10, begin=10, end=20, initial=0.2, final=0.8) == pytest.approx(0.2)
    assert cubic_sparsity(3, begin=10, end=20, initial=0.2, final=0.8) == pytest.approx(0.2)


def test_sparsity_is_final_from_the_end_of_the_ramp():
    assert cubic_sparsity(20, begin=10, end=20, initial=0.2, final=0.8) == 0.8
    assert cubic_sparsity(99, begin=10, end=20, initial=0.2, final=0.8) == 0.8


def test_halfway_seven_eighths_of_the_way_are_done():
    # 1 - (1 - 1/2)^3 = 7/8
    assert cubic_sparsity(15, begin=10, end=20, initial=0.0, final=0.8) == pytest.approx(0.7)


def test_a_ramp_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="got 20 to 10"):
        cubic_sparsity(5, begin=20, end=10, initial=0.0, final=0.5)


class Recorder:
    def __init__(self) -> None:
        self.sparsities: list[float] = []
        self.holds = 0

    def prune_to(self, sparsity: float) -> None:
        self.sparsities.append(sparsity)

    def hold(self) -> None:
        self.holds += 1


def run_steps(total: int, *, sparsity: float, ramp_ratio: float) -> Recorder:
    recorder = Recorder()
    after_step = gradual_pruning(
        recorder.prune_to, recorder.hold, sparsity=sparsity, ramp_ratio=ramp_ratio
    )
    for step in range(1, total + 1):
        after_step(step, total)
    return recorder


def test_gradual_pruning_reaches_its_sparsity_at_the_end_of_the_ramp_and_holds_it():
    recorder = run_steps(8, sparsity=0.8, ramp_ratio=0.5)

    # Steps 1 to 4 of the ramp: 0.8 (1 - (1 - t/4)^3).
    assert recorder.sparsities == pytest.approx([0.4625, 0.7, 0.7875, 0.8])
    assert recorder.holds == 4


def test_gradual_pruning_of_one_step_prunes_in_it():
    assert run_steps(1, sparsity=0.5, ramp_ratio=0.1).sparsities == [0.5]


def test_gradual_pruning_ranks_the_weights_at_most_51_times():
    recorder = run_steps(10_000, sparsity=0.5, ramp_ratio=0.9)

    assert len(recorder.sparsities) <= 51
    assert recorder.sparsities[-1] == 0.5
    assert len(recorder.sparsities) + recorder.holds == 10_000


def test_fractions_of_epochs_are_not_rounded_up_by_what_binary_numbers_cannot_hold():
    assert total_steps(100, TrainingSettings(batch_size=1, epochs=1.1)) == 110
    assert total_steps(100, TrainingSettings(batch_size=1, epochs=1.101)) == 111
    assert total_steps(3, TrainingSettings(batch_size=32, epochs=1e-9)) == 1
