"""`compress`: arguments in, exit code out.

Everything heavy is imported inside the commands, so that `compress --help` answers at once and
`compress validate` never loads torch.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from compressor import __version__
from compressor.commands import explain, push, serve, shadow
from compressor.commands.terminal import FLAG, err, out, prepare_torch
from compressor.errors import (
    EXIT_CODES,
    CompressorError,
    EnvironmentMismatch,
    RecipeError,
    Terminated,
    missing_package,
)
from compressor.events import JsonProgress
from compressor.machine.collector import seldom_collected
from compressor.machine.memory import memory_as_mismatch
from compressor.words import printable

if TYPE_CHECKING:
    from types import FrameType

    from compressor.measurements import RunReport

# The commands in the order in which they are used, each with what it cannot do without.
_NEEDS = {
    "quickstart": "",
    "init": "a checkpoint and rows: compress init ./my-model --data rows.csv",
    "validate": "a recipe: compress validate recipe.yaml",
    "run": "a recipe: compress run recipe.yaml (compress init writes one for your model and data)",
    "sweep": "a sweep, a YAML file that names a recipe and what to try: compress sweep sweep.yaml",
    "store": "a directory that --store was given: compress store shared --keep 20GB",
    "compare": "output directories of runs: compress compare runs/first runs/second",
    "explain": "the output directory of a run: compress explain runs/first",
    "inspect": "a checkpoint, an .onnx file or an artifact: compress inspect ./my-model",
    "passes": "",
    "serve": "an artifact: compress serve runs/first/artifact",
    "shadow": "an artifact, its original and rows: compress shadow runs/first/artifact --against "
    "./my-model today.jsonl",
    "push": "an artifact and a name on the Hub: compress push runs/first/artifact --to org/name",
    "pack": "an artifact: compress pack runs/first/artifact --output my-model.tar.zst",
}


class _Group(TyperGroup):
    """The commands in the order of `_NEEDS`; what one lacks is told with an example."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # vendored
        """Return the names in the order in which a newcomer meets them."""
        usual = list(_NEEDS)
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: usual.index(name) if name in usual else len(usual))

    def get_help_option(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # vendored
        """Return --help without a value beside it."""
        return _without_value(super().get_help_option(ctx))

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # vendored
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Only that something is missing comes without words of its own.
            name = None if error.ctx is None else error.ctx.info_name
            if not error.message and (need := _NEEDS.get(str(name))):
                error.message = f"compress {name} needs {need}"
            raise


class _Command(TyperCommand):
    """A command whose --help shows no value."""

    def get_help_option(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # vendored
        """Return --help without a value beside it."""
        return _without_value(super().get_help_option(ctx))


def _without_value(option: Any) -> Any:
    if option is not None:
        option.metavar = FLAG
    return option


_CODES = ", ".join(f"{number} {code.name}" for number, code in EXIT_CODES.items())
app = typer.Typer(
    name="compress",
    cls=_Group,
    help="Make a Hugging Face checkpoint smaller and faster, and prove that it is still accurate.",
    epilog="[bold]See a whole run:[/] compress quickstart\n\n"
    "[bold]Your own model:[/] compress init ./my-model --data rows.csv, then compress run "
    f"recipe.yaml\n\nExit codes: {_CODES}.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as passes.0.ratio=0.4."),
]

TaskOption = Annotated[
    str | None,
    typer.Option(
        help="What the checkpoint is for, such as audio-features for the vectors of an encoder "
        "that was saved with a head; left out, what its architecture says."
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        metavar=FLAG,
        help="Run the functions of your own that the recipe names, such as my_metric.py:ndcg.",
    ),
]


class DeviceChoice(StrEnum):
    """Where to train."""

    CPU = "cpu"
    CUDA = "cuda"
    AUTO = "auto"


DeviceOption = Annotated[
    DeviceChoice, typer.Option(help="Where to train; auto is CUDA where there is one.")
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="Keep finished steps here, together with other runs: what they have in common is done "
        "once.",
    ),
]


class QuotingChoice(StrEnum):
    """Whether cells of a file may be in quotes."""

    CSV = "csv"
    NONE = "none"


def main() -> None:
    """Run the command line; an expected error becomes one message and its exit code."""
    # Before ONNX Runtime is loaded: the wheels from PyPI report to their maker how they are used.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with memory_as_mismatch():
            app()
    except CompressorError as error:
        _end(_explained(error))
    except ModuleNotFoundError as error:
        mismatch = missing_package(error)
        if mismatch is None:
            raise
        _end(_explained(mismatch))
    except (KeyboardInterrupt, Terminated) as stop:
        _end(_stopped(stop))
    except SystemExit as stop:  # of typer
        _end(stop.code if isinstance(stop.code, int) else 0)


def _end(code: int) -> NoReturn:
    """End with this exit code, and all other processes of the run with it."""
    team = sys.modules.get("compressor.machine.team")  # not loaded where nobody joined any
    if team is not None:
        team.end_team(code)
    sys.exit(code)


def _explained(error: CompressorError) -> int:
    """Print what an error says, and return its exit code."""
    # Below its name, so that lines which begin with file:line stay what editors jump to.
    # A name from a file may hold half of a surrogate pair, which no terminal shows.
    text = printable(str(error).encode("utf-8", "backslashreplace").decode())
    # Plain: what finds numbers and paths to colour takes minutes over a name of 70,000 letters.
    name = type(error).__name__
    err.print(f"[bold red]{name}[/]\n{escape(text)}", soft_wrap=True, highlight=False)
    return error.exit_code


def _stopped(stop: BaseException) -> int:
    """Say what to do after Ctrl-C or SIGTERM, and return the exit code that shells know."""
    # A run that was under way says how far it came.
    told = getattr(stop, "__notes__", ["Stopped; run the same command again to resume"])
    # Words alone: where somebody reads along, no word is broken at the edge.
    err.print(f"{escape(printable(told[-1]))}.", soft_wrap=not err.is_terminal, highlight=False)
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's
    raise Terminated


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", metavar=FLAG, help="Print the version and exit.")
    ] = False,
) -> None:
    """Answer --version."""
    if show:
        out.print(f"compressor {__version__}")
        raise typer.Exit


@app.command(
    epilog="Example: compress run recipe.yaml --output runs/first --set passes.0.ratio=0.4. Stop "
    "it whenever you like: the same command resumes."
)
def run(
    recipe: RecipeArgument,
    settings: SetOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory to write; the recipe's `output` otherwise.")
    ] = None,
    store: StoreOption = None,
    device: DeviceOption = DeviceChoice.AUTO,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            metavar=FLAG,
            help="Do every step anew, whatever an earlier run into the output directory finished, "
            "and accept a directory that holds other files.",
        ),
    ] = False,
    allow_inconclusive: Annotated[
        bool,
        typer.Option(
            "--allow-inconclusive",
            metavar=FLAG,
            help="End with exit code 0 when the certification split cannot prove the budget.",
        ),
    ] = False,
    allow_code: AllowCodeOption = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            metavar=FLAG,
            help="Log each step with its numbers to standard error, and show what other libraries "
            "print.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", metavar=FLAG, help="Print progress and end as lines of JSON, for programs."
        ),
    ] = False,
) -> None:
    """Carry out a recipe: compress, verify, export, report."""
    events = JsonProgress(sys.stdout) if as_json else None
    with nullcontext() if events is None else events.to_the_end():
        _run(
            recipe,
            settings or (),
            output,
            store,
            device,
            force=force,
            allow_inconclusive=allow_inconclusive,
            allow_code=allow_code,
            verbose=verbose,
            events=events,
        )


def _run(
    recipe: Path,
    settings: Sequence[str],
    output: Path | None,
    store: Path | None,
    device: DeviceChoice,
    *,
    force: bool = False,
    allow_inconclusive: bool = False,
    allow_code: bool = False,
    verbose: bool = False,
    events: JsonProgress | None = None,
) -> None:
    """Carry out a recipe, and show how it goes: to people, or as `events`."""
    # Before torch is loaded: OpenMP threads that spin while they wait slow training tenfold on a
    # machine that is busy with something else, and gain nothing on one that is not.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _meet_others(quiet=not verbose)

    directory = output
    try:
        with seldom_collected():
            from compressor.pipeline.preflight import load_whole

            loaded = load_whole(recipe, settings, allow_code=allow_code)
            loaded.require_own_code()  # before anything that takes long to load
            directory = output or loaded.output
            level = logging.INFO if verbose else logging.WARNING
            logging.basicConfig(level=level, stream=sys.stderr)

            from compressor.console import ConsoleProgress
            from compressor.pipeline.run import run as run_recipe

            prepare_torch(quiet=not verbose)
        gc.freeze()  # modules stay: what is made from here on is looked at without them

        # What stops a run from outside, such as a scheduler, should find a report too.
        signal.signal(signal.SIGTERM, _terminate)
        report = run_recipe(
            loaded,
            output=output,
            store=store,
            device=device.value,
            force=force,
            allow_inconclusive=allow_inconclusive,
            allow_code=allow_code,
            progress=events or ConsoleProgress(out),
            quiet=not verbose,
        )
    except CompressorError as error:
        if events is not None:
            events.ended_by(error, directory)
        elif error.report is not None:
            _print_report(error.report, directory)
        raise
    except (KeyboardInterrupt, Terminated) as stop:  # typer would end with the code alone
        code = _stopped(stop)
        if events is not None:
            events.stopped_by(stop, code)
        raise typer.Exit(code) from stop
    if events is not None:
        events.ended(report, directory)
    else:
        _print_report(report, directory)


@app.command()
def quickstart(
    output: Annotated[
        Path, typer.Option(help="Directory for the recipe and, in runs/, for what it makes.")
    ] = Path(),
    digits: Annotated[
        bool,
        typer.Option(
            "--digits",
            metavar=FLAG,
            help="Compress a small model of handwritten digits instead, trained here first: it "
            "needs no package besides this one.",
        ),
    ] = False,
    settings: SetOption = None,
) -> None:
    """See a whole run: write a recipe for a sentence encoder to ./quickstart.yaml, and run it."""
    from compressor.machine.launchers import read_launch
    from compressor.pipeline.preflight import check_machine, load_whole
    from compressor.quickstart import write_recipe

    if (size := read_launch().size) > 1:
        raise EnvironmentMismatch(
            f"quickstart writes a recipe, and {size} processes were started; start it once, and "
            f"give the recipe to compress run with a launcher"
        )
    recipe = write_recipe("digits" if digits else "quickstart", output)
    out.print(f"recipe: {escape(str(recipe))}", soft_wrap=True)
    check_machine(load_whole(recipe, settings or ()))  # whether the model is there, at once
    _run(recipe, settings or (), None, None, DeviceChoice.AUTO)
    out.print("your own model: compress init ./my-model --data rows.csv", soft_wrap=True)


@app.command()
def validate(
    recipe: RecipeArgument, settings: SetOption = None, allow_code: AllowCodeOption = False
) -> None:
    """Check a recipe without running it, and show the plan.

    Everything is told at once: mistakes, files, columns, labels, checkpoints.
    Exit code 2: something in the recipe is wrong; 3: something is only missing.
    """
    from compressor.pipeline.plan import render_plan
    from compressor.pipeline.preflight import check_machine, load_whole

    loaded = load_whole(recipe, settings or (), allow_code=allow_code)
    seen = check_machine(loaded)
    steps = " -> ".join(step.kind for step in loaded.passes) or "export only"
    out.print(f"{escape(str(recipe))}: valid ({steps})", soft_wrap=True)
    out.print(escape(printable(render_plan(loaded, seen))), soft_wrap=True, highlight=False)


@app.command(
    epilog="Example: compress sweep sweep.yaml --output runs/sweep. Give the same command several "
    "times, on several hosts too, and they share the work. Stop it whenever you like: the same "
    "command resumes."
)
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="The sweep, a YAML file.")],
    settings: SetOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory to write; the sweep's `output` otherwise.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Keep finished steps here; in the output directory otherwise.",
        ),
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
    allow_inconclusive: Annotated[
        bool,
        typer.Option(
            "--allow-inconclusive",
            metavar=FLAG,
            help="End with exit code 0 when the certification split cannot prove the budget for "
            "the chosen recipe.",
        ),
    ] = False,
    allow_code: AllowCodeOption = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Start workers on this Ray cluster, such as ray://head:10001, or `local`.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many workers --ray starts.")
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            metavar=FLAG,
            help="Show every step of every trial, and what other libraries print.",
        ),
    ] = False,
) -> None:
    """Run a recipe with many settings, and choose the best.

    The front of what can be had comes as a page, a table and data, and the chosen recipe as a file.
    The exit codes are those of `run`, for the chosen recipe; 5 when no trial keeps all constraints.
    """
    from compressor.sweep.settings import load_sweep

    loaded = load_sweep(file, settings or (), allow_code=allow_code)
    if (ray is None) != (workers is None):
        raise RecipeError("--ray and --workers belong together: where to start workers, how many")
    _require_package("optuna", "a sweep", "sweep")
    if ray is not None:
        _require_package("ray", "--ray", "ray")
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, stream=sys.stderr)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in `run`

    from compressor.console import ConsoleProgress
    from compressor.sweep.worker import WorkerOptions, run_sweep

    prepare_torch(quiet=not verbose)
    signal.signal(signal.SIGTERM, _terminate)
    start = run_sweep
    if ray is not None and workers is not None:
        from compressor.sweep.ray_workers import run_sweep_on_ray

        start = partial(run_sweep_on_ray, address=ray, num_workers=workers)
    try:
        options = WorkerOptions(
            output, store, device.value, ConsoleProgress(out), quiet=not verbose
        )
        end = start(loaded, options, allow_inconclusive=allow_inconclusive)
    except KeyboardInterrupt as stop:  # typer would end with the code alone
        raise typer.Exit(_stopped(stop)) from stop
    out.print(f"{end.front.headline}", soft_wrap=True, highlight=False)
    _print_report(end.report, end.folder / "best")
    for name, what in (("front.html", "front"), ("best.yaml", "recipe")):
        out.print(f"{what}: {escape(str(end.folder / name))}", soft_wrap=True)


@app.command()
def store(
    directory: Annotated[Path, typer.Argument(help="The directory that --store was given.")],
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Remove what was used longest ago until at most this much is left, such as 20GB. "
            "What a living run uses stays.",
        ),
    ] = None,
) -> None:
    """Show what a store of steps holds, or make it smaller."""
    from compressor.amounts import parse_bytes
    from compressor.pipeline.shared_store import content_of, prune

    if keep is not None:
        try:
            most = parse_bytes(keep)
        except ValueError as error:
            raise RecipeError(f"--keep {keep}: {error}") from error
        removed = prune(directory, most)
        out.print(f"removed: {escape(str(removed))}", soft_wrap=True, highlight=False)
    found = content_of(directory)
    out.print(f"{escape(str(directory))}: {escape(str(found))}", soft_wrap=True, highlight=False)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Output directories of runs.")],
    html: Annotated[
        Path | None, typer.Option(help="Also write the comparison as a self-contained page.")
    ] = None,
) -> None:
    """Put several runs into one table and one chart."""
    from compressor.paths import unwritable
    from compressor.report.compare import render_comparison_html, render_comparison_text
    from compressor.report.render import read_report

    if html is not None and (reason := unwritable(html)) is not None:
        raise EnvironmentMismatch(f"--html {html}: {reason}; give a file to write the page to")
    reports = [(str(path), read_report(path)) for path in runs]
    out.print(render_comparison_text(reports))
    if len(runs) == 1:
        out.print(
            f"this is one run; put others beside it: compress compare {escape(str(runs[0]))} OTHER",
            soft_wrap=True,
        )
    if html is not None:
        try:
            html.write_text(render_comparison_html(reports), encoding="utf-8")
        except OSError as error:
            raise EnvironmentMismatch(
                f"--html {html}: cannot be written ({error.strerror or error}); give a file in a "
                f"directory that exists and can be written"
            ) from error
        out.print(f"wrote {escape(str(html))}", soft_wrap=True)


@app.command()
def passes(
    kind: Annotated[
        str | None,
        typer.Argument(help="Show this pass, or a setting of it such as distill.temperature."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar=FLAG, help="Print everything as JSON.")
    ] = False,
) -> None:
    """List the passes, or show the settings of one with an example."""
    from compressor.inspection.pass_list import describe_passes, render_pass, render_passes

    if as_json:
        typer.echo(json.dumps(describe_passes(kind), indent=2, allow_nan=False))
        return
    text = render_passes() if kind is None else render_pass(kind, out.width)
    out.print(text, soft_wrap=True)


@app.command(epilog="Example: compress init ./my-model --data rows.csv --text review --label stars")
def init(
    checkpoint: Annotated[str, typer.Argument(help="A directory or a Hub id such as org/name.")],
    data: Annotated[
        Path,
        typer.Option(
            help="Rows to judge on: csv, tsv, json lines or parquet; or a folder of images or WAV "
            "files, or one in BEIR's layout."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    base: Annotated[
        str | None,
        typer.Option(help="Of an adapter, the model that it was trained on; else what it names."),
    ] = None,
    task: TaskOption = None,
    train: Annotated[Path | None, typer.Option(help="Rows to train on, another file.")] = None,
    certification: Annotated[
        Path | None, typer.Option(help="Rows that nothing has seen, to prove the budget with.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column of the text, image or sound; twice for pairs of texts."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the label.")
    ] = None,
    label_names: Annotated[
        str | None,
        typer.Option(help="The data's label names in the checkpoint's order, with commas between."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric of the budget, one of yours as my_metric.py:ndcg; left out, the first "
            "that these rows can tell by."
        ),
    ] = None,
    quoting: Annotated[
        QuotingChoice | None,
        typer.Option(
            help="Whether cells of csv or tsv files are in quotes, where they cannot tell."
        ),
    ] = None,
    allow_code: AllowCodeOption = False,
    force: Annotated[
        bool, typer.Option("--force", metavar=FLAG, help="Replace a recipe that exists.")
    ] = False,
) -> None:
    """Write a starter recipe for your checkpoint and rows.

    It is commented, fits this machine, and is ready to run.
    """
    from compressor.console import ConsoleProgress

    prepare_torch()
    from compressor.starter.sources import Wishes
    from compressor.starter.write import write_starter

    names = tuple(name.strip() for name in label_names.split(",")) if label_names else ()
    recipe = write_starter(
        checkpoint,
        data,
        output,
        base=base,
        train=train,
        certification=certification,
        wishes=Wishes(
            tuple(text or ()),
            label,
            names,
            metric,
            None if quoting is None else quoting.value,
            task,
        ),
        force=force,
        allow_code=allow_code,
        progress=ConsoleProgress(err),
    )
    allow = " --allow-code" if recipe.own_code else ""
    out.print(
        f"wrote {escape(str(output))}; next: compress run {escape(str(output))}{allow}",
        soft_wrap=True,
    )


@app.command()
def inspect(
    path: Annotated[
        str,
        typer.Argument(help="A checkpoint (directory or Hub id), an .onnx file, or an artifact."),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", metavar=FLAG, help="Print the facts as JSON.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Rows to try int8 saturation on; random inputs otherwise.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The column of texts in --data.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Directory of the tokenizer; the .onnx file's own directory otherwise."),
    ] = None,
    task: TaskOption = None,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing/--no-timing", metavar=FLAG, help="Export a checkpoint and profile it."
        ),
    ] = True,
) -> None:
    """Show where bytes and time go, and what could be saved.

    Of an .onnx file or an artifact also whether its int8 matmuls are exact.
    """
    from compressor.console import ConsoleProgress
    from compressor.inspection.facts import OnnxFacts, to_dict
    from compressor.inspection.paths import find_onnx, inspect_path
    from compressor.inspection.terminal import render_checkpoint, render_onnx

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if find_onnx(Path(path)) is None:
        prepare_torch()
    facts = inspect_path(
        path,
        data=data,
        text=text,
        tokenizer=tokenizer,
        task=task,
        timing=timing,
        progress=ConsoleProgress(err),  # standard output holds the facts alone
    )
    if as_json:
        typer.echo(json.dumps(to_dict(facts), indent=2, allow_nan=False))
    else:
        out.print(render_onnx(facts) if isinstance(facts, OnnxFacts) else render_checkpoint(facts))


def _require_package(name: str, purpose: str, extra: str) -> None:
    """Raise `EnvironmentMismatch` where a package of an extra is not installed."""
    if find_spec(name) is None:
        raise EnvironmentMismatch(
            f"{purpose} needs the package {name}, which is not installed; install compressor with "
            f"its extra '{extra}'"
        )


def _meet_others(*, quiet: bool) -> None:
    """Join the processes that a launcher started; all but the first follow until it ends."""
    from compressor.machine.launchers import read_launch

    if read_launch().size == 1:
        return
    # Before torch is loaded, too: it warns of models that use all their parameters.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from compressor.machine.team import join
    from compressor.training.together import follow

    if join().leads:
        return
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    prepare_torch(quiet=quiet)
    follow(quiet=quiet)


def _print_report(report: RunReport, directory: Path | None) -> None:
    from compressor.report.render import render_summary

    out.print(render_summary(report))
    if report.verdict == "passed":
        out.print(f"artifact: {escape(str(directory))}/artifact", soft_wrap=True)
    out.print(f"report: {escape(str(directory))}/report.html", soft_wrap=True)


app.command(epilog=explain.EXAMPLE)(explain.explain)
app.command(epilog=serve.EXAMPLE)(serve.serve)
app.command(epilog=shadow.EXAMPLE)(shadow.shadow)
app.command(epilog=push.EXAMPLE)(push.push)
app.command(epilog=push.PACK_EXAMPLE)(push.pack)
for _info in app.registered_commands:
    _info.cls = _Command
