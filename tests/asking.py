"""Asks an application without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        return str(self.json["error"]["message"])


async def ask(
    app: Starlette,
    path: str,
    body: Any = None,
    *,
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    pause: float = 0.0,
    raises: type[Exception] | tuple[()] = (),
) -> Answer:
    """Send one request, in as many chunks as a list of bytes has, and return the answer.

    What the application `raises` for a server to log, after it has answered, is passed over.
    """
    chunks = body if isinstance(body, list) and body and isinstance(body[0], bytes) else None
    if chunks is None:
        chunks = [body if isinstance(body, bytes) else json.dumps(body).encode()]
    sent: list[dict[str, Any]] = []
    given = {"content-type": "application/json", **(headers or {})}
    waiting = iter(chunks)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        chunk = next(waiting, b"")
        return {"type": "http.request", "body": chunk, "more_body": chunk != b""}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
    }
    with suppress(raises):
        await app(scope, receive, send)
    start = next(item for item in sent if item["type"] == "http.response.start")
    return Answer(
        start["status"],
        {k.decode().lower(): v.decode() for k, v in start["headers"]},
        b"".join(item.get("body", b"") for item in sent),
    )
