from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from asking import Answer, ask
from PIL import Image

from compressor.artifact import Artifact
from compressor.serve.app import Service
from compressor.serve.settings import ServeSettings
from compressor.tasks import Example, Task, load_task

TEXTS = ["a great film", "a dull plot and an awful movie", "it is fine"]


@dataclass(frozen=True)
class StandIn:
    """What a service needs of an artifact; scores are lengths, vectors counts of letters."""

    task: Task
    manifest: dict[str, Any] = field(
        default_factory=lambda: {"labels": [], "max_length": 16, "manifest_sha256": "0" * 64}
    )

    def given(self, examples: Sequence[Example]) -> Sequence[Example]:
        return self.task.given(examples)

    def lengths(self, examples: Sequence[Example], *, prompt_name: str | None) -> list[int]:
        before = [] if prompt_name is None else [prompt_name]
        return [len([*before, *str(item).split()]) for item in examples]

    def __call__(
        self, examples: Sequence[Any], *, prompt_name: str | None, **options: object
    ) -> Any:
        assert options == {"aggregation": None, "batch_size": 8}
        if prompt_name == "none":
            raise ValueError("prompt_name: there is no prompt 'none'")
        if "vectors" in self.task.abilities:
            return np.array(
                [[item.count("a"), item.count("b"), 0.1] for item in examples], np.float32
            )
        if "pixels" in self.task.abilities:
            return [{"label": "grey", "score": float(item.mean())} for item in examples]
        return np.array([len(second) / 7 for _, second in examples], np.float32)


def asked(artifact: Any, *requests: tuple[Any, ...], **settings: Any) -> list[Answer]:
    """Return the answers to requests, one after another."""
    service = Service(artifact, ServeSettings(**settings), name="tiny")

    async def go() -> list[Answer]:
        found = []
        for path, body, *more in requests:
            found.append(await ask(service.app, path, body, **(more[0] if more else {})))
        return found

    try:
        return asyncio.run(go())
    finally:
        service.batcher.close()


GET = {"method": "GET"}


def test_predictions_are_those_of_the_artifact(classifier: Artifact):
    many, one = asked(
        classifier, ("/predict", {"inputs": TEXTS}), ("/predict", {"inputs": TEXTS[0]})
    )
    expected = classifier(TEXTS)
    assert many.status == 200
    assert [item["label"] for item in many.json] == [item["label"] for item in expected]
    scores = [item["score"] for item in expected]
    assert [item["score"] for item in many.json] == pytest.approx(scores)
    assert [item["score"] for item in one.json] == pytest.approx(scores[:1])


def test_many_at_once_get_the_same_as_alone(classifier: Artifact):
    service = Service(classifier, ServeSettings(workers=2, max_batch=3), name="tiny")
    texts = [" ".join(TEXTS[n % 3].split()[: 1 + n % 4]) for n in range(40)]

    async def go() -> list[Answer]:
        return list(
            await asyncio.gather(*(ask(service.app, "/predict", {"inputs": t}) for t in texts))
        )

    try:
        answers = asyncio.run(go())
    finally:
        service.batcher.close()
    found = [answer.json[0]["score"] for answer in answers]
    assert found == pytest.approx([classifier([text])[0]["score"] for text in texts], abs=1e-6)


def test_embeddings_are_answered_as_openai_does():
    floats, encoded, wrong, prompt, asks = asked(
        StandIn(load_task("sentence-embedding")),
        ("/v1/embeddings", {"input": ["abba", "b c"], "model": "any"}),
        ("/v1/embeddings", {"input": "abba", "encoding_format": "base64"}),
        ("/v1/embeddings", {"input": "abba", "dimensions": 2}),
        ("/v1/embeddings", {"input": "abba", "prompt_name": "none"}),
        ("/v1/embeddings", {"input": "abba b", "prompt_name": "query"}),
    )
    assert floats.json == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [2.0, 2.0, 0.1]},
            {"object": "embedding", "index": 1, "embedding": [0.0, 1.0, 0.1]},
        ],
        "model": "tiny",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    vector = np.frombuffer(base64.b64decode(encoded.json["data"][0]["embedding"]), np.float32)
    assert vector == pytest.approx([2, 2, 0.1])
    assert (wrong.status, prompt.status) == (400, 400)
    assert "this model gives 3 numbers, got 2" in wrong.error
    assert "there is no prompt 'none'" in prompt.error
    assert asks.json["usage"]["prompt_tokens"] == 3  # with those of the prompt


def test_base64_is_of_float32_whatever_the_graph_gives():
    class OfBytes(StandIn):
        def __call__(self, examples: Sequence[Any], **options: Any) -> Any:
            return np.array([[-3, 0, 127]] * len(examples), np.int8)

    floats, encoded = asked(
        OfBytes(load_task("sentence-embedding")),
        ("/v1/embeddings", {"input": "abba"}),
        ("/v1/embeddings", {"input": "abba", "encoding_format": "base64"}),
    )
    assert floats.json["data"][0]["embedding"] == [-3, 0, 127]
    # OpenAI's client asks for base64 by itself, and takes what comes for float32.
    vector = np.frombuffer(base64.b64decode(encoded.json["data"][0]["embedding"]), "<f4")
    assert vector.tolist() == [-3, 0, 127]


def test_candidates_are_ranked_in_both_shapes():
    task = load_task("text-scoring")
    texts = ["bb", "dddd", "c"]
    plain, v1, objects, empty = asked(
        StandIn(task),
        ("/rerank", {"query": "q", "texts": texts, "return_text": True}),
        ("/v1/rerank", {"query": "q", "documents": texts, "top_n": 2}),
        ("/v1/rerank", {"query": "q", "documents": [{"text": "x"}], "return_documents": True}),
        ("/rerank", {"query": "q", "texts": []}),
    )
    assert [(item["index"], item["text"]) for item in plain.json] == [
        (1, "dddd"),
        (0, "bb"),
        (2, "c"),
    ]
    assert [item["score"] for item in plain.json] == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert [item["index"] for item in v1.json["results"]] == [1, 0]
    assert objects.json["results"][0]["document"] == {"text": "x"}
    assert empty.status == 400


def test_images_come_as_files_in_base64():
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8), 51, np.uint8)).save(content, "png")
    encoded = base64.b64encode(content.getvalue()).decode()
    good, damaged, no_base64 = asked(
        StandIn(load_task("image-classification")),
        ("/predict", {"inputs": [encoded]}),
        ("/predict", {"inputs": [base64.b64encode(b"no picture").decode()]}),
        ("/predict", {"inputs": ["not base64!"]}),
    )
    assert good.json == [{"label": "grey", "score": 51.0}]
    assert (damaged.status, no_base64.status) == (400, 400)
    assert "example 0: the image is empty or of no format that Pillow reads" in damaged.error
    assert "must be a file as a string in base64" in no_base64.error


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "Invalid JSON"),
        (b"{", 400, "Invalid JSON"),
        (b'{"inputs": "\xff"}', 400, "Invalid JSON"),
        (b'{"inputs": "\\ud800"}', 400, "Invalid JSON"),
        (b'{"inputs": NaN}', 400, "must be a text"),
        (b"[" * 100_000, 400, "Invalid JSON"),
        (b'{"inputs": ' + b"[" * 150 + b"]" * 150 + b"}", 400, "must be a text"),
        (b"[]", 400, "Input should be an object"),
        (b"{}", 400, "inputs: Field required"),
        (b'{"inputs": []}', 400, "at least one text"),
        (b'{"inputs": null}', 400, "must be a text"),
        (b'{"inputs": [1]}', 400, "must be a text"),
        (b'{"inputs": [{"a": 1}]}', 400, "must be a text"),
        (b'{"inputs": ["a", ["b", "c"]]}', 400, "give one kind"),
        (b'{"inputs": "a", "aggregation": 3}', 400, "aggregation: Input should be"),
        (b'{"inputs": "a", "aggregation": "max"}', 400, "gives no tags of tokens"),
        (b'{"inputs": "a", "prompt_name": "query"}', 400, "reads no prompts"),
        (json.dumps({"inputs": ["a"] * 9}).encode(), 413, "9 inputs, at most 8"),
        (json.dumps({"inputs": "a" * 101}).encode(), 413, "101 characters, at most 100"),
        (b'{"inputs": "' + b"a" * 200_000 + b'"}', 413, "larger than 200000 bytes"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_words(
    classifier: Artifact, body: bytes, status: int, words: str
):
    (answer,) = asked(
        classifier, ("/predict", body), max_examples=8, max_characters=100, max_body=200_000
    )
    assert answer.status == status
    assert words in answer.error
    assert len(answer.content) < 1000


def test_a_body_of_another_kind_or_without_end_is_refused(classifier: Artifact):
    kind, packed, told, chunks, slow = asked(
        classifier,
        ("/predict", b"a=b", {"headers": {"content-type": "text/plain"}}),
        ("/predict", b"{}", {"headers": {"content-encoding": "gzip"}}),
        ("/predict", b"{}", {"headers": {"content-length": "1000000"}}),
        ("/predict", [b"x" * 400] * 4),
        ("/predict", [b"x"] * 400, {"pause": 0.02}),
        max_body=1000,
        receive_seconds=0.2,
    )
    assert [item.status for item in (kind, packed, told, chunks, slow)] == [415, 415, 413, 413, 408]
    # What is left of such a body must not be read as the next request.
    assert {item.headers["connection"] for item in (kind, told, chunks, slow)} == {"close"}


class Slow(StandIn):
    """An artifact that computes nothing before `go`."""

    def __call__(self, examples: Sequence[Any], **options: Any) -> Any:
        assert self.manifest["go"].wait(10)
        return super().__call__(examples, **options)


def test_too_much_at_once_is_answered_429_and_what_takes_too_long_503():
    go = threading.Event()
    artifact = Slow(load_task("sentence-embedding"), {"labels": [], "max_length": 16, "go": go})
    settings = ServeSettings(max_queue=4, max_batch=1, answer_seconds=1)
    service = Service(artifact, settings, name="tiny")  # type: ignore[arg-type]

    async def ask_all() -> list[Answer]:
        body = {"inputs": ["a", "b"]}
        found = await asyncio.gather(*(ask(service.app, "/predict", body) for _ in range(4)))
        go.set()
        return [*found, await ask(service.app, "/predict", body)]

    *answers, last = asyncio.run(ask_all())
    service.batcher.close()
    assert sorted(item.status for item in answers) == [429, 429, 503, 503]
    assert next(item for item in answers if item.status == 429).headers["retry-after"] == "1"
    assert last.status == 200


def test_what_fails_in_the_service_is_answered_and_counted():
    class Broken(StandIn):
        def __call__(self, examples: Sequence[Any], **options: Any) -> Any:
            raise RuntimeError("out of memory")

    failed, metrics = asked(
        Broken(load_task("sentence-embedding")),
        ("/predict", {"inputs": "a"}, {"raises": RuntimeError}),
        ("/metrics", b"", GET),
    )
    assert (failed.status, failed.json["error"]["type"]) == (500, "internal_error")
    assert "out of memory" not in failed.error
    text = metrics.content.decode()
    assert 'compressor_requests_total{path="/predict",status="500"} 1.0' in text


def test_a_key_is_asked_for_where_there_is_one(classifier: Artifact):
    body = {"inputs": "a"}
    none, wrong, right, health = asked(
        classifier,
        ("/predict", body),
        ("/predict", body, {"headers": {"authorization": "Bearer wrong"}}),
        ("/predict", body, {"headers": {"authorization": "Bearer sesame"}}),
        ("/health", b"", GET),
        api_key="sesame",
    )
    assert [item.status for item in (none, wrong, right, health)] == [401, 401, 200, 200]


def test_health_info_openapi_and_metrics(classifier: Artifact):
    _, health, info, openapi, missing, slash, method, metrics = asked(
        classifier,
        ("/predict", {"inputs": TEXTS}),
        ("/health", b"", GET),
        ("/info", b"", GET),
        ("/openapi.json", b"", GET),
        ("/v1/embeddings", {"input": "a"}),
        ("/predict/", {"inputs": TEXTS}),
        ("/predict", b"", GET),
        ("/metrics", b"", GET),
    )
    assert health.json == {"status": "ok"}
    assert info.json["task"] == "text-classification"
    assert info.json["labels"] == ["negative", "positive"]
    assert set(openapi.json["paths"]) == {"/predict", "/health", "/info", "/metrics"}
    assert (missing.status, slash.status, method.status) == (404, 404, 405)
    assert "a model for text-classification answers" in missing.error
    assert method.headers["allow"] == "POST"
    text = metrics.content.decode()
    assert 'compressor_requests_total{path="/predict",status="200"} 1.0' in text
    assert 'compressor_requests_total{path="other",status="404"} 2.0' in text
    assert "compressor_batch_examples_sum 3.0" in text
