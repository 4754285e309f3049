"""What requests hold and what is answered, in the shapes that clients already speak.

`PredictRequest` is that of Hugging Face's inference endpoints, `EmbeddingsRequest` that of
OpenAI's `/v1/embeddings`, `RerankRequest` that of text-embeddings-inference's `/rerank` and, with
`documents` and `top_n`, that of Cohere's and Jina's `/v1/rerank`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    # Clients send keys that mean nothing here, such as `model` and `user`.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class PredictRequest(_Body):
    """What `/predict` reads."""

    inputs: Annotated[
        Any,
        Field(
            description="A text, or a list of texts; pairs as [first, second], questions as "
            '{"question": ..., "context": ...}, images and sounds as files in base64.'
        ),
    ]
    prompt_name: Annotated[
        str | None, Field(description="Which prompt of a sentence encoder stands before each text.")
    ] = None
    aggregation: Annotated[
        str | None,
        Field(description="How tokens become spans: none, simple, first, average or max."),
    ] = None


class EmbeddingsRequest(_Body):
    """What `/v1/embeddings` reads."""

    input: Annotated[str | list[str], Field(description="A text, or a list of texts.")]
    encoding_format: Annotated[
        Literal["float", "base64"],
        Field(description="Numbers, or the bytes of the vector in base64: float32, little-endian."),
    ] = "float"
    dimensions: Annotated[
        int | None, Field(description="Numbers of a vector: those that the model gives, or null.")
    ] = None
    prompt_name: Annotated[
        str | None, Field(description="Which prompt stands before each text, such as query.")
    ] = None


class RerankRequest(_Body):
    """What `/rerank` and `/v1/rerank` read."""

    query: Annotated[str, Field(description="What is looked for.")]
    texts: Annotated[list[str] | None, Field(description="The candidates, of /rerank.")] = None
    documents: Annotated[
        list[str | dict[str, Any]] | None,
        Field(description='The candidates, of /v1/rerank: texts, or {"text": ...}.'),
    ] = None
    top_n: Annotated[int | None, Field(ge=1, description="How many come back; null: all.")] = None
    return_text: Annotated[bool, Field(description="Answer with the texts, of /rerank.")] = False
    return_documents: Annotated[
        bool, Field(description="Answer with the texts, of /v1/rerank.")
    ] = False


class ErrorDetail(_Body):
    """What went wrong and what to do."""

    message: str
    type: str


class ErrorAnswer(_Body):
    """The body of every answer that is not 200."""

    error: ErrorDetail
