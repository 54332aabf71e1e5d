"""Tells other services what was stored and removed (`rag.untold`): at once what this worker did, later what a lost one left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from google.protobuf.message import DecodeError

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.events.documents import Note

from .database import Database

log = structlog.get_logger(__name__)

Publish = Callable[[Note], Awaitable[None]]
"""Returns when the stream has it. Raises TransportError."""

EVERY_SECONDS = 10.0
"""Between two looks for what others left."""

LEFT_SECONDS = 5.0
"""After which what was not told is taken for left by a worker that is lost."""

PAUSE_SECONDS = 1.0
"""After something went wrong."""

SECONDS = 10.0
"""For one statement."""

USERS = 256
"""Of whom is told what others left, before looking anew."""

EVENTS = 256
"""That are in memory at once."""


class Teller:
    """See the module. Two workers may tell the same at once; it has one id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._users: set[str] = set()
        """For whom this worker has stored something since it looked."""
        self._wake = asyncio.Event()
        self._looked = -EVERY_SECONDS

    def __repr__(self) -> str:
        return f"<Teller of {len(self._users)} users>"

    def stored(self, user: str) -> None:
        """Something of a user was stored or removed."""
        self._users.add(user)
        self._wake.set()

    async def run(self, publish: Publish) -> None:
        """Keep at it until cancelled."""
        while True:
            try:
                await self.round(publish)
            except (Fault, TransportError) as e:
                # It stays in the database, and is found as what is left.
                log.warning("documents_not_told", error=e.reason if isinstance(e, Fault) else str(e))
                await asyncio.sleep(PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_SECONDS):  # `wait_for` may swallow a cancellation
                    await self._wake.wait()

    async def round(self, publish: Publish) -> None:
        """Tell what there is to tell, the oldest of each user first.

        Raises:
            Fault: the database did not do its part.
            TransportError: the stream of events takes nothing.
        """
        self._wake.clear()
        users, self._users = self._users, set()
        if time.monotonic() - self._looked >= EVERY_SECONDS:
            users |= await self._left()
            self._looked = time.monotonic()
        for user in users:
            while await self._some(user, publish) == EVENTS:
                pass

    async def _left(self) -> set[str]:
        query = "SELECT rag.tenants_to_tell(now() - make_interval(secs => %s), %s)"
        async with self._database.nobody(Deadline.after(SECONDS)) as connection:
            rows = await (await connection.execute(query, (LEFT_SECONDS, USERS))).fetchall()
        return {user for (user,) in rows}

    async def _some(self, user: str, publish: Publish) -> int:
        """Tell some of one user. No transaction is open meanwhile: the stream may be slow."""
        query = "SELECT number, event, data FROM rag.untold WHERE user_id = %s ORDER BY number LIMIT %s"
        async with self._database.tenant(user, Deadline.after(SECONDS)) as connection:
            rows = await (await connection.execute(query, (user, EVENTS))).fetchall()
        if not rows:
            return 0
        results = await asyncio.gather(*(_tell(Note(event, bytes(data)), publish) for _, event, data in rows))
        done = [number for (number, _, _), error in zip(rows, results, strict=True) if error is None]
        async with self._database.tenant(user, Deadline.after(SECONDS)) as connection:
            await connection.execute("DELETE FROM rag.untold WHERE user_id = %s AND number = ANY(%s)", (user, done))
        for error in results:
            if error is not None:
                raise error
        return len(rows)


async def _tell(note: Note, publish: Publish) -> TransportError | None:
    try:
        await publish(note)
    except TransportError as e:
        return e
    except (KeyError, DecodeError):
        log.error("note_unreadable", event_kind=note.event)  # it would be so the next time, and hold up the others
    return None
