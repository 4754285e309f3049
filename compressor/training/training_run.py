"""The words of a training run: where it happens, what it optimizes, what it did, how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.errors import StepFailed
from compressor.machine.team import ALONE, Team
from compressor.models.torch_model import TorchModel
from compressor.progress import Progress
from compressor.training.batches import TrainingBatch
from compressor.training.snapshot import Stateful
from compressor.words import counted

# Maps a module and a batch, both on the training device, to a scalar.
LossFunction = Callable[[nn.Module, TrainingBatch], Tensor]
# Called after each optimizer step with the number of steps taken and of all steps.
AfterStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Scorer:
    """Scores a model on rows that it is not trained on; the higher the better.

    `key` stands for rows and metric: two scorers with the same one give the same scores.
    """

    score: Callable[[TorchModel], float]
    key: str


@dataclass(frozen=True)
class TrainingRun:
    """Where and how a training run happens, apart from its settings.

    `work_dir` is scratch space for this run alone; what an earlier process left there of the very
    same run is used. `description` names the run in the progress display.
    """

    device: torch.device
    seed: int
    work_dir: Path
    progress: Progress
    description: str
    checkpoint_seconds: float = 10.0  # between checkpoints, at least; 0: at every step
    scorer: Scorer | None = None  # for settings that score the model while it trains
    team: Team = ALONE  # the processes that train together


@dataclass(frozen=True)
class Objective:
    """What a training run minimizes, and what belongs to that.

    `facts` is plain JSON data about what `loss` computes, so that no run is taken for another.
    What the loss remembers from step to step is `cached`, by name: a run that is resumed needs it,
    and nobody does once it is over. The parameters of the modules `trained_too`, which the loss
    uses, are trained with the model's. `count` says how much labels count where a step is cut into
    parts. With `whole_groups` the rows of a group, such as a query's candidates, come in one batch.
    """

    loss: LossFunction
    facts: Mapping[str, object]
    cached: Mapping[str, Stateful] = field(default_factory=dict)
    trained_too: Mapping[str, nn.Module] = field(default_factory=dict)
    count: Callable[[Tensor], Tensor] | None = None
    told: str = ""  # what is learnt, in words, for the report
    whole_groups: bool = False


@dataclass(frozen=True)
class StepHook:
    """What a caller does after each optimizer step, besides what the loss does.

    `facts` is plain JSON data about what it does, so that no run is taken for another; `kept` is
    what it remembers from step to step, by name.
    """

    after_step: AfterStep
    facts: Mapping[str, object] = field(default_factory=dict)
    kept: Mapping[str, Stateful] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSummary:
    """What a training run did; `final_loss` is the mean over the last tenth of its steps."""

    steps: int
    seconds: float
    final_loss: float
    scores: str = ""  # in words; empty where none were taken
    told: str = ""  # what was learnt, in words; empty where settings say it all

    def sentence(self) -> str:
        """Return the facts as a note for the report."""
        steps = counted(self.steps, "step")
        words = f"{steps} in {self.seconds:.1f} s, loss {self.final_loss:.4f} at the end"
        return "; ".join(part for part in (words, self.told, self.scores) if part)


class TrainingDiverged(StepFailed):
    """The loss or the weights stopped being finite; training stopped at once."""

    def __init__(self, what: str, *, step: int, loss: float, learning_rate: float) -> None:
        self.step = step
        self.loss = loss
        self.learning_rate = learning_rate
        super().__init__(
            f"{what} at step {step}: loss {loss:g}, learning rate {learning_rate:.3g}; use a lower "
            f"learning_rate or a higher warmup_ratio, and look for broken examples in the training "
            f"split"
        )
