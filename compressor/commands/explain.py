"""`compress explain`: what predictions rest on, before and after a run."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from compressor.commands.terminal import FLAG, err, out, prepare_torch
from compressor.words import printable

if TYPE_CHECKING:
    from compressor.attribution.explanations import Method

EXAMPLE = "Example: compress explain runs/first --rows 100 --method both"


class MethodChoice(StrEnum):
    """How attributions are taken."""

    OCCLUSION = "occlusion"
    GRADIENTS = "integrated-gradients"
    BOTH = "both"


def explain(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The output directory of a run with an artifact.")
    ],
    method: Annotated[
        MethodChoice,
        typer.Option(
            help="occlusion asks the ONNX files; integrated-gradients, with the extra `explain`, "
            "the PyTorch checkpoints."
        ),
    ] = MethodChoice.OCCLUSION,
    rows: Annotated[
        int, typer.Option(min=1, max=10_000, help="Rows drawn at random, for the agreement.")
    ] = 50,
    changed: Annotated[
        int, typer.Option(min=0, max=1000, help="Rows whose prediction changed, at most.")
    ] = 10,
    attention: Annotated[
        int, typer.Option(min=0, max=20, help="Rows whose attention maps are shown.")
    ] = 2,
    max_tokens: Annotated[
        int,
        typer.Option(
            min=3, max=4096, help="Pieces of a row; of more tokens neighbours are hidden together."
        ),
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="Directory for explanations.html and explanations.json; RUN otherwise."),
    ] = None,
    allow_code: Annotated[
        bool,
        typer.Option(
            "--allow-code",
            metavar=FLAG,
            help="Run the functions of your own that the run's recipe names.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar=FLAG, help="Print the values as JSON.")
    ] = False,
) -> None:
    """Show what predictions rest on, before and after a run, and how far that stayed."""
    from compressor.console import ConsoleProgress

    prepare_torch()
    from compressor.explain import explain as explain_run
    from compressor.explain import write_explanations
    from compressor.machine.quiet import quiet_libraries
    from compressor.report.explanations import explanation_lines

    chosen: tuple[Method, ...] = ("occlusion",)
    if method is MethodChoice.GRADIENTS:
        chosen = ("integrated-gradients",)
    elif method is MethodChoice.BOTH:
        chosen = ("occlusion", "integrated-gradients")
    with quiet_libraries():
        found = explain_run(
            run,
            methods=chosen,
            rows=rows,
            changed=changed,
            attentions=attention,
            most_pieces=max_tokens,
            seed=seed,
            allow_code=allow_code,
            progress=ConsoleProgress(err),
        )
    _, page = write_explanations(found, output or run)
    if as_json:
        typer.echo(json.dumps(found.facts(), indent=1, allow_nan=False))
        return
    for line in explanation_lines(found):
        out.print(escape(printable(line)), soft_wrap=True, highlight=False)
    out.print(f"explanations: {escape(str(page))}", soft_wrap=True)
