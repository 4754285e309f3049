"""Every error that `compressor` raises on purpose, with the exit code a script sees.

CompressorError
├── RecipeError            exit 2   the request is wrong, or does not fit checkpoint and rows
│   └── OwnCodeError                code that the recipe names does not do what it must
├── EnvironmentMismatch    exit 3   checkpoint, data, package, provider, memory or disk will not do
├── PassError              exit 4   a step failed on purpose; holds kind and position
├── ExportError            exit 4
│   └── ParityError                 exported logits differ; holds the difference and the limit
├── ReportError            exit 4   a finished run cannot be read or written
├── NoFeasibleTrial        exit 5   no trial of a sweep keeps all constraints
└── BudgetExceeded         exit 5   it worked, but accuracy fell too far
    ├── TargetMissed                no way to the goal of `budget.target` stays within the budget
    └── NotCertified       exit 6   the drop looks small enough, but the data cannot prove it

Exit code 1 is left to uncaught exceptions, also within a step: it always means a bug of ours. What
a step raises on purpose is a `StepFailed`, which the pipeline turns into a `PassError`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from compressor.runtime.errors import CompressorError as CompressorError
from compressor.runtime.errors import EnvironmentMismatch as EnvironmentMismatch
from compressor.runtime.errors import RecipeError as RecipeError
from compressor.words import (
    about,
    bound_points,
    counted,
    moved,
    moved_and_budget,
    points,
    verb_for,
)

# Of an OSError that no code is to blame for: the disk is full, read-only or broken.
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO))


def shortened(error: BaseException, most: int) -> str:
    """Return another library's message on one line of at most `most` characters, and three dots.

    Such a message may quote a name of any length.
    """
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]}..."


class Terminated(BaseException):
    """SIGTERM came: no error, but like Ctrl-C a reason to stop, with the report written."""


class OwnCodeError(RecipeError):
    """Code of the user's own failed, or gave what it must not; the message has its traceback."""


class StepFailed(ValueError):
    """Data, checkpoint and settings do not allow what a step was to do; the text is for the user.

    Passes, and what they are built of, raise it on purpose, and only it becomes a `PassError`. Any
    other exception inside a pass is a bug of ours and keeps its traceback.
    """


def raise_all(mistakes: Sequence[str], problems: Sequence[str]) -> None:
    """Raise one error with every line, where there is any.

    A `RecipeError` when anything is wrong with the request, since running it on another machine
    would not help; an `EnvironmentMismatch` when something is missing and nothing else is wrong.
    """
    if mistakes:
        raise RecipeError([*mistakes, *problems])
    if problems:
        raise EnvironmentMismatch(problems)


def missing_package(error: ModuleNotFoundError) -> EnvironmentMismatch | None:
    """Say which build to install where that is what `error` comes from; None for another package.

    Everything but onnxruntime comes with this package; of that, a machine takes one of two builds.
    """
    if (error.name or "").partition(".")[0] != "onnxruntime":
        return None
    return EnvironmentMismatch(
        "onnxruntime is not installed; install the build for this machine, one of the two: pip "
        "install onnxruntime, or 'onnxruntime-gpu[cuda,cudnn]' for CUDA and TensorRT"
    )


class PassError(CompressorError):
    """A step of the pipeline failed; the original exception is chained as `__cause__`."""

    exit_code = 4

    def __init__(self, message: str, *, kind: str, position: int | None = None) -> None:
        self.kind = kind
        self.position = position
        place = kind if position is None else f"passes[{position}] ({kind})"
        super().__init__(f"{place}: {message}")


class ExportError(CompressorError):
    """The model could not be turned into an ONNX file."""

    exit_code = 4


class ParityError(ExportError):
    """The exported file computes other logits than the PyTorch model."""

    def __init__(self, message: str, *, max_abs_diff: float, limit: float) -> None:
        self.max_abs_diff = max_abs_diff
        self.limit = limit
        super().__init__(
            f"{message}: logits differ by {max_abs_diff:.3g}, at most {limit:.3g} is allowed"
        )


class ReportError(CompressorError):
    """A run's report cannot be read or written."""

    exit_code = 4


class NoFeasibleTrial(CompressorError):
    """No trial of a sweep keeps every constraint; the message says which came closest."""

    exit_code = 5


class BudgetExceeded(CompressorError):
    """A gate failed: the score fell further below the baseline than the budget allows.

    `tried` says which settings were tried when there were several, and `drop` is then the smallest;
    `earlier` names the earlier pass that cost most, because losses add up.
    """

    exit_code = 5

    def __init__(
        self,
        step: str,
        *,
        metric: str,
        drop: float,
        max_drop: float,
        key: str = "budget.max_drop",
        tried: Sequence[str] = (),
        earlier: tuple[str, float] | None = None,
    ) -> None:
        self.step = step
        self.metric = metric
        self.drop = drop
        self.max_drop = max_drop
        self.tried = tuple(tried)
        self.earlier = earlier
        attempts = ""
        if tried:
            tries = counted(len(tried), "try", "tries")
            attempts = f" in the best of {tries} ({'; '.join(tried)})"
        change, allowed = moved_and_budget(drop, max_drop)
        before = f"; of that, {earlier[0]} before it cost {points(earlier[1])}" if earlier else ""
        advice = f"use milder settings for this step or raise {key}"
        if _is_least(key):
            advice = f"use milder settings for this step or lower {key}"
        super().__init__(
            f"{step}: {metric} {change} from the baseline{attempts}, the budget allows "
            f"{allowed}{before}; {advice}"
        )


def _is_least(key: str) -> bool:
    """Return whether a limit is on the least that is needed, and is lowered to allow more."""
    return key.startswith("budget.min_")


def _eased(key: str) -> str:
    return f"{'lower' if _is_least(key) else 'raise'} {key}"


def _tightened(key: str) -> str:
    return f"{'raise' if _is_least(key) else 'lower'} {key}"


class TargetMissed(BudgetExceeded):
    """No candidate reached the goal of `budget.target` within the budget.

    `best` says how far the strongest candidate within the budget came, None when there was none;
    `drop` is that candidate's, or the smallest; `tried` has a line for each candidate.
    """

    def __init__(
        self,
        step: str,
        *,
        goal: str,
        best: str | None,
        advice: str,
        metric: str,
        drop: float,
        max_drop: float,
        tried: Sequence[str],
    ) -> None:
        super().__init__(step, metric=metric, drop=drop, max_drop=max_drop, tried=tried)
        self.goal = goal
        self.best = best
        found = f"the best within the budget is {best}"
        if best is None:
            found = (
                f"no candidate is within the budget of {points(max_drop)}; with the best one "
                f"{metric} {moved(drop)}"
            )
        self.args = (
            f"{step}: the goal, {goal}, was not reached; {found} (tried: {'; '.join(tried)}); "
            f"{advice}",
        )


class NotCertified(BudgetExceeded):
    """The observed drop is within the budget, but the certification split does not prove it.

    `upper_bound` is None when no bound exists for these rows; `needed_examples`, in all, would
    settle the question at the observed drop, None when no number is known to. They are `units`,
    such as `queries`, of which `there` says how many there are, where rows do not tell.
    `uninformed` says which model that knows nothing would pass too, and then no number of rows
    helps.
    """

    exit_code = 6

    def __init__(
        self,
        *,
        metric: str,
        drop: float,
        max_drop: float,
        upper_bound: float | None,
        needed_examples: int | None,
        units: str = "rows",
        there: int | None = None,
        why: str | None = None,
        uninformed: str | None = None,
        key: str = "budget.max_drop",
        step: str = "certification",
    ) -> None:
        super().__init__(step, metric=metric, drop=drop, max_drop=max_drop, key=key)
        self.upper_bound = upper_bound
        self.needed_examples = needed_examples
        change = f"{step}: {metric} {moved(drop)}"
        of_run = step == "certification"
        accept = ", or accept the missing proof with --allow-inconclusive" if of_run else ""
        bound = "" if upper_bound is None else bound_points(max(upper_bound, 0.0), max_drop)
        if uninformed is not None:
            self.args = (
                f"{change}, and these rows prove a drop of at most {bound}, but a budget of "
                f"{points(max_drop)} proves little here: {uninformed}; {_tightened(key)}, take "
                f"another metric or rows that are harder to guess{accept}",
            )
            return
        found = f"all that these rows prove is a drop of at most {bound}"
        if upper_bound is None:
            found = f"these rows give no bound on the drop ({why})"
        rows = f"more {units}"
        if needed_examples is not None:
            rows = f"{about(needed_examples)} {units} in all"
        if there is not None:
            rows += f" (there {verb_for(there, 'is', 'are')} {there:,})"
        self.args = (
            f"{change}, but {found}, and the budget allows {points(max_drop)}; give "
            f"{'data.certification ' if of_run else ''}{rows}, {_eased(key)}{accept}",
        )


@dataclass(frozen=True)
class ExitCode:
    """What an exit code of `compress` means, and what to do about it."""

    name: str  # as `compress --help` has it
    meaning: str
    advice: str


# The command line and the documentation read them here.
EXIT_CODES = {
    0: ExitCode(
        "done", "Every gate held, and every proof that the recipe asked for was given.", ""
    ),
    1: ExitCode(
        "a bug in compressor",
        "An exception that nobody foresaw. It is always a bug of ours, also within a step.",
        "Report it, with the `traceback.txt` that lies in the output directory.",
    ),
    2: ExitCode(
        "bad recipe or arguments",
        "The request is wrong, or it does not fit the checkpoint or the rows that it names.",
        "Each line of the message names a place and what is allowed there; mend all of them at "
        "once, and ask `compress validate`, which needs no run.",
    ),
    3: ExitCode(
        "environment (checkpoint, data, package, memory or disk)",
        "Checkpoint, data, package or execution provider is not there or cannot be used; memory "
        "or disk is full; times vary too much to choose by; one of several processes ended, or a "
        "launcher asks for what a run does not do; or another run holds the output directory.",
        "The recipe is fine. Mend what the message names and give the same command again: "
        "finished steps are not repeated.",
    ),
    4: ExitCode(
        "step failed",
        "A step cannot be done with this model, these rows and these settings.",
        "Change the setting that the message names. Loss of accuracy is not what stopped it.",
    ),
    5: ExitCode(
        "budget exceeded",
        "Accuracy fell further than the budget allows, in the best of all tries, or nothing within "
        "the budget reaches the goal of `budget.target`, or no trial of a sweep keeps all "
        "constraints.",
        "Use milder settings for the pass that the message names, let `on_failure: repair` look "
        "for them, or raise `budget.max_drop`.",
    ),
    6: ExitCode(
        "budget not proven",
        "Accuracy looks good enough, but the certification rows cannot prove it. Everything is "
        "measured; the artifact is not completed.",
        "Give `data.certification` as many rows as the message says, raise `budget.max_drop`, or "
        "accept the missing proof with `--allow-inconclusive`.",
    ),
    130: ExitCode(
        "stopped by Ctrl-C",
        "Stopped from the keyboard. The report holds the steps that finished.",
        "Give the same command again, without `--force`: the run resumes.",
    ),
    143: ExitCode(
        "stopped by SIGTERM",
        "Stopped by the system or a scheduler. The report holds the steps that finished.",
        "Give the same command again, without `--force`: the run resumes.",
    ),
}
