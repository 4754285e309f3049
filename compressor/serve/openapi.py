"""The description of the service for tools that make clients of it (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from compressor import __version__
from compressor.serve.bodies import ErrorAnswer

_TEMPLATE = "#/components/schemas/{model}"
_SUMMARIES = {
    "/predict": "What the model predicts for each input",
    "/v1/embeddings": "Vectors of texts, as OpenAI's service gives them",
    "/rerank": "Texts by how well they answer a query, as text-embeddings-inference gives them",
    "/v1/rerank": "Documents by how well they answer a query, as Cohere's service gives them",
}
_GET = {
    "/health": "Whether requests are taken",
    "/info": "What is served, and the limits of a request",
    "/metrics": "Counters in Prometheus' text format",
}
_ERRORS = {
    "400": "The request cannot be read, or the model cannot read what it holds",
    "401": "The key of this service is missing",
    "408": "The body did not arrive in time",
    "413": "The request holds more than it may",
    "415": "The body is no JSON",
    "429": "Too much waits; try again later",
    "500": "The service failed; its log says how",
    "503": "The service is stopping, or did not answer in time",
}


def openapi_of(about: str, bodies: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return the OpenAPI document of a service that reads `bodies`, by path."""
    models: set[type[BaseModel]] = {*bodies.values(), ErrorAnswer}
    _, schemas = models_json_schema(
        [(model, "validation") for model in sorted(models, key=lambda item: item.__name__)],
        ref_template=_TEMPLATE,
    )
    error = {"application/json": {"schema": {"$ref": _TEMPLATE.format(model="ErrorAnswer")}}}
    errors = {code: {"description": text, "content": error} for code, text in _ERRORS.items()}
    answer = {"200": {"description": "The answer", "content": {"application/json": {"schema": {}}}}}
    paths: dict[str, Any] = {
        path: {
            "post": {
                "summary": _SUMMARIES[path],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": _TEMPLATE.format(model=body.__name__)}
                        }
                    },
                },
                "responses": {**answer, **errors},
            }
        }
        for path, body in bodies.items()
    }
    for path, summary in _GET.items():
        paths[path] = {
            "get": {"summary": summary, "responses": {"200": {"description": "The answer"}}}
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": about, "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }
