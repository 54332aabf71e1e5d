"""The span of one request to a model server."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from qingyu_ai import tracing
from qingyu_ai.tracing import Kind, Off, Span, names

from .model import Usage

PORTS = {"http": 80, "https": 443}


def asking(operation: Literal["chat", "embeddings", "rerank"], model: str, base_url: str) -> Span | Off:
    """Begin the span of a request.

    Args:
        model: the server's name for it.
    """
    if not tracing.is_on():
        return tracing.OFF
    address = urlsplit(base_url)
    facts: dict[str, tracing.Value] = {
        names.GEN_AI_OPERATION: operation,
        names.GEN_AI_PROVIDER: "openai",
        names.REQUEST_MODEL: model,
        names.SERVER_ADDRESS: address.hostname or "",
        names.SERVER_PORT: address.port or PORTS[address.scheme],
    }
    return tracing.span(f"{operation} {model}", Kind.CLIENT, facts)


def answered(span: Span | Off, label: str, usage: Usage, finish: str) -> None:
    """Say what the answer was like, and nothing of what it said."""
    if not span:
        return
    span.set(names.RESPONSE_MODEL, label)
    span.set(names.INPUT_TOKENS, usage.prompt_tokens)
    span.set(names.OUTPUT_TOKENS, usage.completion_tokens)
    span.set(names.ESTIMATED, usage.estimated)
    if finish:
        span.set(names.FINISH_REASONS, (finish,))
