"""Starts the service: the artifact is loaded, the port is taken, and signals end it gracefully."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from compressor.artifact import load_artifact
from compressor.errors import EnvironmentMismatch
from compressor.serve.app import Service
from compressor.serve.few_lines import few_lines
from compressor.serve.settings import ServeSettings

_HEADER_SECONDS = 10.0
_LAST_SECONDS = 2.0  # for a first request, once the service stops
_BACKLOG = 2048


class _Protocol(H11Protocol):
    """HTTP/1.1 whose headers have to arrive in time; uvicorn waits for them without end.

    What was accepted before the service stops is answered. uvicorn closes a connection whose first
    request is still on its way, so that the request is lost.
    """

    is_stopping: ClassVar[bool] = False
    no_http: ClassVar[Callable[[], object]]  # is told of each request that is none
    _headers_in_time: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection, and begin to wait for the headers of a request."""
        super().connection_made(transport)
        self._wait_for_headers(_LAST_SECONDS if self.is_stopping else _HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Read what came, and wait for the rest of the headers where they are not whole."""
        super().data_received(data)
        if self._answers():
            self._stop_waiting()
            if self.is_stopping:
                self.cycle.keep_alive = False
        elif self._headers_in_time is None:
            self._wait_for_headers(_HEADER_SECONDS)

    def shutdown(self) -> None:
        """End the connection after what is asked on it, or after its first request."""
        if self.cycle is not None:
            super().shutdown()
            return
        self._stop_waiting()
        self._wait_for_headers(_LAST_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        type(self).no_http()
        super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self, seconds: float) -> None:
        self._headers_in_time = self.loop.call_later(seconds, self._close_unless_asked)

    def _stop_waiting(self) -> None:
        if self._headers_in_time is not None:
            self._headers_in_time.cancel()
            self._headers_in_time = None

    def _close_unless_asked(self) -> None:
        if not self._answers() and not self.transport.is_closing():
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises `EnvironmentMismatch` where the port cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with ExitStack() as on_error:
            own = on_error.enter_context(socket.socket(family, kind, protocol))
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind(address)
            own.listen(_BACKLOG)
            on_error.pop_all()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentMismatch(
            f"{host}:{port}: cannot be listened on ({reason}); give another --port or --host, or "
            f"stop what listens there"
        ) from error
    return own


def inherited(number: int) -> socket.socket:
    """Return the listening socket that a parent process opened as file descriptor `number`.

    Raises `EnvironmentMismatch` where it is none.
    """
    try:
        own = socket.socket(fileno=number)
        listens = own.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise EnvironmentMismatch(
            f"--fd {number}: no open socket ({error.strerror}); whoever starts the service has to "
            f"open it and leave it open, as systemd does (number 3)"
        ) from error
    if not listens:
        own.detach()  # it is somebody else's
        raise EnvironmentMismatch(f"--fd {number}: this socket does not listen; call listen first")
    return own


def serve(
    directory: Path,
    *,
    open_socket: Callable[[], socket.socket],
    settings: ServeSettings,
    provider: str | None,
    threads: int,
    access_log: bool,
    name: str | None,
    ready: Callable[[str], object],
) -> None:
    """Serve the artifact in `directory` until SIGTERM or SIGINT.

    What was asked until then is answered, for at most `settings.stop_seconds`. `ready` gets
    the address once requests are taken. `name` is what answers call the model, None for that of its
    folder. Raises what `load_artifact`, opening its graph and `open_socket` raise.
    """
    artifact = load_artifact(
        directory, provider=provider, threads=threads, streams=settings.workers
    )
    artifact.model.session  # noqa: B018 - opened now: a graph that does not run takes no request
    own = open_socket()
    service = Service(artifact, settings, name=name or _name_of(artifact.directory))
    try:
        protocol = type(  # stops with this service alone
            "Protocol", (_Protocol,), {"no_http": staticmethod(service.count_no_http)}
        )
        config = uvicorn.Config(
            service.app,
            http=protocol,
            ws="none",
            lifespan="on",
            access_log=access_log,
            log_level="info" if access_log else "warning",
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=round(settings.stop_seconds),
            timeout_keep_alive=75,  # longer than the proxies before it keep theirs
            server_header=False,
        )
        server = _Server(config, protocol, lambda: ready(_address_of(own)))
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again once it has stopped, which would end us with its code.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
        with few_lines():
            server.run(sockets=[own])
    finally:
        service.batcher.close()
        own.close()


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, protocol: type[_Protocol], ready: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._protocol, self._ready = protocol, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was asked, and end."""
        self._protocol.is_stopping = True
        await super().shutdown(sockets)


def _address_of(own: socket.socket) -> str:
    name = own.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"


def _name_of(directory: Path) -> str:
    """Return the name of an artifact's folder; a run calls all of them `artifact`."""
    folder = directory.resolve()
    return folder.parent.name if folder.name == "artifact" and folder.parent.name else folder.name
