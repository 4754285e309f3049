"""Scores that are taken while a model trains, and the average of its weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from compressor.data import Dataset
from compressor.errors import StepFailed
from compressor.models.torch_model import TorchModel
from compressor.passes.prune_magnitude.settings import PruneMagnitude
from compressor.passes.quantize_aware_train.settings import QuantizeAwareTrain
from compressor.training.recovery import finetune
from compressor.training.scores import PlateauRate, Scores
from compressor.training.settings import FinetuneSettings
from compressor.training.training_run import Scorer, StepHook, TrainingRun

# 48 rows in batches of 12 are four steps an epoch.
STEPS = 8
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "warmup_ratio": 0}


def weights_of(model: TorchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) for name, value in found.items()
    )


class Scripted:
    """Gives scores from a list, and remembers the weights that they were given for."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, model: TorchModel) -> float:
        self.seen.append(weights_of(model))
        torch.rand(7)  # what a scorer draws changes no training
        return self.scores[len(self.seen) - 1]


@pytest.fixture
def train(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
) -> Callable[..., Any]:
    """Return a function that trains with a scorer and gives the summary."""

    def trained(scorer: Callable[[TorchModel], float], **settings: Any) -> Any:
        run = dataclasses.replace(training_run, scorer=Scorer(scorer, "of this test"))
        return finetune(tiny_bert, text_dataset, FinetuneSettings(**FAST, **settings), run)

    return trained


def test_scores_are_evenly_spread_and_the_last_is_at_the_end():
    def steps(count: int, total: int) -> list[int]:
        scores = Scores(FinetuneSettings(evaluations=count), lambda: 0.0)
        return [step for step in range(1, total + 1) if scores.due(step, total)]

    assert steps(3, 10) == [4, 7, 10]
    assert steps(10, 10) == steps(99, 10) == list(range(1, 11))
    assert steps(1, 10) == [10]


def test_the_weights_of_the_best_score_are_kept(tiny_bert: TorchModel, train: Any):
    scorer = Scripted(0.5, 0.9, 0.9, 0.7)

    summary = train(scorer, evaluations=4, keep_best=True)

    assert summary.steps == STEPS
    assert equal(weights_of(tiny_bert), scorer.seen[1])
    assert not equal(scorer.seen[1], scorer.seen[3])
    assert summary.sentence().endswith(
        "; scored 4 times on the search split, best 0.9000 after step 4, whose weights are kept"
    )


def test_scores_alone_change_no_weight(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun, train: Any
):
    plain = tiny_bert.clone()
    run = dataclasses.replace(training_run, work_dir=training_run.work_dir / "plain")
    finetune(plain, text_dataset, FinetuneSettings(**FAST), run)

    train(Scripted(0.5, 0.9, 0.6, 0.7), evaluations=4)

    assert equal(weights_of(tiny_bert), weights_of(plain))


def test_training_stops_when_scores_get_no_better(tiny_bert: TorchModel, train: Any, progress: Any):
    scorer = Scripted(0.5, 0.505, 0.9, 0.9, 0.905)

    summary = train(scorer, evaluations=8, patience=2, min_improvement=0.01)

    assert summary.steps == len(scorer.seen) == 5
    assert equal(weights_of(tiny_bert), scorer.seen[2])
    assert summary.sentence().endswith("whose weights are kept; stopped after 2 scores no better")
    assert len(progress.details) == STEPS  # the bar is full


def test_a_plateau_is_that_of_pytorch():
    scores = [0.5, 0.6, 0.6, 0.6, 0.55, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    oracle = ReduceLROnPlateau(
        optimizer, "max", factor=0.3, patience=1, threshold=0.01, threshold_mode="abs", min_lr=0.05
    )
    own = PlateauRate(0, 0.3, 1, 0.01, lowest=0.05)
    found, expected = [], []

    for score in scores:
        oracle.step(score)
        own.note(score)
        found.append(own(0))
        expected.append(optimizer.param_groups[0]["lr"])

    assert found == pytest.approx(expected)
    assert len(set(found)) == 4


def test_the_learning_rate_falls_with_the_next_step_of_a_plateau(
    train: Any, monkeypatch: pytest.MonkeyPatch
):
    rates: list[list[float]] = []
    step = torch.optim.AdamW.step

    def noting(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        rates.append([optimizer.param_groups[index]["lr"] / 1e-3 for index in (0, -1)])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    train(
        Scripted(0.5, 0.4, 0.4, 0.4),
        evaluations=4,
        schedule="reduce_on_plateau",
        plateau_patience=0,
        layer_decay=0.5,
    )

    assert [first for first, _ in rates] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [last for _, last in rates] == pytest.approx([0.125 * first for first, _ in rates])


def test_the_average_decays_little_by_little(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    seen: list[Tensor] = []

    def note(step: int, total: int) -> None:
        seen.append(tiny_bert.module.classifier.weight.detach().clone())

    settings = FinetuneSettings(**FAST, ema_decay=0.25)
    finetune(tiny_bert, text_dataset, settings, training_run, hook=StepHook(note))

    # Decays of 2/11 and 3/12, then 1/4.
    mean = seen[0]
    for decay, weight in zip((3 / 12, *6 * (1 / 4,)), seen[1:], strict=True):
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(tiny_bert.module.classifier.weight.detach(), mean)
    assert not torch.allclose(mean, seen[-1], atol=1e-5)


def test_it_is_the_average_that_is_scored(tiny_bert: TorchModel, train: Any):
    scorer = Scripted(0.5, 0.9)

    train(scorer, evaluations=2, ema_decay=0.9)

    assert equal(weights_of(tiny_bert), scorer.seen[1])


class Stopped(BaseException):
    """Ends a run like Ctrl-C, which nothing may catch."""


@pytest.mark.parametrize("stop", [3, 4, 5, 7])
@pytest.mark.parametrize(
    "settings",
    [
        {"keep_best": True, "ema_decay": 0.9},
        {"schedule": "reduce_on_plateau", "plateau_patience": 0, "patience": 6},
    ],
)
def test_a_stopped_training_goes_on_with_its_scores_and_its_average(
    tiny_bert: TorchModel,
    text_dataset: Dataset,
    training_run: TrainingRun,
    stop: int,
    settings: dict[str, Any],
):
    own = FinetuneSettings(**FAST, evaluations=8, **settings)

    def score(model: TorchModel) -> float:
        return -float(model.module.classifier.weight.detach().norm().round(decimals=2))

    run = dataclasses.replace(
        training_run, scorer=Scorer(score, "the norm"), checkpoint_seconds=0.0
    )
    elsewhere = dataclasses.replace(run, work_dir=run.work_dir / "undisturbed")
    undisturbed, stopped = tiny_bert.clone(), tiny_bert.clone()
    expected = finetune(undisturbed, text_dataset, own, elsewhere)

    def stopping(step: int, total: int) -> None:
        if step == stop:
            raise Stopped

    with pytest.raises(Stopped):
        finetune(stopped, text_dataset, own, run, hook=StepHook(stopping))
    found = finetune(tiny_bert, text_dataset, own, run)

    assert equal(weights_of(tiny_bert), weights_of(undisturbed))
    assert (found.scores, found.final_loss) == (expected.scores, expected.final_loss)
    assert expected.scores


def test_outputs_that_are_not_finite_end_the_training(train: Any):
    def score(model: TorchModel) -> float:
        raise FloatingPointError("the model's logits are not finite for row 3")

    with pytest.raises(StepFailed, match="not finite for row 3 at step 4"):
        train(score, evaluations=2)


def test_scores_need_somebody_who_takes_them(
    tiny_bert: TorchModel, text_dataset: Dataset, training_run: TrainingRun
):
    with pytest.raises(ValueError, match="need a TrainingRun with a scorer"):
        finetune(tiny_bert, text_dataset, FinetuneSettings(evaluations=1), training_run)


@pytest.mark.parametrize(
    "settings",
    [
        {"keep_best": True},
        {"patience": 3},
        {"min_improvement": 0.01},
        {"schedule": "reduce_on_plateau"},
    ],
)
def test_what_follows_from_scores_is_refused_without_any(settings: dict[str, Any]):
    with pytest.raises(ValidationError, match="would do nothing without scores; set evaluations"):
        FinetuneSettings.model_validate(settings)


@pytest.mark.parametrize("settings", [{"ema_decay": 0.99}, {"evaluations": 4, "keep_best": True}])
def test_weights_of_earlier_steps_are_refused_where_later_ones_differ(settings: dict[str, Any]):
    with pytest.raises(ValidationError, match="when schedule 'cubic' had pruned less"):
        PruneMagnitude(sparsity=0.5, schedule="cubic", finetune=FinetuneSettings(**settings))
    with pytest.raises(ValidationError, match="int8 is stored with are those of the last ones"):
        QuantizeAwareTrain(**settings)
