"""When the model for vectors changes: make vectors anew, in the background, from the texts that are stored.

Searching goes on with the old vectors until a user's pieces all have a new one; then, in one transaction, that user is switched
over and the old ones go. New documents meanwhile get vectors of both, where the old model can still be asked.

In a roll-out workers with old and with new settings run side by side. Then only those whose model was named last do it
(`rag.want`, migration 0003).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault

from .database import Connection, Database
from .embedding import Vectors
from .store import Store
from .stored import Model, Vector, unit

log = structlog.get_logger(__name__)

BATCH = 64
"""Pieces that are embedded together."""

LEASE_SECONDS = 120.0
"""How long one worker has a user to itself for a batch; after that it is given up for lost."""

WANTED_SECONDS = 2 * LEASE_SECONDS
"""For how long a model counts as named by the settings after a worker with it was heard of for the last time."""

EVERY_SECONDS = 10.0
"""Between two looks for something to do."""

USERS = 16
"""That are looked at in a row before looking anew."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A piece without a vector."""

    document: int
    piece: int
    hash: bytes
    text: str


class Reembedding:
    """See the module.

    Args:
        store: for vectors that are there already.
        embedder: of the model that everything is to have.
    """

    def __init__(self, database: Database, store: Store, embedder: Vectors) -> None:
        self._database = database
        self._store = store
        self._embedder = embedder

    async def run(self) -> None:
        """Keep at it until cancelled."""
        while True:
            try:
                done = await self.round()
            except Fault as e:
                log.warning("reembedding_waits", reason=e.reason)
                done = 0
            if not done:
                await asyncio.sleep(EVERY_SECONDS)

    async def round(self) -> int:
        """Do what there is to do for some users.

        Returns:
            How many users were switched over.
        """
        model = self._embedder.model
        query = "SELECT rag.tenants_to_embed(%s, %s)"
        async with self._database.nobody(Deadline.after(LEASE_SECONDS)) as connection:
            await connection.execute("SELECT rag.want(%s, %s)", (model.key, WANTED_SECONDS))
            rows = await (await connection.execute(query, (model.key, USERS))).fetchall()
        done = 0
        for (user,) in rows:
            done += await self.tenant(user)
        return done

    async def tenant(self, user: str) -> bool:
        """Make the vectors of one user that are missing.

        Returns:
            Whether the user was switched over; False: another worker is at it.
        """
        model = self._embedder.model
        leased: datetime | None = None
        while True:
            deadline = Deadline.after(LEASE_SECONDS)
            async with self._database.tenant(user, deadline) as connection:
                await connection.execute("SELECT rag.want(%s, %s)", (model.key, WANTED_SECONDS))
                leased = await _lease(connection, user, model, leased)
                if leased is None:
                    return False
                missing = await _missing(connection, user, model)
            if missing:
                await self._make(user, missing, deadline)
                continue
            async with self._database.tenant(user, deadline) as connection:
                if await _switch(connection, user, model):
                    log.info("reembedded", model=model.key)
                    return True

    async def _make(self, user: str, missing: Sequence[Missing], deadline: Deadline) -> None:
        model = self._embedder.model
        known = await self._store.known(user, model, [one.hash for one in missing], deadline)
        new = {one.hash: one.text for one in missing if one.hash not in known}
        vectors: dict[bytes, Vector] = dict(known)
        if new:
            made = await self._embedder.embed(list(new.values()), deadline)
            vectors |= dict(zip(new, made, strict=True))
        query = """
            WITH new AS (SELECT * FROM unnest(%(documents)s::bigint[], %(pieces)s::int[], %(vectors)s::text[])
                AS n (document, piece, embedding)),
            there AS (SELECT p.document, p.piece, p.hash FROM rag.pieces p JOIN new USING (document, piece)
                WHERE p.user_id = %(user)s FOR KEY SHARE OF p)
            INSERT INTO rag.vectors (user_id, model, document, piece, hash, embedding)
            SELECT %(user)s, %(model)s, document, piece, hash, embedding::vector FROM there JOIN new USING (document, piece)
            ON CONFLICT DO NOTHING"""
        facts = {
            "user": user,
            "model": model.key,
            "documents": [one.document for one in missing],
            "pieces": [one.piece for one in missing],
            "vectors": [unit(vectors[one.hash], model.dimension) for one in missing],
        }
        async with self._database.writing(user, deadline) as connection:
            await connection.execute(query, facts)


async def _lease(connection: Connection, user: str, model: Model, mine: datetime | None) -> datetime | None:
    """Have the user for a while, if there is something to do and nobody else has.

    Args:
        mine: until when this worker has it already.

    Returns:
        Until when it has it now; None: it does not.
    """
    query = """
        UPDATE rag.tenants SET embedding_until = clock_timestamp() + make_interval(secs => %(lease)s)
        WHERE user_id = %(user)s AND (model <> %(model)s OR pending)
            AND (embedding_until IS NULL OR embedding_until < now() OR embedding_until = %(mine)s)
        RETURNING embedding_until"""
    facts = {"lease": LEASE_SECONDS, "user": user, "model": model.key, "mine": mine}
    row = await (await connection.execute(query, facts)).fetchone()
    return row[0] if row else None


async def _missing(connection: Connection, user: str, model: Model) -> list[Missing]:
    query = """
        SELECT p.document, p.piece, p.hash, p.content FROM rag.pieces p
        WHERE p.user_id = %(user)s AND NOT EXISTS (SELECT FROM rag.vectors v WHERE v.user_id = %(user)s
            AND v.model = %(model)s AND v.document = p.document AND v.piece = p.piece)
        ORDER BY p.document, p.piece LIMIT %(batch)s"""
    rows = await (await connection.execute(query, {"user": user, "model": model.key, "batch": BATCH})).fetchall()
    return [Missing(document, piece, bytes(hash_), text) for document, piece, hash_, text in rows]


async def _switch(connection: Connection, user: str, model: Model) -> bool:
    """Have searches use the new vectors, if still none is missing now that no writer is under way."""
    await connection.execute("SELECT FROM rag.tenants WHERE user_id = %s FOR UPDATE", (user,))
    if await _missing(connection, user, model):
        return False
    await connection.execute(
        "UPDATE rag.tenants SET model = %s, dimension = %s, pending = false, embedding_until = NULL WHERE user_id = %s",
        (model.key, model.dimension, user),
    )
    await connection.execute("DELETE FROM rag.vectors WHERE user_id = %s AND model <> %s", (user, model.key))
    return True
