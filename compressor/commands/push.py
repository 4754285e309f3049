"""`compress push` and `compress pack`: an artifact to the Hub, or into one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compressor.commands.terminal import FLAG, out
from compressor.errors import EnvironmentMismatch

EXAMPLE = "Example: compress push runs/first/artifact --to org/name, then the same with --yes"
PACK_EXAMPLE = "Example: compress pack runs/first/artifact --output my-model.tar.zst"

ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="The `artifact` folder of a finished run.")
]


def push(
    artifact: ArtifactArgument,
    to: Annotated[str, typer.Option(metavar="ORG/NAME", help="The model's name on the Hub.")],
    yes: Annotated[
        bool, typer.Option("--yes", metavar=FLAG, help="Send it; otherwise it is only shown.")
    ] = False,
    private: Annotated[
        bool,
        typer.Option("--private", metavar=FLAG, help="Make a new model private."),
    ] = False,
    create_pr: Annotated[
        bool,
        typer.Option(
            "--create-pr", metavar=FLAG, help="Propose it as a change to a model that is there."
        ),
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; the main one otherwise.")] = None,
) -> None:
    """Send an artifact to the Hub: the files that its manifest names, in one commit.

    Every file is checked first. Without --yes nothing is sent.
    """
    from compressor.publish import plan_upload
    from compressor.publish import push as send

    upload = plan_upload(artifact, to)
    out.print(escape(upload.text()), soft_wrap=True, highlight=False)
    if not yes:
        out.print(f"nothing was sent; add --yes to send this to {escape(to)}", soft_wrap=True)
        return
    address = send(upload, private=private, create_pr=create_pr, revision=revision)
    out.print(f"sent: {escape(address)}", soft_wrap=True)


def pack(
    artifact: ArtifactArgument,
    output: Annotated[Path, typer.Option(help="The file to write, which ends in .tar.zst.")],
) -> None:
    """Make one file of an artifact, and write its SHA-256 beside it."""
    try:
        import zstandard  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        raise EnvironmentMismatch(
            "compress pack needs the package zstandard; install what it needs: pip install "
            "'compressor[pack]'"
        ) from error
    from compressor.publish import pack as write

    path, digest = write(artifact, output)
    out.print(f"wrote {escape(str(path))}, SHA-256 {digest}", soft_wrap=True, highlight=False)
