"""What the upstream computes: completions out of a script's steps, embeddings, rankings, and the echo."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

from tests.upstream.replies import chat
from tests.upstream.script import (
    Counts,
    Finish,
    Reasoning,
    Reply,
    Text,
    ToolCalls,
    Usage,
)
from tests.upstream.wire import CREATED, counted

DIMENSIONS = 64
"""Of an embedding, if the request does not say."""


class BadRequest(Exception):
    """The request cannot be answered; the message says why."""


def echo(body: dict[str, Any]) -> Reply:
    """The last message of the user, said again in deltas of two characters, with the usage if it is asked for."""
    said = [text_of(m.get("content")) for m in body.get("messages", []) if m.get("role") == "user"]
    text = said[-1] if said else ""
    return chat(text, usage=Counts(sum(map(len, said)), len(text)))


def text_of(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def completion(reply: Reply, model: str) -> dict[str, Any]:
    """The plain completion that a stream of the reply's steps adds up to."""
    messages: dict[int, dict[str, Any]] = {}
    finishes: dict[int, str] = {}
    counts = Counts()

    def message(choice: int) -> dict[str, Any]:
        return messages.setdefault(choice, {"role": "assistant", "content": None})

    def say(choice: int, key: str, text: str) -> None:
        said = message(choice)
        said[key] = (said.get(key) or "") + text

    for step in reply.steps:
        match step:
            case Text():
                say(step.choice, "content", step.text)
            case Reasoning():
                say(step.choice, step.key, step.text)
            case ToolCalls():
                calls = message(step.choice).setdefault("tool_calls", [])
                for part in step.parts:
                    _add_part(calls, part.index, part.id, part.name, part.arguments)
            case Finish():
                message(step.choice)
                finishes[step.choice] = step.reason
                if step.text:
                    say(step.choice, "content", step.text)
                counts = step.usage or counts
            case Usage():
                counts = step.counts
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [
            {"index": n, "message": said, "logprobs": None, "finish_reason": finishes.get(n)}
            for n, said in sorted(messages.items())
        ],
        "usage": counted(counts),
    }


def _add_part(calls: list[dict[str, Any]], index: int, call_id: str, name: str, arguments: str) -> None:
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    calls[index]["id"] += call_id
    calls[index]["function"]["name"] += name
    calls[index]["function"]["arguments"] += arguments


def embeddings(body: dict[str, Any], model: str) -> dict[str, Any]:
    """Vectors of length one that depend on the text alone."""
    given = body.get("input")
    if not isinstance(given, str | list) or not given:
        raise BadRequest("input must be a string or a list that is not empty")
    # A list of numbers is one text in tokens.
    texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    dimensions = body.get("dimensions") or DIMENSIONS
    vectors = [vector(text if isinstance(text, str) else json.dumps(text), dimensions) for text in texts]
    as_text = body.get("encoding_format") == "base64"
    tokens = sum(map(len, texts))
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": n, "embedding": _base64(v) if as_text else v}
            for n, v in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """The embedding of a text: tests may compute what they expect."""
    numbers = struct.unpack(f"<{dimensions}h", hashlib.shake_256(text.encode()).digest(2 * dimensions))
    norm = math.sqrt(sum(n * n for n in numbers)) or 1.0
    return [n / norm for n in numbers]


def _base64(numbers: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def relevance(query: str, document: str) -> float:
    """The part of the query's characters that the document has."""
    asked = set(query)
    return len(asked & set(document)) / len(asked) if asked else 0.0


def _ranked(query: Any, documents: Any) -> list[tuple[int, float]]:
    """The documents' indexes with their scores, best first."""
    if not isinstance(query, str) or not isinstance(documents, list):
        raise BadRequest("a query and a list of documents are needed")
    texts = [one if isinstance(one, str) else str(one.get("text", "")) for one in documents]
    scores = [(n, relevance(query, text)) for n, text in enumerate(texts)]
    return sorted(scores, key=lambda scored: (-scored[1], scored[0]))


def rerank(body: dict[str, Any], model: str) -> dict[str, Any]:
    """A ranking in the form of Jina and Cohere."""
    documents = body.get("documents")
    ranked = _ranked(body.get("query"), documents)
    results: list[dict[str, Any]] = [{"index": n, "relevance_score": score} for n, score in ranked]
    if body.get("return_documents") and isinstance(documents, list):
        for result in results:
            given = documents[result["index"]]
            result["document"] = {"text": given} if isinstance(given, str) else given
    top = body.get("top_n")
    return {"model": model, "results": results[:top] if top else results, "usage": {"total_tokens": len(results)}}


def rerank_tei(body: dict[str, Any]) -> list[dict[str, Any]]:
    """A ranking in the form of Text Embeddings Inference."""
    texts = body.get("texts")
    ranked = _ranked(body.get("query"), texts)
    results: list[dict[str, Any]] = [{"index": n, "score": score} for n, score in ranked]
    if body.get("return_text") and isinstance(texts, list):
        for result in results:
            result["text"] = texts[result["index"]]
    return results


def models(names: Sequence[str]) -> dict[str, Any]:
    """The list of models."""
    listed = [{"id": name, "object": "model", "created": CREATED, "owned_by": "upstream"} for name in names]
    return {"object": "list", "data": listed}
