"""`python -m services.rag.erasure --user U --yes`: remove everything of one user, and show that nothing is left.

Documents, vectors and words in the database; sessions, records, logs, waiting jobs, dead letters and events on the bus. It looks,
erases, and looks again. A user who goes on writing meanwhile leaves new traces: it says so, and ends with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence

from qingyu_ai.bus import erasing
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.doors.login import Login
from qingyu_ai.settings import Settings, SettingsError, load

from .database import Connection, Database, addresses

TABLES = ("vectors", "postings", "pieces", "names", "documents", "submissions", "untold", "tenants")
"""In the order in which they are emptied."""

SECONDS = 600.0
"""For the database's part: a user may have a great many words."""

ROUNDS = 3
"""How often what is found after the erasure is erased, too, before it is told that somebody is at work."""

Counts = Mapping[str, int]


async def stored(database: Database, user: str) -> dict[str, int]:
    """Count what the database has of a user."""
    async with database.tenant(user, Deadline.after(SECONDS), snapshot=True) as connection:
        return {
            table: await _number(connection, f"SELECT count(*) FROM rag.{table} WHERE user_id = %s", user)
            for table in TABLES
        }


async def remove(database: Database, user: str) -> None:
    """Remove it all, in one transaction."""
    async with database.tenant(user, Deadline.after(SECONDS)) as connection:
        # First what every writer holds on to: whoever is under way is waited for, and whoever comes later waits for us. There
        # must be something to hold: of a user who is only coming, the row is made, and goes with the rest.
        await connection.execute(
            "INSERT INTO rag.tenants (user_id, model, dimension) VALUES (%s, 'erased/1', 1) ON CONFLICT DO NOTHING",
            (user,),
        )
        await connection.execute("SELECT FROM rag.tenants WHERE user_id = %s FOR UPDATE", (user,))
        for table in TABLES:
            await connection.execute(f"DELETE FROM rag.{table} WHERE user_id = %s".encode(), (user,))


async def _number(connection: Connection, query: str, user: str) -> int:
    row = await (await connection.execute(query.encode(), (user,))).fetchone()
    return int(row[0]) if row else 0


async def erase_user(database: Database, bus: NatsBus, user: str) -> tuple[dict[str, int], dict[str, int]]:
    """Remove everything of a user.

    Returns:
        What there was, and what there is now; all zeros, unless somebody is at work for that user.
    """
    traces = await erasing.find(bus, user)
    before = {**await stored(database, user), **traces.counts}
    after = before
    for _ in range(ROUNDS):
        await erasing.erase(bus, traces)
        await remove(database, user)
        traces = await erasing.find(bus, user)
        after = {**await stored(database, user), **traces.counts}
        if not any(after.values()):
            break
    return before, after


async def look(database: Database, bus: NatsBus, user: str) -> dict[str, int]:
    """Count everything of a user."""
    return {**await stored(database, user), **(await erasing.find(bus, user)).counts}


def table(before: Counts, after: Counts | None) -> str:
    """The counts, for a person."""
    lines = [f"{'':12}{'before':>10}{'' if after is None else 'after':>10}"]
    lines += [f"{name:12}{n:>10}{'' if after is None else after[name]:>10}" for name, n in before.items()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


async def main(settings: Settings, user: str, *, really: bool) -> int:
    """Do it, and show it.

    Returns:
        0: nothing is left, or it was only looked; 1: something is.
    """
    dsn, _ = addresses(settings)
    database = Database(dsn, settings.rag.model_copy(update={"longest_query_seconds": SECONDS}))
    await database.open()
    bus = await NatsBus.open(
        settings.nats.servers, "operator", on_closed=lambda: None, login=Login.of("operator", settings.nats)
    )
    try:
        if not really:
            sys.stdout.write(table(await look(database, bus, user), None))
            sys.stdout.write("nothing was erased: say --yes to erase it\n没有删除任何内容；加上 --yes 才会删除\n")
            return 0
        before, after = await erase_user(database, bus, user)
    finally:
        await bus.close()
        await database.close()
    sys.stdout.write(table(before, after))
    if any(after.values()):
        sys.stdout.write(
            "something is there again: somebody works for this user now; end that, and run this again\n"
            "又出现了新的内容：仍有请求在为该用户工作；请先停止，再重新执行\n"
        )
        return 1
    sys.stdout.write("nothing of this user is left\n该用户的内容已全部删除\n")
    return 0


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m services.rag.erasure", description="Remove everything of one user."
    )
    parser.add_argument("--user", required=True, help="the user's id, exactly")
    parser.add_argument("--yes", action="store_true", help="erase; without it, only count")
    return parser.parse_args(given)


if __name__ == "__main__":
    asked = arguments(sys.argv[1:])
    try:
        sys.exit(asyncio.run(main(load(), asked.user, really=asked.yes)))
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)
    except Fault as problem:
        sys.stderr.write(f"{problem.message}\n{problem.chinese}\n")
        sys.exit(1)
    except TransportError as problem:
        sys.stderr.write(f"NATS: {problem}\n")
        sys.exit(1)
