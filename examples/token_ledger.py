"""A ledger of tokens by user, kept by another service from the events of this system alone.

    python examples/token_ledger.py --nats nats://127.0.0.1:4222 --database ledger.db
    sqlite3 ledger.db 'SELECT * FROM totals'

It counts each call once, however often it is stopped, killed or told: an event and its entry have the same id, and an event is
acknowledged after its entry is on the disk. A call that failed or was cancelled is counted too, if it says what it has cost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import signal
import sqlite3
import sys
from pathlib import Path

from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events import BEGINNING, Event, Unreachable, subscribe

ENDS = ("completed", "failed", "cancelled", "dead_lettered")

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger (
    source TEXT NOT NULL, id TEXT NOT NULL, -- together they name an event, says CloudEvents
    user TEXT NOT NULL, project TEXT NOT NULL, call TEXT NOT NULL, ended TEXT NOT NULL, at_unix_ms INTEGER NOT NULL,
    model TEXT NOT NULL, prompt INTEGER NOT NULL, completion INTEGER NOT NULL, reasoning INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    PRIMARY KEY (source, id)
);
CREATE TABLE IF NOT EXISTS subscription (name TEXT NOT NULL);
CREATE VIEW IF NOT EXISTS totals AS
    SELECT user, COUNT(*) AS calls, SUM(prompt) AS prompt, SUM(completion) AS completion, SUM(reasoning) AS reasoning,
           SUM(estimated) AS estimated_calls
    FROM ledger GROUP BY user ORDER BY user;
"""


class Ledger:
    """The ledger's file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # what is acknowledged is on the disk
        self._db.executescript(SCHEMA)

    @property
    def subscription(self) -> str:
        """The name under which the broker remembers how far this file has come. A new file has a new one, and begins anew."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            found = self._db.execute("SELECT name FROM subscription").fetchone()
            if found is None:
                found = (f"token-ledger-{secrets.token_hex(6)}",)
                self._db.execute("INSERT INTO subscription VALUES (?)", found)
        return str(found[0])

    def enter(self, event: Event) -> bool:
        """Count what a call has cost.

        Returns:
            Whether that was news.
        """
        data = event.data
        if not isinstance(data, v1.CallCompleted | v1.CallFailed | v1.CallCancelled | v1.CallDeadLettered):
            return False
        call, usage = data.call, data.usage
        if call is None or usage is None:
            return False  # no model was asked, or nobody knows what it said
        tokens = (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
        row = (event.attributes.source, event.id, call.user, call.project, call.id, event.name, data.at_unix_ms)
        entered = self._db.execute(
            f"INSERT OR IGNORE INTO ledger VALUES ({', '.join('?' * 12)})",
            (*row, usage.model, *tokens, usage.estimated),
        )
        return entered.rowcount > 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()


async def keep(servers: str, ledger: Ledger) -> None:
    """Keep the ledger until somebody ends this."""
    async with subscribe(servers, durable=ledger.subscription, since=BEGINNING, event=ENDS) as events:
        print(f"keeping the ledger, {events.lag} events behind", flush=True)
        async for event in events:
            ledger.enter(event)  # a millisecond; a service that does more than this does it in a thread


async def main() -> int:
    """Keep the ledger until a signal."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--nats", default="nats://127.0.0.1:4222", help="addresses, comma separated")
    arguments.add_argument("--database", type=Path, default=Path("ledger.db"))
    options = arguments.parse_args()
    try:
        ledger = Ledger(options.database)
    except sqlite3.Error as e:
        print(f"{options.database} is no ledger: {e}。无法打开账本", file=sys.stderr)
        return 1
    keeping = asyncio.create_task(keep(options.nats, ledger))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, keeping.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
    except Unreachable as e:
        print(e, file=sys.stderr)
        return 1
    except sqlite3.Error as e:  # a full disk: what is not on it is not acknowledged, and comes again
        print(f"{options.database} cannot be written: {e}。无法写入账本", file=sys.stderr)
        return 1
    finally:
        ledger.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
