"""The trials of a sweep on shared storage: who picks them, who runs which, how they ended.

Optuna picks, and its journal holds everything. A trial belongs to the worker that holds the lock
with its number, which the system drops when the worker dies: whoever comes next takes the trial
over as it is, with its values and what its run has stored. Trials are numbered, and picked one at a
time, so that one worker and the same seed give the same trials, after a stop too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from compressor.errors import RecipeError
from compressor.machine.locks import Lock, locked
from compressor.stored_types import to_plain
from compressor.sweep.outcome import Judged, Outcome, excesses, outcome_of
from compressor.sweep.settings import Sweep
from compressor.sweep.space import Choices, Dimension, Point, Value, grid, settings_of
from compressor.words import noun_for

_STUDY = "sweep"
_SETTINGS, _CONCLUSION = "settings", "conclusion"  # attributes of the study
_OUTCOME = "outcome"  # and of a trial
_STARTED, _MISMATCHES = "started", "mismatches"
_MOST_STARTS = 5  # of a trial whose workers die without a word
_STATES = {
    "done": TrialState.COMPLETE,
    "over_budget": TrialState.PRUNED,
    "refused": TrialState.PRUNED,
    "failed": TrialState.PRUNED,
}
# NSGA-II's population: so many generations, and these limits.
_GENERATIONS, _FEWEST, _MOST = 4, 4, 50


class _JournalLock(JournalFileSymlinkLock):
    """Optuna's lock on its journal, by one that dies with its owner.

    Half a line at the end of the journal is of a worker that was killed while it wrote; nobody has
    read it, and it goes.
    """

    def __init__(self, journal: Path, path: Path) -> None:
        self._journal, self._lock = journal, Lock(path)

    def acquire(self) -> bool:
        held = self._lock.acquire()
        with self._journal.open("rb+") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(size - 1, 0))
            if stream.read(1) not in (b"", b"\n"):
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
        return held

    def release(self) -> None:
        self._lock.release()


@dataclass
class Taken:
    """A trial that this worker runs, until it is given back; trials count from 1."""

    number: int
    point: Point
    settings: tuple[str, ...]
    is_again: bool  # another worker began it
    trial: optuna.Trial
    lock: Lock


class Study:
    """The trials of one sweep in `folder`, seen by one worker.

    Raises `RecipeError` where `folder` holds the trials of another sweep.
    """

    def __init__(self, folder: Path, sweep: Sweep, facts: Mapping[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep, self._locks = sweep, folder / "locks"
        self._known: dict[int, Judged] = {}  # of the trials that have ended, by Optuna's number
        self._distributions = {key: _distribution(item) for key, item in sweep.space.items()}
        journal = folder / "journal.log"
        folder.mkdir(parents=True, exist_ok=True)
        journal.touch()
        backend = JournalFileBackend(str(journal), _JournalLock(journal, self._locks / "journal"))
        with self._alone():
            self._study = optuna.create_study(
                storage=JournalStorage(backend),
                study_name=_STUDY,
                directions=list(sweep.objectives.values()),
                load_if_exists=True,
                sampler=RandomSampler(seed=0),  # until the first trial is picked
            )
            self._require_same(facts, folder)
            if (points := planned_points(sweep)) is not None:
                for point in points[len(self._study.trials) :]:
                    self._study.enqueue_trial(dict(point))
            self._seen = {trial.number: _mismatches(trial) for trial in self._study.trials}

    def take(self) -> Taken | None:
        """Return the next trial to run; None where none is left that this worker may take."""
        with self._alone():
            for frozen in self._trials(TrialState.RUNNING):
                if (taken := self._take_over(frozen)) is not None:
                    return taken
            if len(self._study.trials) < self._sweep.num_trials or self._trials(TrialState.WAITING):
                return self._next()
        return None

    def wait(self) -> bool:
        """Wait until a trial ends that another worker runs, or is left to be taken over.

        Return False where there is none that another worker runs or this one may take.
        """
        for frozen in self._trials(TrialState.RUNNING):
            lock = self._lock_of(frozen)
            if not lock.acquire(wait=False):
                lock.acquire()
                lock.release()
                return True
            lock.release()
            if self._is_for_this(frozen):
                return (
                    True  # another worker that waits had the lock for a moment when this one asked
                )
        return False

    def finish(self, taken: Taken, outcome: Outcome) -> None:
        """Record how a trial ended, and let go of it."""
        with self._alone():
            self._finish(taken, outcome)

    def _finish(self, taken: Taken, outcome: Outcome) -> None:
        trial = taken.trial
        trial.set_user_attr(_OUTCOME, to_plain(outcome, {}))
        for name, excess in excesses(self._sweep, outcome).items():
            if name not in trial.constraints:
                trial.set_constraint(name, excess)
        figures = outcome.figures
        values = None
        if figures is not None:
            values = [figures.of(name) for name in self._sweep.objectives]
        self._study.tell(taken.trial, values, state=_STATES[outcome.state])
        taken.lock.release()

    def give_back(self, taken: Taken, *, mismatch: str | None = None) -> None:
        """Let go of a trial that was stopped, so that it is taken over.

        With `mismatch`, what this machine lacks for it, only workers that start later take it: the
        others would stop like this one.
        """
        taken.trial.set_user_attr(_STARTED, int(taken.trial.user_attrs[_STARTED]) - 1)
        if mismatch is not None:
            seen = self._seen.get(taken.trial.number, [])
            taken.trial.set_user_attr(_MISMATCHES, [*seen, mismatch])
        taken.lock.release()

    def judged(self) -> list[Judged]:
        """Return the trials that have ended, by their numbers."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self._known:
                point = {key: trial.params[key] for key in self._sweep.space}
                settings = tuple(settings_of(self._sweep.space, point))
                outcome = outcome_of(trial.user_attrs[_OUTCOME])
                self._known[trial.number] = Judged(trial.number + 1, point, settings, outcome)
        return [self._known[number] for number in sorted(self._known)]

    def left(self) -> list[str]:
        """Return why trials are left that nobody runs, one sentence each."""
        return [
            f"trial {trial.number + 1}: {_mismatches(trial)[-1]}"
            for trial in self._trials(TrialState.RUNNING)
            if _mismatches(trial)
        ]

    @property
    def conclusion(self) -> Mapping[str, Any] | None:
        """Return what `conclude` recorded last."""
        found: Mapping[str, Any] | None = self._study.user_attrs.get(_CONCLUSION)
        return found

    def conclude(self, facts: Mapping[str, Any]) -> None:
        """Record, as plain data, what the trials that have ended led to."""
        self._study.set_user_attr(_CONCLUSION, dict(facts))

    @property
    def is_done(self) -> bool:
        """Return whether every trial of the sweep has ended."""
        trials = self._study.get_trials(deepcopy=False)
        return len(trials) >= self._sweep.num_trials and all(
            trial.state.is_finished() for trial in trials
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(self._locks / "study"):
            yield

    def _trials(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))

    def _lock_of(self, trial: FrozenTrial | optuna.Trial) -> Lock:
        return Lock(self._locks / f"trial-{trial.number + 1:04}")

    def _is_for_this(self, trial: FrozenTrial) -> bool:
        """Return whether no machine lacked anything for a trial since this worker began."""
        return _mismatches(trial) == self._seen.get(trial.number, [])

    def _take_over(self, frozen: FrozenTrial) -> Taken | None:
        """Return a trial whose worker has died, unless it is not for this one."""
        lock = self._lock_of(frozen)
        if not self._is_for_this(frozen) or not lock.acquire(wait=False):
            return None
        started = _started(frozen)
        self._study.sampler = _sampler(self._sweep, frozen.number)  # for values that it lacks
        # Optuna's own way to a trial that is under way in another process.
        trial = optuna.Trial(self._study, frozen._trial_id)
        taken = self._taken(trial, lock, is_again=True)
        if started < _MOST_STARTS:
            return taken
        self._finish(taken, Outcome("failed", f"{started} workers died while they ran it"))
        return None

    def _next(self) -> Taken:
        number = len(self._study.trials)
        self._study.sampler = _sampler(self._sweep, number)
        trial = self._study.ask()
        lock = self._lock_of(trial)
        lock.acquire()
        return self._taken(trial, lock, is_again=False)

    def _taken(self, trial: optuna.Trial, lock: Lock, *, is_again: bool) -> Taken:
        """Give a trial the values that it lacks, and count that it is started."""
        point = {key: _suggested(trial, key, item) for key, item in self._distributions.items()}
        trial.set_user_attr(_STARTED, int(trial.user_attrs.get(_STARTED, 0)) + 1)
        settings = tuple(settings_of(self._sweep.space, point))
        return Taken(trial.number + 1, point, settings, is_again, trial, lock)

    def _require_same(self, facts: Mapping[str, Any], folder: Path) -> None:
        known = self._study.user_attrs.get(_SETTINGS)
        if known is None:
            self._study.set_user_attr(_SETTINGS, dict(facts))
            return
        differing = [name for name in {**known, **facts} if known.get(name) != facts.get(name)]
        if differing:
            raise RecipeError(
                f"output: {folder} holds the trials of another sweep, whose "
                f"{', '.join(differing)} {noun_for(len(differing), 'differs', 'differ')}; give "
                f"another --output, or the sweep file that they are of"
            )


def planned_points(sweep: Sweep) -> list[Point] | None:
    """Return every point of a sweep whose picks do not depend on how trials end, in order."""
    if sweep.sampler == "grid":
        return list(grid(sweep.space))
    if sweep.sampler == "random":
        return [_random_point(sweep, number) for number in range(sweep.num_trials)]
    return None


def _random_point(sweep: Sweep, number: int) -> Point:
    sampler = RandomSampler(seed=_seed_of(sweep, number))
    study = optuna.create_study(sampler=sampler)
    trial = study.ask({key: _distribution(item) for key, item in sweep.space.items()})
    return dict(trial.params)


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    """Return who picks the trial with this number; all else that the pick depends on is stored."""
    seed = _seed_of(sweep, number)
    if sweep.sampler == "nsga2":
        population = max(_FEWEST, min(_MOST, sweep.num_trials // _GENERATIONS))
        return NSGAIISampler(population_size=population, seed=seed)
    return TPESampler(seed=seed)


def _seed_of(sweep: Sweep, number: int) -> int:
    digest = hashlib.sha256(f"{sweep.seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.values)
    if dimension.is_whole:
        low, high = int(dimension.low), int(dimension.high)
        return IntDistribution(low, high, log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _suggested(trial: optuna.Trial, key: str, distribution: BaseDistribution) -> Value:
    """Return the value of a trial, which Optuna picks unless it has one."""
    if isinstance(distribution, CategoricalDistribution):
        chosen = trial.suggest_categorical(key, distribution.choices)
        assert isinstance(chosen, str)
        return chosen
    if isinstance(distribution, IntDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_int(key, low, high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, FloatDistribution)
    least, most = distribution.low, distribution.high
    return trial.suggest_float(key, least, most, step=distribution.step, log=distribution.log)


def _started(trial: FrozenTrial) -> int:
    """Return how often a trial was started and neither ended nor was given back."""
    return int(trial.user_attrs.get(_STARTED, 0))


def _mismatches(trial: FrozenTrial) -> list[str]:
    """Return what machines lacked for a trial, in order."""
    return [str(item) for item in trial.user_attrs.get(_MISMATCHES, ())]
