"""The scores of a model while it trains, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressor.training.settings import TrainingSettings
from compressor.training.sharding import whole_weights
from compressor.words import counted

_BEST = "best."


@dataclass
class PlateauRate:
    """The learning rate over the highest, after a warm-up, which scores that stay alike lower.

    After the warm-up it is that of `torch.optim.lr_scheduler.ReduceLROnPlateau`. What it holds is
    saved with the schedule.
    """

    warmup_steps: int
    factor: float
    patience: int
    min_improvement: float
    lowest: float
    share: float = 1.0
    best: float | None = None
    num_worse: int = 0

    def __call__(self, step: int) -> float:
        """Return the factor on the learning rate at `step`."""
        return self.share * min(1.0, step / self.warmup_steps if self.warmup_steps else 1.0)

    def note(self, score: float) -> None:
        """Lower what comes next when too many scores in a row were no better."""
        if self.best is None or score > self.best + self.min_improvement:
            self.best, self.num_worse = score, 0
            return
        self.num_worse += 1
        if self.num_worse > self.patience:
            self.share = max(self.share * self.factor, self.lowest)
            self.num_worse = 0


@dataclass
class Scores:
    """The scores that a training takes of its model, and the weights of the best of them.

    `score` gives that of the model as it is. State for checkpoints is tensors by name.
    """

    settings: TrainingSettings
    score: Callable[[], float]
    taken: list[tuple[int, float]] = field(default_factory=list)  # steps and scores
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def due(self, step: int, total: int) -> bool:
        """Return whether the model is to be scored after `step` of `total`."""
        count = self.settings.evaluations
        return step * count // total > (step - 1) * count // total

    def take(self, step: int, module: nn.Module) -> float:
        """Score the model, and keep its weights where they are the best so far."""
        found = self.score()
        self.taken.append((step, found))
        if self.settings.keeps_best and self.best[0] == step:
            self.best_weights = {
                name: value.cpu().clone() for name, value in whole_weights(module).items()
            }
        return found

    @property
    def best(self) -> tuple[int, float]:
        """Return step and score of the best; there has to be one."""
        best = self.taken[0]
        for step, score in self.taken:
            if score > best[1] + self.settings.min_improvement:
                best = step, score
        return best

    @property
    def stops(self) -> bool:
        """Return whether as many scores in a row were no better as may be."""
        if self.settings.patience is None or not self.taken:
            return False
        worse = sum(step > self.best[0] for step, _ in self.taken)
        return worse >= self.settings.patience

    def words(self) -> str:
        """Return what was scored and what came of it, for the report; empty without scores."""
        if not self.taken:
            return ""
        step, score = self.best
        times = "once" if len(self.taken) == 1 else f"{len(self.taken)} times"
        words = f"scored {times} on the search split, best {score:.4f} after step {step:,}"
        if self.settings.keeps_best:
            words += ", whose weights are kept"
        if self.stops:
            words += f"; stopped after {counted(self.settings.patience or 0, 'score')} no better"
        return words

    def state_dict(self) -> dict[str, Tensor]:
        """Return steps, scores and the best weights."""
        return {
            "steps": torch.tensor([step for step, _ in self.taken], dtype=torch.int64),
            "scores": torch.tensor([score for _, score in self.taken], dtype=torch.float64),
            **{_BEST + name: value for name, value in self.best_weights.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        steps, scores = state_dict["steps"].tolist(), state_dict["scores"].tolist()
        self.taken = list(zip(steps, scores, strict=True))
        self.best_weights = {
            name.removeprefix(_BEST): value
            for name, value in state_dict.items()
            if name.startswith(_BEST)
        }
