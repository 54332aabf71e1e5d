"""The settings of the retrieval worker, its database and its models (docs/rag-store.md, docs/retrieval.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from .models import Endpoint
from .sections import KIB, Port, Seconds, Worker


class Embedding(Endpoint):
    """A server for embeddings, and one model of it."""

    model: Annotated[str, Field(min_length=1)]
    """The server's own name for the model. It is stored with the vectors, so it must be said."""
    dimension: Annotated[int, Field(ge=1, le=16_000)]
    """Numbers of a vector."""
    ask_dimension: bool = False
    """Whether to tell the server how many numbers are wanted: for models that can do several."""
    batch: Annotated[int, Field(ge=1, le=2048)] = 32
    """Texts in one request."""


class Rerank(Endpoint):
    """A server that reranks, and one model of it."""

    style: Literal["jina", "tei"] = "jina"
    """The form of its requests: that which Jina and Cohere share, or that of text-embeddings-inference."""


class Rag(Worker):
    """The retrieval worker and its database (docs/rag-store.md)."""

    processes: Annotated[int, Field(ge=0, le=64)] = 1
    metrics_port: Port = 9864
    dsn: SecretStr = SecretStr("")
    """The database, as the worker's own role: postgresql://qingyu_rag:…@host/db. Empty: `up` starts one on this machine."""
    owner_dsn: SecretStr = SecretStr("")
    """The same database as the role that owns the tables. Only `python -m services.rag.migrate` needs it, never a worker."""
    host: Annotated[str, Field(pattern=r"^(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|::1)$")] = "127.0.0.1"
    """Where the database that `up` starts listens: on this machine only."""
    port: Port = 5433
    connections: Annotated[int, Field(ge=2, le=100)] = 8
    """To the database, of one process."""
    writers: Annotated[int, Field(ge=1)] = 2
    """Of them, those that store documents at once; the others are left to searches."""
    waiting: Annotated[int, Field(ge=1)] = 500
    """Calls that wait for a connection; one more is refused."""
    connect_seconds: Seconds = 5.0
    """Until there is a connection."""
    longest_query_seconds: Seconds = 60.0
    """For one statement; never longer than what the caller has left."""
    document_characters: Annotated[int, Field(ge=1)] = 1_000_000
    """Of one document."""
    document_pieces: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """Of one document."""
    metadata_bytes: Annotated[int, Field(ge=1)] = 64 * KIB
    """Of one document's metadata, keys and values."""
    piece_characters: Annotated[int, Field(ge=50, le=8000)] = 400
    """How long the pieces of a document are to be."""
    overlap_characters: Annotated[int, Field(ge=0)] = 80
    """What a piece repeats of the one before."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """Results of a search that does not say how many it wants."""
    candidates: Annotated[int, Field(ge=1, le=1000)] = 100
    """Pieces that are ranked, by words and by meaning each; `total_count` counts at most these."""
    candidate_postings: Annotated[int, Field(ge=100)] = 4000
    """Occurrences of a query's rarest words that are looked at; what has only the commoner ones is not looked for."""
    lexical_dimension: Annotated[int, Field(ge=16, le=4096)] = 1024
    """Of the vectors that are always there, which know spelling and not meaning."""
    embedding: Embedding | None = None
    """The model that makes vectors; None: those are lexical. If it is another one than before, documents get new vectors in the
    background."""
    former_embedding: Embedding | None = None
    """The model before, so that searches find by it until the new vectors are there. Not needed if those were lexical."""
    rerank: Rerank | None = None
    """The model that reranks; None: a local look at how near to each other the query's words are."""

    @model_validator(mode="after")
    def _pieces_go_on(self) -> Rag:
        if self.overlap_characters * 2 > self.piece_characters:
            raise ValueError("overlap_characters must be at most half of piece_characters")
        return self
