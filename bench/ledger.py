"""Whether the ledger of tokens (`examples/token_ledger.py`) is exact while chat workers and the ledger itself are killed.

    python -m bench.ledger --calls 1000

Chats and streams of ten users, by a gRPC client that adds up what each caller is told of its cost in trailing metadata. A worker
is killed for each 25 calls that end, and the ledger for each 100; both are started again. A call that is refused because no
worker is there is made again under its request id, as the proxy does. Then the ledger's totals are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e.callers import FAST
from tests.running import ROOT, System

USERS = 10
AT_ONCE = 40
WORKER_KILL_EVERY, LEDGER_KILL_EVERY = 25, 100
"""Calls that end between two kills."""

CALL_SECONDS = 180.0
SETTLE_SECONDS = 90.0

SETTINGS = {
    **FAST,
    "QINGYU_CHAT__SLOTS": "32",
    "QINGYU_OFFLINE__DELTAS_PER_SECOND": "100",
    "QINGYU_OFFLINE__FIRST_DELAY_SECONDS": "0.05",
}


@dataclass
class Tally:
    """What was told to callers, and what the ledger says of it, by user: (calls, prompt, completion tokens)."""

    told: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    kept: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    worker_kills: int = 0
    ledger_kills: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Calls that did not end OK, by status: they are not compared."""

    @property
    def exact(self) -> bool:
        """Whether the ledger has each token once."""
        return self.told == self.kept


class LedgerProcess:
    """The example, as another team would run it."""

    def __init__(self, nats: str, database: Path) -> None:
        self._command = [sys.executable, str(ROOT / "examples/token_ledger.py"), "--nats", nats]
        self._command += ["--database", str(database)]
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(self._command, env=env, stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def totals(self) -> dict[str, tuple[int, int, int]]:
        """What is in its file."""
        if not self._database.exists():
            return {}
        db = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)
        try:
            rows = db.execute("SELECT user, calls, prompt, completion FROM totals").fetchall()
        except sqlite3.OperationalError:
            return {}  # it has not made its tables yet
        finally:
            db.close()
        return {user: (calls, prompt, completion) for user, calls, prompt, completion in rows}


async def call(stub: ai_agent_pb2_grpc.AIAgentServiceAsyncStub, number: int, tally: Tally) -> None:
    """Chat once, however often that must be tried, and add up what it cost."""
    user = f"用户{number % USERS}"
    request = ai.ChatRequest(
        messages=[common.Message(role="user", content=f"第{number}问：黛玉为何葬花？")],
        metadata=common.Metadata(user_id=user, project_id=f"p{number % 3}", request_id=f"req_ledger_{number}"),
    )
    end = time.monotonic() + CALL_SECONDS
    while True:
        try:
            trailers = await cost_of(stub, request, stream=number % 2 == 0)
            break
        except grpc.aio.AioRpcError as e:
            if e.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                tally.failed[e.code().name] += 1
                return
        await asyncio.sleep(0.5)
    told = dict(trailers or ())
    calls, prompt, completion = tally.told.get(user, (0, 0, 0))
    more = (int(told["x-usage-prompt"]), int(told["x-usage-completion"]))
    tally.told[user] = (calls + 1, prompt + more[0], completion + more[1])


async def cost_of(
    stub: ai_agent_pb2_grpc.AIAgentServiceAsyncStub, request: ai.ChatRequest, *, stream: bool
) -> grpc.aio.Metadata:
    """Make a call.

    Returns:
        Its trailing metadata.

    Raises:
        grpc.aio.AioRpcError: it failed.
    """
    if stream:
        chunks = stub.ChatStream(request, timeout=CALL_SECONDS)
        async for _ in chunks:
            pass
        return await chunks.trailing_metadata()
    answer = stub.Chat(request, timeout=CALL_SECONDS)
    await answer
    return await answer.trailing_metadata()


async def kill_all(kills: asyncio.Queue[Callable[[], Awaitable[None]]]) -> None:
    """Do what is asked for, one after the other."""
    while True:
        kill = await kills.get()
        await kill()
        kills.task_done()


async def drive(system: System, ledger: LedgerProcess, calls: int, seed: int) -> Tally:
    """Call, kill, and wait until the ledger has all of it."""
    tally, rng, left = Tally(), random.Random(seed), iter(range(calls))
    kills: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()

    async def kill_worker() -> None:
        worker = rng.choice([worker for worker in system.workers if worker.alive])
        await asyncio.to_thread(worker.kill)
        worker.start()
        tally.worker_kills += 1

    async def kill_ledger() -> None:
        await asyncio.to_thread(ledger.kill)
        ledger.start()
        tally.ledger_kills += 1

    async with grpc.aio.insecure_channel(system.target) as channel:
        stub: ai_agent_pb2_grpc.AIAgentServiceAsyncStub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)

        ended = itertools.count(1)

        async def caller() -> None:
            for number in left:
                await call(stub, number, tally)
                count = next(ended)
                for often, kill in ((WORKER_KILL_EVERY, kill_worker), (LEDGER_KILL_EVERY, kill_ledger)):
                    if count % often == 0:
                        kills.put_nowait(kill)

        killing = asyncio.create_task(kill_all(kills))
        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        await kills.join()
        killing.cancel()
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        tally.kept = await asyncio.to_thread(ledger.totals)
        if sum(kept[0] for kept in tally.kept.values()) >= sum(told[0] for told in tally.told.values()):
            break
        await asyncio.sleep(0.2)
    await asyncio.sleep(1)  # what would be counted twice would come about now
    tally.kept = await asyncio.to_thread(ledger.totals)
    return tally


def run(calls: int, seed: int) -> Tally:
    """Run a system and a ledger."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qingyu-ledger-")))
        system = stack.enter_context(System("services.chat", "services.chat", "services.chat", settings=SETTINGS))
        ledger = LedgerProcess(system.nats.url, folder / "ledger.db")
        ledger.start()
        stack.callback(ledger.kill)
        return asyncio.run(drive(system, ledger, calls, seed))


def main() -> int:
    """Run the program."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--calls", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=random.randrange(100_000))
    options = arguments.parse_args()
    began = time.monotonic()
    tally = run(options.calls, options.seed)
    calls = sum(told[0] for told in tally.told.values())
    tokens = sum(prompt + completion for _, prompt, completion in tally.told.values())
    print(f"seed {options.seed}: {calls} calls, {tokens} tokens in {time.monotonic() - began:.0f} s")
    print(
        f"{tally.worker_kills} workers and {tally.ledger_kills} ledgers killed; not OK: {dict(tally.failed) or 'none'}"
    )
    print("the ledger is exact" if tally.exact else f"told {tally.told}\nkept {tally.kept}")
    return 0 if tally.exact else 1


if __name__ == "__main__":
    sys.exit(main())
