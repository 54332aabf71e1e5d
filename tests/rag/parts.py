"""A retrieval service with the tests' own way of splitting, ranking and embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.settings import Rag
from services.rag.database import Database
from services.rag.searching import ByWords, Near, Reader
from services.rag.service import Parts, RagService
from services.rag.store import Store
from services.rag.stored import Model, Piece, PieceKey, Vector
from tests.rag.texts import MODEL, pieces, terms, vector


class Counts:
    """Makes the tests' vectors, and remembers what it was asked."""

    def __init__(self, model: Model = MODEL) -> None:
        self.model = model
        self.asked: list[str] = []

    async def embed(self, asked: Sequence[str], deadline: Deadline) -> Sequence[Vector]:
        self.asked += asked
        return [vector(text, self.model) for text in asked]


def fuse(worded: ByWords | None, near: Sequence[Near]) -> list[tuple[PieceKey, float]]:
    """The better of cosine and BM25 over the best BM25."""
    scores = {one.key: max(0.0, min(1.0, one.similarity)) for one in near}
    if worded is not None and worded.pieces:
        best = worded.pieces[0].score
        for one in worded.pieces:
            scores[one.key] = max(scores.get(one.key, 0.0), one.score / best)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def split(text: str, metadata: Mapping[str, str]) -> list[Piece]:
    """Sentences."""
    return pieces(text)


async def rerank(
    query: str, texts: Sequence[str], scores: Sequence[float], weights: Mapping[str, float], deadline: Deadline
) -> list[float]:
    """Shorter is better."""
    return [1 / len(text) for text in texts]


def highlight(text: str, weights: Mapping[str, float]) -> list[str]:
    """The terms that are there, as they come in the text."""
    return sorted((term for term in weights if term in text), key=text.index)


def service(database: Database, *embedders: Counts, own: Rag | None = None) -> RagService:
    """The service; the first embedder is the target."""
    own, made = own or Rag(), embedders or (Counts(),)
    parts = Parts(split, terms, fuse, highlight, rerank)
    by_key = {one.model.key: one for one in made}
    return RagService(Store(database, own), Reader(database, own), parts, by_key, made[0].model, own)
