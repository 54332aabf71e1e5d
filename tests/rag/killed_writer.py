"""Stores one version of a document after the other until it is killed, and says which ones it was told are stored.

python -m tests.rag.killed_writer DSN FIRST
"""

from __future__ import annotations

import asyncio
import sys

from qingyu_ai.bus.handler import Call
from qingyu_ai.events import documents
from qingyu_ai.events.documents import Note
from qingyu_ai.settings import Rag
from services.rag.database import Database
from services.rag.store import Store
from tests.rag.texts import at, put, soon

SENTENCES = 80


def version(n: int) -> str:
    """A text of which each sentence says its version."""
    return "".join(f"第{n}版第{i}句。" for i in range(SENTENCES))


def note(n: int) -> Note:
    """The event of a version."""
    call = Call("c", "r", "u", "", (), soon(), "", submitted=at(n))
    return documents.indexed(call, "d", "", SENTENCES)


async def main(dsn: str, first: int) -> None:
    """Write for ever."""
    own = Rag()
    database = Database(dsn, own)
    await database.open()
    store, n = Store(database, own), first
    while True:
        await put(store, "u", "d", version(n), at(n), note=note(n))
        sys.stdout.write(f"{n}\n")
        sys.stdout.flush()
        n += 1


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
