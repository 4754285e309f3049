"""`compress shadow`: compares an artifact with its original on fresh rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compressor.commands.terminal import FLAG, err, out, prepare_torch
from compressor.errors import EnvironmentMismatch

EXAMPLE = (
    "Example: compress shadow runs/first/artifact --against ./my-model today.jsonl --max-drop 0.02"
)


def shadow(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="The `artifact` folder of a finished run.")
    ],
    data: Annotated[
        Path, typer.Argument(metavar="ROWS", help="Fresh rows, without labels: jsonl, csv, ...")
    ],
    against: Annotated[
        str, typer.Option(metavar="CHECKPOINT", help="The original: a directory or a Hub id.")
    ],
    revision: Annotated[str | None, typer.Option(help="Its revision on the Hub.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the input, twice for pairs; left out, as the artifact was judged.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column that is the same in all rows of one query; left out, as it was judged.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.999, help="Share that may change; left out, the artifact's own budget."
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=0.9999,
            help="Of each bound; left out, that of the artifact's own budget where that is asked "
            "for, else 0.95.",
        ),
    ] = None,
    max_rows: Annotated[
        int | None, typer.Option(min=1, help="Rows that are read, drawn at random.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    changed: Annotated[
        Path | None,
        typer.Option(help="Also write a line of JSON for each changed prediction, without texts."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", metavar=FLAG, help="Print the numbers as JSON.")
    ] = False,
) -> None:
    """Ask fresh rows without labels how far an artifact still predicts what its original does.

    Exit code 5: more changed than may; 6: too few rows to tell.
    """
    from compressor.console import ConsoleProgress
    from compressor.paths import unwritable

    if changed is not None and (reason := unwritable(changed)) is not None:
        raise EnvironmentMismatch(f"--changed {changed}: {reason}; give a file to write to")
    prepare_torch()
    from compressor.shadow import require_kept, write_changed
    from compressor.shadow import shadow as compare_now

    found = compare_now(
        artifact,
        against=against,
        data=data,
        text=tuple(text or ()),
        group=group,
        revision=revision,
        max_drop=max_drop,
        confidence=confidence,
        max_rows=max_rows,
        seed=seed,
        progress=ConsoleProgress(err),
    )
    if changed is not None:
        write_changed(changed, found)
    if as_json:
        typer.echo(json.dumps(found.facts(), indent=2, allow_nan=False))
    else:
        out.print(escape(found.text()), soft_wrap=True, highlight=False)
    require_kept(found)
