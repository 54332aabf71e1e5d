"""A retrieval service whose vectors are the tests' own, and are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.settings import Rag
from services.rag.database import Database
from services.rag.finding import Finder
from services.rag.searching import Reader
from services.rag.service import RagService
from services.rag.store import Store
from services.rag.stored import Model, Vector
from tests.rag.texts import MODEL, pieces, vector


class Counts:
    """Makes the tests' vectors, and remembers what it was asked."""

    weight = 1.0

    def __init__(self, model: Model = MODEL) -> None:
        self.model = model
        self.asked: list[str] = []

    async def embed(self, asked: Sequence[str], deadline: Deadline) -> Sequence[Vector]:
        self.asked += asked
        return [vector(text, self.model) for text in asked]

    async def background(self, deadline: Deadline) -> float:
        return 0.0


def service(
    database: Database,
    *embedders: Counts,
    own: Rag | None = None,
    on_stored: Callable[[str], None] = lambda user: None,
) -> RagService:
    """The service; the first embedder is the target."""
    own, made = own or Rag(), embedders or (Counts(),)
    by_key = {one.model.key: one for one in made}
    store = Store(database, own)
    finder = Finder(Reader(database, own), by_key, own)
    return RagService(
        store, finder, by_key, made[0].model, own, lambda text, names, own: pieces(text), on_stored=on_stored
    )
