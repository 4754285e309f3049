"""The application: what is asked of an artifact over HTTP, checked, computed and answered as JSON.

No text of a request is kept, logged or quoted in an answer's error beyond its first characters.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from compressor import __version__
from compressor.artifact import Artifact
from compressor.errors import CompressorError
from compressor.serve.batcher import Batcher, Overloaded, Stopping
from compressor.serve.bodies import (
    EmbeddingsRequest,
    PredictRequest,
    RerankRequest,
)
from compressor.serve.counters import Counters
from compressor.serve.openapi import openapi_of
from compressor.serve.settings import ServeSettings
from compressor.tasks import Example
from compressor.words import counted

PREDICT, EMBEDDINGS, RERANK, RERANK_V1 = "/predict", "/v1/embeddings", "/rerank", "/v1/rerank"
HEALTH, INFO, METRICS, OPENAPI = "/health", "/info", "/metrics", "/openapi.json"
_LARGE = 1 << 16  # bytes or characters that are read beside the event loop
_OPEN = (HEALTH, METRICS)  # what asks for no key: probes and scrapers have none
_MOST_ERROR = 500  # characters
_TOGETHER = 8  # examples of a batch, of about one length: in a whole one half is padding
_USUAL_CHARACTERS = 500  # of a text that counts as one example of a batch
_STATUS_TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    429: "overloaded",
    500: "internal_error",
    503: "unavailable",
}
Body = TypeVar("Body", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class Refused(Exception):
    """A request that is not computed, with the status and the words of the answer."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


@dataclass(frozen=True)
class Options:
    """What changes how examples are computed; those of one batch have the same."""

    prompt_name: str | None = None
    aggregation: str | None = None


@dataclass(frozen=True)
class Asked:
    """The examples of a request, and how many usual ones each takes as long as."""

    examples: Sequence[Example]
    costs: Sequence[int]


class Service:
    """An artifact behind HTTP: `app` is the ASGI application.

    The batches are computed by threads of its own, which `app` ends when it shuts down.
    """

    def __init__(self, artifact: Artifact, settings: ServeSettings, *, name: str) -> None:
        self._artifact, self._settings, self._name = artifact, settings, name
        self._reading = threading.Lock()
        self.batcher: Batcher[Options] = Batcher(
            self._predict,
            workers=settings.workers,
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            told=lambda size: self._counters.batch(size),
        )
        self._counters = Counters(lambda: self.batcher.waiting)
        self._is_stopping = False
        task = artifact.task
        routes: dict[str, tuple[Handler, type[BaseModel]]] = {
            PREDICT: (self.predict, PredictRequest)
        }
        if "vectors" in task.abilities:
            routes[EMBEDDINGS] = (self.embeddings, EmbeddingsRequest)
        if "margins" in task.abilities:
            routes[RERANK] = (self.rerank, RerankRequest)
            routes[RERANK_V1] = (self.rerank_v1, RerankRequest)
        about = f"{name}: {task.name}, compressed with compressor {__version__}"
        self._openapi = openapi_of(about, {path: body for path, (_, body) in routes.items()})
        self._paths = {*routes, HEALTH, INFO, METRICS, OPENAPI}
        self.app = Starlette(
            routes=[
                *(
                    Route(path, self._answered(path, handler), methods=["POST"])
                    for path, (handler, _) in routes.items()
                ),
                Route(HEALTH, self._answered(HEALTH, self.health)),
                Route(INFO, self._answered(INFO, self.info)),
                Route(METRICS, self._answered(METRICS, self.metrics)),
                Route(OPENAPI, self._answered(OPENAPI, self.openapi)),
            ],
            exception_handlers={404: self._unknown, 405: self._wrong_method, 500: self._failed},
            lifespan=self._lifespan,
        )
        # A path with a slash behind it is another one: a redirect would name the host that a client
        # says it asked.
        self.app.router.redirect_slashes = False

    async def predict(self, request: Request) -> Response:
        """Answer `/predict`: what the artifact predicts, an entry for each input."""
        body = await self._read(request, PredictRequest)
        inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        asked = await self._examples(inputs)
        found = await self._computed(asked, Options(body.prompt_name, body.aggregation))
        return _json(found)

    async def embeddings(self, request: Request) -> Response:
        """Answer `/v1/embeddings` as OpenAI's service does."""
        body = await self._read(request, EmbeddingsRequest)
        texts = [body.input] if isinstance(body.input, str) else body.input
        asked = await self._examples(texts)
        vectors = await self._computed(asked, Options(prompt_name=body.prompt_name))
        width = len(vectors[0])
        if body.dimensions not in (None, width):
            raise Refused(
                400,
                f"dimensions: this model gives {width} numbers, got {body.dimensions}; leave it "
                f"out, or compress the model with the pass cut_vectors",
            )
        tokens = await asyncio.to_thread(self._count_tokens, asked.examples, body.prompt_name)
        is_base64 = body.encoding_format == "base64"
        return _json(
            {
                "object": "list",
                "data": [
                    {
                        "object": "embedding",
                        "index": index,
                        "embedding": _base64(vector) if is_base64 else vector,
                    }
                    for index, vector in enumerate(vectors)
                ],
                "model": self._name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    async def rerank(self, request: Request) -> Response:
        """Answer `/rerank` as text-embeddings-inference does: the best first."""
        body = await self._read(request, RerankRequest)
        texts = body.texts if body.texts is not None else _texts_of(body)
        ranked = await self._ranked(body, texts)
        with_text = body.return_text or body.return_documents
        return _json(
            [
                {"index": index, "score": score, **({"text": texts[index]} if with_text else {})}
                for index, score in ranked
            ]
        )

    async def rerank_v1(self, request: Request) -> Response:
        """Answer `/v1/rerank` as Cohere's and Jina's services do: the best first."""
        body = await self._read(request, RerankRequest)
        texts = _texts_of(body) if body.documents is not None else body.texts or []
        ranked = await self._ranked(body, texts)
        with_text = body.return_text or body.return_documents
        return _json(
            {
                "model": self._name,
                "results": [
                    {
                        "index": index,
                        "relevance_score": score,
                        **({"document": {"text": texts[index]}} if with_text else {}),
                    }
                    for index, score in ranked
                ],
            }
        )

    async def health(self, request: Request) -> Response:
        """Answer `/health`: 200 as long as requests are taken."""
        del request
        if self._is_stopping:
            raise Refused(503, "the service is stopping")
        return _json({"status": "ok"})

    async def info(self, request: Request) -> Response:
        """Answer `/info`: what is served, and what may be asked at most."""
        del request
        manifest, settings = self._artifact.manifest, self._settings
        return _json(
            {
                "model": self._name,
                "task": self._artifact.task.name,
                "labels": manifest["labels"],
                "max_length": manifest["max_length"],
                "manifest_sha256": manifest.get("manifest_sha256"),
                "compressor_version": __version__,
                "max_batch": settings.max_batch,
                "max_examples": settings.max_examples,
                "max_body_bytes": settings.max_body,
                "max_characters": settings.max_characters,
            }
        )

    def count_no_http(self) -> None:
        """Count what was answered 400 before it came as far as this application."""
        self._counters.answered("other", 400, 0.0)

    async def metrics(self, request: Request) -> Response:
        """Answer `/metrics` in Prometheus' text format."""
        del request
        return Response(self._counters.text(), media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """Answer `/openapi.json`."""
        del request
        return _json(self._openapi)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        self._is_stopping = True
        await asyncio.to_thread(self.batcher.close)

    def _answered(self, path: str, handler: Handler) -> Handler:
        """Return `handler` with every refusal as an answer, and everything counted."""

        async def answered(request: Request) -> Response:
            start = time.perf_counter()
            try:
                if path not in _OPEN:
                    self._require_key(request)
                response = await handler(request)
            except Refused as error:
                response = _refusal(error.status, error.message)
            except Overloaded as error:
                response = _refusal(429, f"{error}; try again in a second")
                response.headers["Retry-After"] = "1"
            except Stopping as error:
                response = _refusal(503, str(error))
            except Exception:  # of the service itself: `_failed` answers, the server logs it
                self._counters.answered(path, 500, time.perf_counter() - start)
                raise
            self._counters.answered(path, response.status_code, time.perf_counter() - start)
            return response

        return answered

    async def _unknown(self, request: Request, error: Exception) -> Response:
        del error
        self._counters.answered("other", 404, 0.0)
        there = ", ".join(sorted(self._paths))
        task = self._artifact.task.name
        return _refusal(
            404, f"{request.url.path[:100]}: not here; a model for {task} answers {there}"
        )

    async def _wrong_method(self, request: Request, error: Exception) -> Response:
        self._counters.answered("other", 405, 0.0)
        allowed = getattr(error, "headers", None) or {}
        response = _refusal(
            405, f"{request.method[:20]} is not answered here; use {allowed.get('Allow', 'POST')}"
        )
        response.headers.update(allowed)
        return response

    async def _failed(self, request: Request, error: Exception) -> Response:
        del request, error
        return _refusal(500, "the service failed at this request; its log says how")

    def _require_key(self, request: Request) -> None:
        key = self._settings.api_key
        if key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), key.encode())
        if scheme.lower() != "bearer" or not same:
            raise Refused(401, "send the key of this service as `Authorization: Bearer KEY`")

    async def _read(self, request: Request, kind: type[Body]) -> Body:
        """Return the body of a request; raises `Refused`."""
        content = await self._received(request)
        try:
            if len(content) < _LARGE:
                return kind.model_validate_json(content)
            return await asyncio.to_thread(kind.model_validate_json, content)
        except ValidationError as error:
            raise Refused(400, _first_mistake(error)) from error

    async def _received(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "application/json").partition(";")[0]
        if kind.strip().lower() not in ("application/json", ""):
            raise Refused(415, f"the body must be application/json, got {kind.strip()[:60]}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "the body must not be compressed (no Content-Encoding)")
        most, seconds = self._settings.max_body, self._settings.receive_seconds
        too_large = Refused(413, f"the body is larger than {most} bytes; send it in parts")
        told = request.headers.get("content-length", "0")
        if told.isdigit() and int(told) > most:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    content += chunk
                    if len(content) > most:
                        raise too_large
        except TimeoutError as error:
            raise Refused(408, f"the body did not arrive within {seconds:g} s") from error
        except ClientDisconnect as error:
            raise Refused(400, "the connection was closed before the body was there") from error
        return bytes(content)

    async def _examples(self, inputs: Sequence[Any]) -> Asked:
        """Return what a request holds as examples; raises `Refused`."""
        settings = self._settings
        if len(inputs) > settings.max_examples:
            raise Refused(
                413, f"{len(inputs)} inputs, at most {settings.max_examples} may be in a request"
            )
        size = sum(map(_characters_of, inputs))
        if size > settings.max_body:  # what was written in escapes is longer than it was
            raise Refused(413, f"the inputs are longer than {settings.max_body} characters")
        if size < _LARGE:
            return self._read_examples(inputs)
        return await asyncio.to_thread(self._read_examples, inputs)

    def _read_examples(self, inputs: Sequence[Any]) -> Asked:
        task, most = self._artifact.task, self._settings.max_characters
        if task.reads_tokens:
            for place, item in enumerate(inputs):
                if (length := _characters_of(item)) > most:
                    raise Refused(
                        413,
                        f"example {place}: {length} characters, at most {most} may be in one; send "
                        f"it in parts (the model reads {self._artifact.manifest['max_length']} "
                        f"tokens at a time)",
                    )
        try:
            received = [task.received(item, f"example {i}") for i, item in enumerate(inputs)]
            examples = self._artifact.given(received)
        except (ValueError, CompressorError) as error:
            raise Refused(400, str(error)[:_MOST_ERROR]) from error
        costs = [_cost(item) if task.reads_tokens else 1 for item in inputs]
        return Asked(examples, costs)

    async def _computed(self, asked: Asked, options: Options) -> list[Any]:
        seconds = self._settings.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self.batcher.predict(asked.examples, options, asked.costs)
        except TimeoutError as error:
            raise Refused(503, f"no answer within {seconds:g} s; ask for less at a time") from error
        except (ValueError, CompressorError) as error:
            raise Refused(400, str(error)[:_MOST_ERROR]) from error

    async def _ranked(
        self, body: RerankRequest, texts: Sequence[str]
    ) -> list[tuple[int, np.float32]]:
        """Return positions of texts with their scores, the best first."""
        if not texts:
            raise Refused(400, "texts: give a list with at least one text")
        pairs = [[body.query, text] for text in texts]
        scores = await self._computed(await self._examples(pairs), Options())
        order = sorted(range(len(texts)), key=lambda index: (-float(scores[index]), index))
        return [(index, scores[index]) for index in order[: body.top_n]]

    def _predict(self, examples: Sequence[Example], options: Options) -> Sequence[Any]:
        found: Sequence[Any] = self._artifact(
            examples,
            prompt_name=options.prompt_name,
            aggregation=options.aggregation,
            batch_size=_TOGETHER,
        )
        return found

    def _count_tokens(self, examples: Sequence[Example], prompt_name: str | None) -> int:
        """Return how many tokens the model read."""
        return int(np.sum(self._artifact.lengths(examples, prompt_name=prompt_name)))


def _texts_of(body: RerankRequest) -> list[str]:
    texts = []
    for place, document in enumerate(body.documents or ()):
        text = document.get("text") if isinstance(document, Mapping) else document
        if not isinstance(text, str):
            raise Refused(400, f'documents.{place}: must be a text, or an object with "text"')
        texts.append(text)
    return texts


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    more = error.error_count() - 1
    rest = f" (and {counted(more, 'mistake')} more)" if more else ""
    return f"{place or 'the body'}: {first['msg']}{rest}"[:_MOST_ERROR]


def _characters_of(item: Any) -> int:
    """Return how long the texts in an input are."""
    if isinstance(item, str):
        return len(item)
    if isinstance(item, list | tuple):
        return sum(map(_characters_of, item))
    if isinstance(item, Mapping):
        return sum(map(_characters_of, item.values()))
    return 1  # a number, or nothing: it is refused later


def _cost(item: Any) -> int:
    return max(1, -(-_characters_of(item) // _USUAL_CHARACTERS))


def _base64(vector: Any) -> str:
    """Return a vector as OpenAI's clients read it: float32, whatever the graph gives."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode("ascii")


def _refusal(status: int, message: str) -> Response:
    kind = _STATUS_TYPES.get(status, "invalid_request")
    # The rest of a body that was not read would be taken for the next request.
    headers = {"Connection": "close"} if status in (408, 413, 415) else None
    content = {"error": {"message": message, "type": kind}}
    return JSONResponse(content, status_code=status, headers=headers)


def _json(value: Any) -> Response:
    content = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    return Response(content.encode("utf-8"), media_type="application/json")


def _plain(value: Any) -> Any:
    """Return what NumPy holds as JSON knows it; float32 with the digits that tell it apart."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:
            return [float(str(number)) for number in value]
        return value.tolist()
    if isinstance(value, np.float32):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not in the answers of any task")
