"""The example ledger, with real workers and under kills."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bench import ledger as run
from qingyu_ai.bus.transport import Bus
from qingyu_ai.contract.messages.qingyu.ai.events import v1
from qingyu_ai.events import Event, subscribe
from qingyu_ai.events.cloudevents import Attributes
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.events.test_node import decided
from tests.nats_cluster import AnyNats
from tests.optional import ROOT

Open = Callable[[Path], Any]


@pytest.fixture
def open_ledger(monkeypatch: pytest.MonkeyPatch) -> Open:
    """The example's own class."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    opened: Open = importlib.import_module("token_ledger").Ledger
    return opened


def completed(id: str, user: str = "u1", usage: v1.Usage | None = None) -> Event:
    usage = usage or v1.Usage(model="m", prompt_tokens=10, completion_tokens=5)
    data = v1.CallCompleted(call=v1.Call(id="c", user=user), usage=usage)
    return Event(Attributes(id=id, source="/qingyu-ai/chat", type="t"), data, "ai.events.v1.chat.completed.none", 1, 1)


def totals(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT user, calls, prompt, completion FROM totals").fetchall()


def test_event_that_comes_again_is_counted_once(tmp_path: Path, open_ledger: Open) -> None:
    ledger = open_ledger(tmp_path / "l.db")
    assert ledger.enter(completed("1"))
    assert not ledger.enter(completed("1"))
    assert ledger.enter(completed("2", "u2"))
    ledger.close()
    again = open_ledger(tmp_path / "l.db")
    assert not again.enter(completed("1"))
    again.close()
    assert totals(tmp_path / "l.db") == [("u1", 1, 10, 5), ("u2", 1, 10, 5)]


def test_what_says_no_cost_is_no_entry(tmp_path: Path, open_ledger: Open) -> None:
    ledger = open_ledger(tmp_path / "l.db")
    event = completed("1")
    assert not ledger.enter(event._replace(data=b"of a later release"))
    assert not ledger.enter(event._replace(data=v1.CallCancelled(call=v1.Call(id="c"))))
    assert not ledger.enter(event._replace(data=v1.WorkerUp()))
    ledger.close()


def test_new_file_begins_anew_and_an_old_one_goes_on(tmp_path: Path, open_ledger: Open) -> None:
    names = []
    for file in ("a.db", "a.db", "b.db"):
        ledger = open_ledger(tmp_path / file)
        names.append(ledger.subscription)
        ledger.close()
    assert names[0] == names[1] != names[2]


async def test_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be read as one " * 20)
    for file in ("text.db", "nowhere/l.db"):
        status, said = await run_example("nats://127.0.0.1:1", tmp_path / file)
        assert status == 1
        assert said.startswith(f"{tmp_path / file} is no ledger: ")
        assert "Traceback" not in said


async def test_entry_that_cannot_be_written_is_not_acknowledged(
    connect: Callable[[], Awaitable[Bus]],
    settings: BusSettings,
    nats_process: AnyNats,
    tmp_path: Path,
    open_ledger: Open,
) -> None:
    ledger = open_ledger(tmp_path / "l.db")
    name = ledger.subscription
    ledger._db.execute("CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    ledger.close()
    bus = await connect()
    await Publisher(bus, settings).decided(decided(1))
    status, said = await run_example(nats_process.url, tmp_path / "l.db")
    assert (status, "cannot be written: disk is full。无法写入账本" in said) == (1, True)
    async with asyncio.timeout(20), subscribe(nats_process.url, durable=name) as events:
        assert (await anext(aiter(events))).id == f"{1:032x}.7"


async def run_example(nats: str, database: Path) -> tuple[int | None, str]:
    """Run the example to its end: its status, and what it complains of."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "examples" / "token_ledger.py"), "--nats", nats, "--database", str(database)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(program.communicate(), 20)
    return program.returncode, err.decode()


@pytest.mark.once
@pytest.mark.xdist_group("worker faults")
@pytest.mark.timeout(240)
def test_ledger_is_exact_while_workers_and_the_ledger_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each call it has what its caller was told."""
    monkeypatch.setattr(run, "WORKER_KILL_EVERY", 20)
    monkeypatch.setattr(run, "LEDGER_KILL_EVERY", 40)
    tally = run.run(120, seed=3)
    assert (tally.worker_kills, tally.ledger_kills) == (6, 3)
    assert not tally.failed
    assert sum(calls for calls, _, _ in tally.told.values()) == 120
    assert tally.kept == tally.told
