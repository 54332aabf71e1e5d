"""Embeddings and reranking at OpenAI-compatible servers, on the same connections, retries and errors as chats.

Embeddings: OpenAI API reference, "Create embeddings". Rerank: the form that Jina and Cohere share (`/rerank` with `documents`,
answered by `results`), and that of Hugging Face's text-embeddings-inference (`texts`, answered by a list).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec

from qingyu_ai.bus.deadline import Deadline

from . import spans
from .faults import Upstream
from .meters import Meters
from .model import NEVER
from .refusal import UNREADABLE
from .retry import asked_again
from .server import Budget, Server

RerankStyle = Literal["jina", "tei"]

OPERATIONS: dict[str, Literal["embeddings", "rerank"]] = {"/embeddings": "embeddings", "/rerank": "rerank"}
"""What a path is for, as spans have it."""

T = TypeVar("T")


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Vector]


class _Scored(msgspec.Struct):
    index: int
    relevance_score: float | None = None
    score: float | None = None


class _Ranking(msgspec.Struct):
    results: list[_Scored]


class _Asker:
    def __init__(self, server: Server, meters: Meters) -> None:
        self._server = server
        self._meters = meters

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server!r}>"

    async def _ask(self, path: str, body: dict[str, Any], answer: type[T], deadline: Deadline) -> T:
        async def once() -> T:
            budget = Budget.start(self._server.settings, deadline)
            model = await self._server.model_name(budget)
            encoded = msgspec.json.encode({"model": model, **body})
            with spans.asking(OPERATIONS[path], model, self._server.settings.base_url) as span:
                async with self._server.asked(path, encoded, budget, span.traceparent) as transfer:
                    data = await self._server.whole(transfer, budget)
                try:
                    found = msgspec.json.decode(data, type=answer)
                except UNREADABLE as e:
                    raise self._server.fault(Upstream.ANSWER_BROKEN, str(e)) from None
            self._server.breaker.finished()
            return found

        return await asked_again(self._server, once, deadline, self._meters)

    def _broken(self, what: str) -> Exception:
        return self._server.fault(Upstream.ANSWER_BROKEN, what)


class Embedder(_Asker):
    """Texts to vectors.

    Args:
        server: who is asked.
        meters: counts.
        batch: texts in one request.
        dimensions: of the vectors, for models that can do several; 0: the model's own.
    """

    def __init__(self, server: Server, meters: Meters, *, batch: int = 32, dimensions: int = 0) -> None:
        super().__init__(server, meters)
        self._batch = batch
        self._dimensions = dimensions

    async def embed(self, texts: Sequence[str], deadline: Deadline = NEVER) -> list[list[float]]:
        """Embed texts, in their order.

        Returns:
            float[len(texts), dimensions].

        Raises:
            UpstreamFault: the server cannot, also after retries.
            Expired: the deadline passed.
        """
        vectors: list[list[float]] = []
        for start in range(0, len(texts), self._batch):
            batch = list(texts[start : start + self._batch])
            body: dict[str, Any] = {"input": batch, "encoding_format": "float"}
            if self._dimensions:
                body["dimensions"] = self._dimensions
            found = (await self._ask("/embeddings", body, _Embeddings, deadline)).data
            by_index = {vector.index: vector.embedding for vector in found}
            if set(by_index) != set(range(len(batch))):
                raise self._broken(f"{len(found)} vectors for {len(batch)} texts")
            vectors += [by_index[i] for i in range(len(batch))]
        if len({len(vector) for vector in vectors}) > 1:
            raise self._broken("vectors of several lengths")
        return vectors


class Reranker(_Asker):
    """A query and texts to scores.

    Args:
        server: who is asked.
        meters: counts.
        style: which form its requests have.
    """

    def __init__(self, server: Server, meters: Meters, style: RerankStyle = "jina") -> None:
        super().__init__(server, meters)
        self._style = style

    async def scores(self, query: str, texts: Sequence[str], deadline: Deadline = NEVER) -> list[float]:
        """Score each text against the query, higher is nearer; what the numbers mean is the model's own.

        Returns:
            float[len(texts)].

        Raises:
            UpstreamFault: the server cannot, also after retries.
            Expired: the deadline passed.
        """
        if not texts:
            return []
        if self._style == "tei":
            scored = await self._ask("/rerank", {"query": query, "texts": list(texts)}, list[_Scored], deadline)
        else:
            body = {"query": query, "documents": list(texts), "top_n": len(texts), "return_documents": False}
            scored = (await self._ask("/rerank", body, _Ranking, deadline)).results
        scores = {one.index: one.relevance_score if one.relevance_score is not None else one.score for one in scored}
        ordered = [scores.get(i) for i in range(len(texts))]
        if any(score is None for score in ordered):
            raise self._broken(f"{len(scored)} scores for {len(texts)} texts")
        return [score for score in ordered if score is not None]
