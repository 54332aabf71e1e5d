"""From the settings to a service on an open database. Everything is wired here, once for each process."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from qingyu_ai.settings import Embedding, Endpoint, Rag
from services.llm.curl import Curls
from services.llm.meters import Meters
from services.llm.server import Server
from services.llm.vectors import Embedder, Reranker

from .beside import Beside
from .database import Database
from .embedding import LexicalVectors, ModelVectors, Vectors
from .finding import Finder
from .reembedding import Reembedding
from .searching import Reader
from .service import RagService
from .store import Store
from .telling import Teller


class Models:
    """The models of retrieval, and their connections.

    Args:
        own: which ones.

    Raises:
        SettingsError: a key cannot be read.
    """

    def __init__(self, own: Rag, meters: Meters) -> None:
        self._curls: Curls | None = None
        self._meters = meters
        self.beside = Beside()
        """The one thread for what takes long."""
        lexical = LexicalVectors(own.lexical_dimension, self.beside)
        former = self._embedder("former_embedding", own.former_embedding) if own.former_embedding else None
        self.target: Vectors = self._embedder("embedding", own.embedding) if own.embedding else lexical
        self.by_key: dict[str, Vectors] = {one.model.key: one for one in (lexical, former, self.target) if one}
        """All that users' vectors may be of."""
        self.reranker: Reranker | None = None
        if own.rerank is not None:
            self.reranker = Reranker(self._server("rerank", own.rerank), meters, own.rerank.style)

    def _embedder(self, alias: str, settings: Embedding) -> ModelVectors:
        dimensions = settings.dimension if settings.ask_dimension else 0
        server = self._server(alias, settings)
        return ModelVectors(Embedder(server, self._meters, batch=settings.batch, dimensions=dimensions), settings)

    def _server(self, alias: str, settings: Endpoint) -> Server:
        if self._curls is None:
            self._curls = Curls()
        return Server(alias, settings, self._curls)

    def close(self) -> None:
        """Close all connections."""
        if self._curls is not None:
            with suppress(RuntimeError):
                self._curls.close()


@dataclass(frozen=True, slots=True)
class Wired:
    """A service and what lives beside it."""

    service: RagService
    store: Store
    reembedding: Reembedding
    teller: Teller


def wire(database: Database, models: Models, own: Rag) -> Wired:
    """Make the service."""
    store = Store(database, own, models.beside)
    finder = Finder(Reader(database, own), models.by_key, own, models.reranker)
    teller = Teller(database)
    service = RagService(
        store, finder, models.by_key, models.target.model, own, beside=models.beside, on_stored=teller.stored
    )
    return Wired(service, store, Reembedding(database, store, models.target), teller)
