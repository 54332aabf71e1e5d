"""Documents for the tests: sentences as pieces, neighbouring characters as terms, and vectors that count characters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.handler import Submission
from qingyu_ai.events.documents import Note
from services.rag.searching import Reader, Scope, Shown
from services.rag.store import Store, Stored
from services.rag.stored import Document, Model, Piece

MODEL = Model("counts", 32)
OTHER = Model("counts-anew", 48)


def soon() -> Deadline:
    """A deadline that no test reaches."""
    return Deadline.after(30)


def at(sequence: int, queue: int = 1) -> Submission:
    """A place in the queue."""
    return Submission(queue, sequence)


def terms(text: str) -> list[str]:
    """Pairs of neighbouring characters."""
    return [run[i : i + 2] for run in re.findall(r"\w+", text) for i in range(max(1, len(run) - 1))]


def pieces(text: str) -> list[Piece]:
    """Sentences."""
    found: list[Piece] = []
    for match in re.finditer(r"[^。！？]+[。！？]?", text):
        found.append(Piece(len(found), match.start(), match.end(), match[0], terms(match[0])))
    return found


def vector(text: str, model: Model = MODEL) -> list[float]:
    """How often the characters are there, by a hash of each."""
    counts = [0.0] * model.dimension
    for character in text:
        digest = hashlib.blake2b((model.name + character).encode(), digest_size=4).digest()
        counts[int.from_bytes(digest) % model.dimension] += 1
    return counts


async def put(
    store: Store,
    user: str,
    document_id: str,
    text: str,
    order: Submission,
    *,
    project: str = "",
    kind: str = "",
    metadata: dict[str, str] | None = None,
    models: Sequence[Model] = (MODEL,),
    target: Model = MODEL,
    names: Sequence[str] = (),
    note: Note | None = None,
) -> Stored:
    """Store a document."""
    document = Document(document_id, project, kind, metadata or {}, names)
    split = pieces(text)
    vectors = {model: [vector(piece.text, model) for piece in split] for model in models}
    return await store.put(user, document, split, vectors, target, order, soon(), note)


async def found(reader: Reader, user: str, query: str, scope: Scope | None = None, model: Model = MODEL) -> list[Shown]:
    """All that a user can get at with a query: by its words, and then by its vector whatever is not there yet."""
    async with reader.view(user, scope or Scope(), soon()) as view:
        worded = await view.by_words(terms(query), 1000)
        near = await view.by_vector(model, vector(query, model), 1000)
        keys = [one.key for one in worded.pieces]
        return await view.show(list(dict.fromkeys([*keys, *(one.key for one in near)])))


async def texts(reader: Reader, user: str, model: Model = MODEL) -> list[str]:
    """Everything of a user that has vectors, in order of documents."""
    shown = await found(reader, user, "天", model=model)
    return [one.text for one in sorted(shown, key=lambda one: (one.document_id, one.start))]
