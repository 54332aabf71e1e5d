"""The write side: documents come, are replaced, and go, whole and in the order in which they were submitted.

Whatever order jobs run in, and however often, the newest submission is what stays: `rag.submissions` has its place in the queue,
and an older one changes nothing. A change is one transaction, so a worker that is killed leaves the old version or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Denied
from qingyu_ai.bus.handler import Submission
from qingyu_ai.events.documents import Note
from qingyu_ai.settings import Rag

from .beside import Beside
from .database import Connection, Database
from .faults import Collided, check_pairs, check_text, refuse
from .rows import Rows, insert
from .stored import Document, Model, Piece, Vector, read_vector

Projects = Sequence[str] | None
"""The only ones of a user's that a caller may use; None: all."""

MOST_NAMES = 2000
"""Of one dictionary."""

LONGEST_ID = 512
"""Characters of an id or a content type. The edge takes fewer."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a document."""

    pieces: int
    """Into how many it was split."""
    superseded: bool = False
    """A newer submission of the same document had been carried out already; this one changed nothing."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What became of a deletion."""

    found: bool
    """Whether there was such a document."""
    superseded: bool = False
    """As in `Stored`."""


STANDING = f"""
    SELECT (SELECT model FROM rag.tenants WHERE user_id = %(user)s), ARRAY(
        SELECT DISTINCT name FROM rag.names
        WHERE user_id = %(user)s AND (%(project)s = '' OR project_id = %(project)s)
            AND (%(projects)s::text[] IS NULL OR project_id = ANY(%(projects)s::text[])) ORDER BY name LIMIT {MOST_NAMES})"""
"""The query for one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a user."""

    serving: str | None = None
    """The key of the model whose vectors are searched; None: the user has no documents yet."""
    names: Sequence[str] = ()
    """The dictionary of the project."""


class Store:
    """See the module.

    Args:
        own: the limits.
        beside: where rows are made.
    """

    def __init__(self, database: Database, own: Rag, beside: Beside | None = None) -> None:
        self._database = database
        self._own = own
        self._beside = beside or Beside()

    def check(self, document: Document, text: str) -> None:
        """Refuse what cannot be stored, before anything is spent on it.

        Raises:
            Invalid: each violation names the field.
        """
        own = self._own
        refuse(
            [
                *check_text("document_id", document.document_id, LONGEST_ID),
                *([] if document.document_id else [("document_id", "is required")]),
                *check_text("project_id", document.project_id, LONGEST_ID),
                *check_text("content_type", document.content_type, LONGEST_ID),
                *check_text("content", text, own.document_characters),
                *check_pairs("metadata", document.metadata, own.metadata_bytes),
            ]
        )

    async def standing(self, user: str, project_id: str, deadline: Deadline, projects: Projects = None) -> Standing:
        """What must be known of a user before a text is taken apart or a query is asked.

        Args:
            project_id: whose dictionary; empty: that of all projects together.
            projects: the only ones that are open.
        """
        facts = {"user": user, "project": project_id, "projects": None if projects is None else list(projects)}
        async with self._database.tenant(user, deadline) as connection:
            row = await (await connection.execute(STANDING, facts)).fetchone()
        return Standing(row[0], tuple(row[1])) if row else Standing()

    async def known(
        self, user: str, model: Model, hashes: Sequence[bytes], deadline: Deadline
    ) -> dict[bytes, list[float]]:
        """Vectors that the user's documents have already, by the hash of their text: a chapter that is saved again after a small
        change has most of its pieces here."""
        query = (
            "SELECT DISTINCT ON (hash) hash, embedding::text FROM rag.vectors "
            "WHERE user_id = %s AND model = %s AND hash = ANY(%s)"
        )
        async with self._database.tenant(user, deadline) as connection:
            rows = await (await connection.execute(query, (user, model.key, list(hashes)))).fetchall()
        return {bytes(found): read_vector(written) for found, written in rows}

    async def put(
        self,
        user: str,
        document: Document,
        pieces: Sequence[Piece],
        vectors: Mapping[Model, Sequence[Vector]],
        target: Model,
        submitted: Submission,
        deadline: Deadline,
        note: Note | None = None,
        projects: Projects = None,
    ) -> Stored:
        """Store a document in place of what has its id.

        Args:
            vectors: for each piece one, of `target` and, while the user's other documents still have those of another model
                (`serving`), of that one too.
            target: the model of this deployment.
            note: what other services are to be told of it; it is kept with the change (`telling.py`). None: nothing.
            projects: the only ones that are open: neither the document nor what it replaces may be of another.

        Raises:
            Invalid: it cannot be stored.
            Denied: it is of a project that is closed. Nothing was changed.
            DatabaseDown, DatabaseFull, Expired, Collided: nothing was changed.
        """
        refuse(
            [
                violation
                for number, piece in enumerate(pieces)
                for violation in check_text(f"content (piece {number})", piece.text)
            ]
        )
        if len(pieces) > self._own.document_pieces:
            refuse([("content", f"has {len(pieces)} pieces; the limit is {self._own.document_pieces}")])
        rows = await self._beside.do(Rows.of, pieces, vectors)
        if projects is not None and document.project_id not in projects:
            raise Denied

        async def once() -> Stored:
            async with self._database.writing(user, deadline) as connection:
                model = await _join(connection, user, target)
                newest = await _newest(connection, user, document.document_id, submitted, deleted=False)
                if not await _is_open(connection, user, document.document_id, projects):
                    raise Denied
                if not newest:
                    return await _as_it_was(connection, user, document.document_id, submitted, len(pieces))
                await _remove(connection, user, document.document_id)
                await insert(connection, user, document, rows)
                if model not in {made.key for made in vectors}:
                    await connection.execute("UPDATE rag.tenants SET pending = true WHERE user_id = %s", (user,))
                await _note(connection, user, note)
            return Stored(len(pieces))

        return await self._database.repeated(once, deadline)

    async def delete(
        self,
        user: str,
        document_id: str,
        submitted: Submission,
        deadline: Deadline,
        note: Note | None = None,
        projects: Projects = None,
    ) -> Removed:
        """Remove a document.

        Args:
            note: as in `put`; nothing is to be told where there was no such document.
            projects: the only ones that are open. A document of another is not there.

        Raises:
            Invalid: the id can be none.
            DatabaseDown, DatabaseFull, Expired, Collided: nothing was changed.
        """
        refuse([] if document_id else [("document_id", "is required")])
        refuse(check_text("document_id", document_id, LONGEST_ID))

        async def once() -> Removed:
            async with self._database.writing(user, deadline) as connection:
                newest = await _newest(connection, user, document_id, submitted, deleted=True)
                if not await _is_open(connection, user, document_id, projects):
                    raise Denied  # which takes the deletion back
                if newest:
                    await _remove(connection, user, document_id)
                order, _, found = await _submission(connection, user, document_id)
                if newest and found:
                    await _note(connection, user, note)
            return Removed(found, superseded=False) if newest or order == submitted else Removed(False, superseded=True)

        try:
            return await self._database.repeated(once, deadline)
        except Denied:
            return Removed(found=False)

    async def forget_tombstones(self, older_seconds: float, deadline: Deadline) -> int:
        """Forget deletions that no older submission can undo any more.

        Args:
            older_seconds: longer than a job may wait in its queue.

        Returns:
            How many.
        """
        query = "SELECT rag.forget_tombstones(now() - make_interval(secs => %s))"
        async with self._database.nobody(deadline) as connection:
            row = await (await connection.execute(query, (older_seconds,))).fetchone()
        return int(row[0]) if row else 0


async def _join(connection: Connection, user: str, target: Model) -> str:
    """See that the user is known, and hold the model whose vectors are searched until this transaction is over."""
    await connection.execute(
        "INSERT INTO rag.tenants (user_id, model, dimension) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (user, target.key, target.dimension),
    )
    query = "SELECT model FROM rag.tenants WHERE user_id = %s FOR SHARE"
    row = await (await connection.execute(query, (user,))).fetchone()
    if row is None:
        raise Collided  # the user was erased at this moment
    return str(row[0])


async def _newest(connection: Connection, user: str, document_id: str, submitted: Submission, *, deleted: bool) -> bool:
    """Take the document's row, and with it the right to change the document, if this submission is the newest."""
    query = """
        INSERT INTO rag.submissions AS s (user_id, document_id, queue, sequence, deleted, found)
        VALUES (%(user)s, %(id)s, %(queue)s, %(sequence)s, %(deleted)s,
            EXISTS (SELECT FROM rag.documents WHERE user_id = %(user)s AND document_id = %(id)s))
        ON CONFLICT (user_id, document_id) DO UPDATE
            SET queue = excluded.queue, sequence = excluded.sequence, deleted = excluded.deleted,
                found = NOT s.deleted, at = now()
            WHERE (s.queue, s.sequence) < (excluded.queue, excluded.sequence)
        RETURNING true"""
    facts = {"user": user, "id": document_id, "queue": submitted.queue, "sequence": submitted.sequence}
    return await (await connection.execute(query, {**facts, "deleted": deleted})).fetchone() is not None


async def _is_open(connection: Connection, user: str, document_id: str, projects: Projects) -> bool:
    """Whether a document, if there is one, is of a project that is open."""
    if projects is None:
        return True
    query = "SELECT project_id = ANY(%s) FROM rag.documents WHERE user_id = %s AND document_id = %s"
    row = await (await connection.execute(query, (list(projects), user, document_id))).fetchone()
    return row is None or bool(row[0])


async def _submission(connection: Connection, user: str, document_id: str) -> tuple[Submission, bool, bool]:
    """The newest submission of a document: its order, whether it deleted, whether it found something."""
    query = "SELECT queue, sequence, deleted, found FROM rag.submissions WHERE user_id = %s AND document_id = %s"
    row = await (await connection.execute(query, (user, document_id))).fetchone()
    return (Submission(row[0], row[1]), row[2], row[3]) if row else (Submission(), True, False)


async def _note(connection: Connection, user: str, note: Note | None) -> None:
    if note is not None:
        query = "INSERT INTO rag.untold (user_id, event, data) VALUES (%s, %s, %s)"
        await connection.execute(query, (user, note.event, note.data))


async def _as_it_was(connection: Connection, user: str, document_id: str, submitted: Submission, pieces: int) -> Stored:
    """The answer of a submission that is not the newest, or that was carried out before."""
    order, _, _ = await _submission(connection, user, document_id)
    return Stored(pieces, superseded=order != submitted)


async def _remove(connection: Connection, user: str, document_id: str) -> None:
    query = "SELECT document FROM rag.documents WHERE user_id = %s AND document_id = %s"
    row = await (await connection.execute(query, (user, document_id))).fetchone()
    if row is None:
        return
    for table in ("postings", "documents"):  # names, pieces and vectors go with the document
        await connection.execute(
            f"DELETE FROM rag.{table} WHERE user_id = %s AND document = %s",
            (user, row[0]),
        )
