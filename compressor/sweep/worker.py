"""One worker of a sweep, from the first look at its file to the run of the chosen recipe.

Any number of them may run the same command at the same time, and each does what is left: trials
that nobody has begun, and those of workers that died. Whoever sees the last trial end writes the
front and runs the chosen recipe, which alone reads the certification rows.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import (
    BudgetExceeded,
    CompressorError,
    EnvironmentMismatch,
    NoFeasibleTrial,
    RecipeError,
    ReportError,
    Terminated,
)
from compressor.machine.environment import Device
from compressor.machine.launchers import require_one_process
from compressor.machine.locks import locked
from compressor.machine.turns import on_shared_host
from compressor.measurements import RunReport
from compressor.paths import exists, no_folder
from compressor.pipeline.inputs import (
    check_local_checkpoints,
    check_local_passes,
    check_packages,
)
from compressor.pipeline.preflight import check_inputs, check_runtime, load_whole
from compressor.pipeline.run import Trial, run, run_trial
from compressor.progress import SILENT, Advance, Progress, Silent, duration
from compressor.recipe.recipe import Recipe, load_recipe
from compressor.report import units
from compressor.report.render import read_report
from compressor.sweep.facts import facts_of
from compressor.sweep.outcome import Outcome, closest_words, excesses, limit_words
from compressor.sweep.results import BEST, BEST_RUN, Front, write_front
from compressor.sweep.settings import Sweep, load_sweep
from compressor.sweep.space import corners, settings_of
from compressor.sweep.study import Study, Taken, planned_points
from compressor.words import counted, listing, moved

logger = logging.getLogger(__name__)

# What srun tells its tasks about each other; the first it always does.
_OF_TASKS = ("SLURM_STEP_NUM_TASKS", "PMI_SIZE", "PMI_RANK", "PMIX_RANK")
_MOST_COMPARED = 50  # reports
_OURS = frozenset(
    {"journal.log", "locks", "store", "trials", "front.html", "front.csv", "front.json"}
    | {BEST, BEST_RUN}
)


@dataclass(frozen=True)
class SweepEnd:
    """What a sweep led to: the front, and the report of the chosen recipe's run."""

    folder: Path
    front: Front
    report: RunReport


@dataclass(frozen=True)
class WorkerOptions:
    """Where a worker works, and what it shows.

    Several workers may be given the same `output`, on several hosts too where it is on a shared
    disk whose server keeps locks. Steps are kept in `store`. None is the sweep's own output, and
    the store in it.
    """

    output: str | Path | None = None
    store: str | Path | None = None
    device: Device = "auto"
    progress: Progress = SILENT
    quiet: bool = True  # hides the steps of trials, and what other libraries print


DEFAULT_OPTIONS = WorkerOptions()


def run_sweep(
    sweep: Sweep, options: WorkerOptions = DEFAULT_OPTIONS, *, allow_inconclusive: bool = False
) -> SweepEnd:
    """Do what is left of a sweep, and return what it led to; every worker ends when the sweep has.

    Raises `NoFeasibleTrial` when no trial keeps all constraints, and what `run` raises for the
    chosen recipe; `EnvironmentMismatch` when this machine cannot do what a trial asks for. What was
    done until then stays, and the same call goes on.
    """
    with working_on(sweep, options) as worker:
        worker.do_what_is_left()
        return worker.conclude(allow_inconclusive=allow_inconclusive)


def join_sweep(
    path: str, overrides: Sequence[str], options: WorkerOptions, *, allow_code: bool
) -> str | None:
    """Do trials of a sweep that another process has begun and concludes.

    Returns what stopped this worker, if anything: words, since an exception of ours would not
    survive the way to another process. `path` is the sweep file, `overrides` are settings of its
    recipe; `options` name the output.
    """
    assert options.output is not None, "the one who starts workers knows it"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not (Path(options.output) / "journal.log").is_file():
        return (
            f"{options.output}: no sweep was begun here; every worker has to see the same "
            f"directory, on a shared disk"
        )
    try:
        sweep = load_sweep(path, overrides, allow_code=allow_code)
        with working_on(sweep, options) as worker:
            worker.do_what_is_left()
    except CompressorError as error:
        return str(error)
    return None


@contextmanager
def working_on(sweep: Sweep, options: WorkerOptions) -> Iterator[Worker]:
    """Give a worker of a sweep that was checked; the front so far is written whatever happens.

    Raises `RecipeError` and `EnvironmentMismatch` as `run_sweep` does before it begins.
    """
    with _tasks_are_workers():
        require_one_process()
        recipe = _checked(sweep, options.progress)
        folder = _claimed(sweep, options.output)
        study = Study(folder, sweep, facts_of(sweep, recipe))
        worker = Worker(sweep, recipe, folder, study, options)
        with on_shared_host(folder / "locks", f"host-{platform.node() or 'unnamed'}"):
            try:
                yield worker
            finally:
                if not study.is_done:
                    worker.write()


@dataclass
class Worker:
    """One worker of a sweep, made by `working_on`."""

    sweep: Sweep
    recipe: Recipe
    folder: Path
    study: Study
    options: WorkerOptions

    @property
    def store(self) -> Path:
        """Return the directory of the steps that trials share."""
        given = self.options.store
        return self.folder / "store" if given is None else Path(given).expanduser()

    @property
    def progress(self) -> Progress:
        """Return what shows how trials go."""
        return self.options.progress

    def do_what_is_left(self) -> None:
        """Run trials until every one has ended, here or elsewhere."""
        is_waiting = False
        while True:
            taken = self.study.take()
            if taken is not None:
                self.run(taken)
                is_waiting = False
                continue
            if not is_waiting and not self.study.is_done:
                self.progress.stage("no trial is left to begin; waiting for those of other workers")
                is_waiting = True
            if not self.study.wait():
                break
        if not self.study.is_done:
            raise EnvironmentMismatch(
                [
                    *self.study.left(),
                    "trials are left that a machine could not do; mend what is missing there, and "
                    "give the same command again",
                ]
            )

    def run(self, taken: Taken) -> None:
        """Run one trial, and record how it ended."""
        again = ", which another worker began" if taken.is_again else ""
        title = f"trial {taken.number} of {self.sweep.num_trials}{again}"
        self.progress.stage(f"{title}: {', '.join(taken.settings)}")
        try:
            outcome = self.outcome_of(taken)
        except EnvironmentMismatch as error:
            self.study.give_back(taken, mismatch=str(error).partition("\n")[0])
            raise
        except (KeyboardInterrupt, Terminated) as stop:
            self.study.give_back(taken)
            stop.add_note(f"Stopped in trial {taken.number}; the same command resumes the sweep")
            raise
        except BaseException as error:  # a bug of ours: no other worker should meet it again
            told = f"a bug in compressor, not a mistake of yours: {type(error).__name__}: {error}"
            self.study.finish(taken, Outcome("failed", told))
            raise
        self.study.finish(taken, outcome)
        self.progress.result(outcome_words(self.sweep, outcome))
        self.require_one_metric()

    def require_one_metric(self) -> None:
        """Raise `RecipeError` where trials are scored by different metrics."""
        figures = [item.figures for item in self.study.judged()]
        metrics = sorted({item.metric for item in figures if item is not None})
        if len(metrics) > 1:
            told = (
                f"trials are scored by {' and '.join(metrics)}, which cannot be compared; name one"
            )
            raise RecipeError(self.recipe.describe("budget.metric", told))

    def outcome_of(self, taken: Taken) -> Outcome:
        """Run one trial and return how it ended; raises what is no outcome of a trial."""
        try:
            recipe = self.sweep.recipe_at(taken.point)
            timing = recipe.benchmark.of_first_shape() if self.sweep.goes_by_time else None
            report = run_trial(
                recipe,
                Trial(timing),
                output=self.folder / "trials" / f"{taken.number:04}",
                store=self.store,
                device=self.options.device,
                progress=self.progress_of(f"trial {taken.number}"),
                quiet=self.options.quiet,
            )
        except RecipeError as error:
            return Outcome("refused", str(error))
        except BudgetExceeded as error:
            return Outcome("over_budget", str(error), over=error.drop - error.max_drop)
        except EnvironmentMismatch:
            raise
        except CompressorError as error:
            return Outcome("failed", str(error))
        return Outcome.of_report(report)

    def write(self) -> Front:
        """Write the front of the trials that have ended."""
        with locked(self.folder / "locks" / "front"):
            front = Front.of(self.sweep, self.study.judged())
            reports = self.reports(front) if self.study.is_done else ()
            write_front(self.folder, self.sweep, self.recipe, front, reports)
        return front

    def reports(self, front: Front) -> Sequence[tuple[str, RunReport]]:
        """Return the reports of the first trials that were done, in which machines are compared."""
        found = []
        done = [item for item in front.trials if item.figures is not None]
        for item in done[:_MOST_COMPARED]:
            try:
                report = read_report(self.folder / "trials" / f"{item.number:04}")
            except ReportError as error:  # somebody has removed it; only warnings come from it
                logger.info("trial %d: %s", item.number, error)
                continue
            found.append((f"trial {item.number}", report))
        return found

    def conclude(self, *, allow_inconclusive: bool) -> SweepEnd:
        """Choose, and run the chosen recipe, unless another worker has."""
        with locked(self.folder / "locks" / "end", before_waiting=self.tell_waiting):
            front = Front.of(self.sweep, self.study.judged())
            place = self.folder / BEST_RUN
            facts = {
                "trials": len(front.trials),
                "best": None if front.best is None else front.best.number,
                "inconclusive_allowed": allow_inconclusive,
            }
            if self.study.conclusion == facts and exists(place / "report.json"):
                return SweepEnd(self.folder, front, read_report(place))
            front = self.write()
            if front.best is None:
                raise NoFeasibleTrial(
                    f"{front.headline}; {closest_words(self.sweep, front.trials)}; loosen the "
                    f"constraints, or widen the space towards milder settings"
                )
            words = f"trial {front.best.number} is chosen: {front.best.words}"
            self.progress.stage(f"{words}; running its recipe to the end")
            chosen = load_recipe(self.folder / BEST)
            report = run(
                chosen,
                output=place,
                store=self.store,
                device=self.options.device,
                allow_inconclusive=allow_inconclusive,
                allow_code=self.sweep.allows_code,
                progress=self.progress_of("chosen recipe"),
                quiet=self.options.quiet,
            )
            self.study.conclude(facts)
        return SweepEnd(self.folder, front, report)

    def progress_of(self, name: str) -> Progress:
        """Return what shows how one run of this worker goes: its bars alone, or everything."""
        return _Bars(self.progress, name) if self.options.quiet else self.progress

    def tell_waiting(self) -> None:
        """Say that another worker runs the chosen recipe."""
        self.progress.stage("waiting for another worker, which runs the chosen recipe")


class _Bars(Silent):
    """The bars of a run that is called `name`; its lines would bury those of the sweep."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    @contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Advance]:
        """Show a bar with the name of the run."""
        with self._progress.bar(f"{self._name}: {description}", total) as advance:
            yield advance


@contextmanager
def _tasks_are_workers() -> Iterator[None]:
    """Take each task of `srun` for a worker by itself, by hiding that there are others.

    They would be taken for the ranks of one training. Other launchers stay in sight: theirs are.
    """
    names = _OF_TASKS if _OF_TASKS[0] in os.environ else ()
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _checked(sweep: Sweep, progress: Progress) -> Recipe:
    """Check the recipe, and those of the trials as far as they are known; return it.

    Raises `RecipeError` where the recipe, or that of every trial, is refused;
    `EnvironmentMismatch` where something is missing that one of them needs.
    """
    recipe = load_whole(sweep.recipe, sweep.overrides, allow_code=sweep.allows_code)
    recipe.require_own_code()
    check_runtime(recipe)
    check_inputs(recipe)
    if sweep.goes_by_time and not recipe.benchmark.providers:
        told = "is empty, and the sweep goes by times, which are measured on the first; name one"
        raise RecipeError(recipe.describe("benchmark.providers", told))
    points = planned_points(sweep)
    looked_at = corners(sweep.space) if points is None else points
    refused: list[tuple[str, RecipeError]] = []
    for point in looked_at:
        settings = ", ".join(settings_of(sweep.space, point))
        try:
            found = sweep.recipe_at(point)
            for check in (check_local_checkpoints, check_local_passes, check_packages):
                check(found)
        except RecipeError as error:
            refused.append((settings, error))
    if refused and len(refused) == len(looked_at):
        raise refused[0][1]
    if refused:
        settings, first = refused[0]
        which = "combinations" if points is not None else "corners of the space"
        progress.result(
            f"{len(refused):,} of {len(looked_at):,} {which} are refused, such as {settings}: "
            f"{first.mistakes[0]}"
        )
    return recipe


def _claimed(sweep: Sweep, output: str | Path | None) -> Path:
    """Return the directory of the sweep, which is made where it is missing.

    Raises `RecipeError` where there is none or it holds other things.
    """
    place = output or sweep.output
    if place is None:
        raise RecipeError("output: no directory was given; set `output` in the sweep or --output")
    folder = Path(place).expanduser()
    if exists(folder) and (reason := no_folder(folder)) is not None:
        raise RecipeError(f"output: {folder} {reason}; give a directory, or a name for a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [item.name for item in folder.iterdir() if item.name.lstrip(".") not in _OURS]
    except OSError as error:
        raise EnvironmentMismatch(
            f"output: {folder} cannot be written ({error.strerror}); give another --output"
        ) from error
    if foreign and not (folder / "journal.log").is_file():
        raise RecipeError(
            f"output: {folder} holds {listing(foreign)}, and no sweep of compressor; give another "
            f"--output"
        )
    return folder


def outcome_words(sweep: Sweep, outcome: Outcome) -> str:
    """Say in one line how a trial ended."""
    figures = outcome.figures
    if figures is None:
        return f"{outcome.state.replace('_', ' ')}: {outcome.reason}"
    score = units.score(figures.metric, figures.score)
    parts = [f"{units.metric_words(figures.metric)} {score}, {moved(figures.drop)}"]
    parts.append(f"{units.megabytes(figures.bytes)} MB")
    if figures.latency_ms is not None and figures.speedup is not None:
        faster = units.number(figures.speedup)
        parts.append(f"{units.number(figures.latency_ms)} ms, {faster} times as fast")
    limits = sweep.constraints.given
    broken = [name for name, far in excesses(sweep, outcome).items() if far > 0]
    if broken:
        parts.append(f"breaks {'; '.join(limit_words(n, figures, limits[n]) for n in broken)}")
    steps = counted(outcome.num_steps, "step")
    parts.append(f"{outcome.num_reused} of {steps} from the store, {duration(outcome.seconds)}")
    return "; ".join(parts)
