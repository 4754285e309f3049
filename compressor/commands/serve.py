"""`compress serve`: answers HTTP requests with an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compressor.commands.terminal import FLAG, err
from compressor.errors import EnvironmentMismatch
from compressor.serve.settings import ServeSettings, read_key, usable_cpus

_DEFAULTS = ServeSettings()
EXAMPLE = (
    "Example: compress serve runs/first/artifact --port 8080. Then: curl "
    "localhost:8080/predict -H 'Content-Type: application/json' -d "
    """'{"inputs": ["a fine film"]}'. """
    "SIGTERM or Ctrl-C ends it once what was asked is answered."
)


def serve(
    artifact: Annotated[
        Path, typer.Argument(metavar="ARTIFACT", help="The `artifact` folder of a finished run.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
    ] = 8080,
    fd: Annotated[
        int | None,
        typer.Option(
            min=0, help="File descriptor of a socket that listens already, as of systemd."
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            help="cpu or cuda of ONNX Runtime, or openvino; otherwise what the artifact is for."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Batches at a time; one for each CPU otherwise.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a batch.")] = 1,
    max_batch: Annotated[
        int,
        typer.Option(
            min=1, help="Examples of a batch at most; each 500 characters of a text count as one."
        ),
    ] = _DEFAULTS.max_batch,
    max_queue: Annotated[
        int,
        typer.Option(
            min=1, help="Examples that wait at most, counted alike; more are answered 429."
        ),
    ] = _DEFAULTS.max_queue,
    max_examples: Annotated[
        int, typer.Option(min=1, help="Examples of a request at most; more are answered 413.")
    ] = _DEFAULTS.max_examples,
    max_body: Annotated[
        int, typer.Option(min=1, help="Bytes of a request at most; more are answered 413.")
    ] = _DEFAULTS.max_body,
    max_characters: Annotated[
        int, typer.Option(min=1, help="Characters of a text at most; more are answered 413.")
    ] = _DEFAULTS.max_characters,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections at most; more are answered 503.")
    ] = _DEFAULTS.max_connections,
    answer_seconds: Annotated[
        float, typer.Option(min=0.001, help="Seconds an answer takes at most, otherwise 503.")
    ] = _DEFAULTS.answer_seconds,
    stop_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds that what was asked may take after SIGTERM.")
    ] = _DEFAULTS.stop_seconds,
    key_file: Annotated[
        Path | None,
        typer.Option(help="File with a key that requests must show, as `Authorization: Bearer`."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What answers call the model; its folder's name otherwise.")
    ] = None,
    access_log: Annotated[
        bool,
        typer.Option("--access-log", metavar=FLAG, help="Log each request's path and status."),
    ] = False,
) -> None:
    """Answer HTTP requests with an artifact: /predict, /v1/embeddings, /rerank.

    Requests are joined into batches. No text is logged. /health is for probes, /metrics for
    Prometheus, /openapi.json for clients, and /info names the model and the limits.
    """
    try:
        from compressor.serve.run import inherited, listen
        from compressor.serve.run import serve as serve_artifact
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in (
            "starlette",
            "uvicorn",
            "prometheus_client",
        ):
            raise
        raise EnvironmentMismatch(
            f"compress serve needs {error.name}; install what it needs: pip install "
            f"'compressor[cpu,serve]'"
        ) from error

    serve_artifact(
        artifact,
        open_socket=lambda: listen(host, port) if fd is None else inherited(fd),
        settings=ServeSettings(
            workers=workers or usable_cpus(),
            max_batch=max_batch,
            max_queue=max_queue,
            max_examples=max_examples,
            max_body=max_body,
            max_characters=max_characters,
            max_connections=max_connections,
            answer_seconds=answer_seconds,
            stop_seconds=stop_seconds,
            api_key=None if key_file is None else read_key(key_file),
        ),
        provider=provider,
        threads=threads,
        access_log=access_log,
        name=name,
        ready=lambda address: err.print(
            f"serving {escape(str(artifact))} on {address}", soft_wrap=True, highlight=False
        ),
    )
