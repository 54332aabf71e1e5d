"""BatchIndex: a stream of documents, each of which is one job. One bad document does not fail the others, and neither does a
worker or a database that is away for a moment: indexing goes last, so it waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from qingyu_ai.bus.errors import BusDown, Code, Fault, NoWorker, Overloaded
from qingyu_ai.bus.handler import internal
from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.routes import Job
from qingyu_ai.settings import Settings

from .admission import Admitted, Incoming, admit
from .doors import Visitor

log = structlog.get_logger(__name__)

RunJob = Callable[[Job[Any, Any], bytes, Admitted], Awaitable[bus_pb2.End]]
"""Runs one job to its end, or raises its Fault."""

MAX_FAILED_IDS = 10_000
"""Ids of failed documents that one answer lists; the counts are exact beyond it."""


LONGEST_WAIT = 10.0
"""Seconds. What takes longer to mend (a model that is not the configured one) somebody has to mend: the answer names the
documents instead."""


class Batch:
    """One BatchIndex call. At most `max_batch_in_flight` documents are in memory at once."""

    def __init__(self, item: Job[Any, Any], run_job: RunJob, settings: Settings, visitor: Visitor) -> None:
        self._item = item
        self._run_job = run_job
        self._settings = settings
        self._visitor = visitor
        self._room = asyncio.Semaphore(settings.bridge.max_batch_in_flight)
        self._answer = rag.BatchIndexResponse()
        self._away_since: float | None = None
        """Since when nobody takes documents; None: somebody does."""
        self._last: dict[tuple[str, str], asyncio.Task[None]] = {}
        """Of the documents on their way, by user and id: the last one in the stream."""

    async def run(
        self, bodies: AsyncIterator[bytes], request_id: str, incoming: Incoming, remaining: float | None
    ) -> bytes:
        """Index all documents.

        Args:
            request_id: of the call; an item's is this one and its index.
            remaining: seconds until the caller's deadline; None: there is none.

        Returns:
            The encoded `BatchIndexResponse`.
        """
        tasks: set[asyncio.Task[None]] = set()
        try:
            async for body in bodies:
                await self._room.acquire()
                index = self._answer.total
                self._answer.total += 1
                item_id = f"{request_id}-{index}"
                task = asyncio.get_running_loop().create_task(self._one(index, body, incoming, item_id, remaining))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        return self._answer.SerializeToString()

    async def _one(self, index: int, body: bytes, incoming: Incoming, item_id: str, remaining: float | None) -> None:
        name = f"#{index}"
        own = incoming._replace(request_id="")
        try:
            admitted = admit(self._item, body, own, remaining, self._settings, visitor=self._visitor, item_id=item_id)
            name = admitted.message.document_id  # type: ignore[attr-defined]
            end = await self._in_turn(name, body, admitted)
            reply = rag.IndexResponse.FromString(end.answer)
            self._count(name, reply.success)
        except Fault as fault:
            log.info("document_failed", request_id=item_id, document=name, reason=fault.reason, code=fault.code.name)
            self._count(_document_id(body) or name, False)
        except Exception:
            internal("document_failed", request_id=item_id)
            self._count(name, False)
        finally:
            self._room.release()

    async def _in_turn(self, document_id: str, body: bytes, admitted: Admitted) -> bus_pb2.End:
        """Run it after what came before it of the same document: the order in the queue decides which version stays."""
        name, mine = (admitted.envelope.user, document_id), asyncio.current_task()
        assert mine is not None
        before, self._last[name] = self._last.get(name), mine
        try:
            if before is not None:
                await asyncio.wait((before,))
            return await self._run_patiently(body, admitted)
        finally:
            if self._last[name] is mine:
                del self._last[name]

    async def _run_patiently(self, body: bytes, admitted: Admitted) -> bus_pb2.End:
        """Run it, again if waiting can mend what went wrong. Meanwhile the next documents stay with their caller."""
        failures = 0
        while True:
            try:
                end = await self._run_job(self._item, body, admitted)
            except (NoWorker, Overloaded, BusDown) as e:  # it is not stored
                if not isinstance(e, Overloaded) and self._away_too_long():
                    raise
                await _wait(e, admitted)
            except Fault as e:  # it ran, and failed; the same id runs it again
                failures += 1
                long = e.code is not Code.UNAVAILABLE or (e.retry_seconds or 0.0) > LONGEST_WAIT
                if long or failures > self._settings.bus.retries:
                    raise
                await _wait(e, admitted)
            else:
                self._away_since = None
                return end

    def _away_too_long(self) -> bool:
        now = time.monotonic()
        self._away_since = since = now if self._away_since is None else self._away_since
        return now - since >= self._settings.bridge.batch_patience_seconds

    def _count(self, name: str, success: bool) -> None:
        if success:
            self._answer.success_count += 1
        else:
            self._answer.failed_count += 1
            if len(self._answer.failed_ids) < MAX_FAILED_IDS:
                self._answer.failed_ids.append(name)


async def _wait(fault: Fault, admitted: Admitted) -> None:
    """Wait as long as a fault says.

    Raises:
        Fault: the same: waiting does not help, or the deadline comes first.
    """
    seconds = fault.retry_seconds
    if seconds is None or admitted.envelope.deadline.remaining <= seconds:
        raise fault
    await asyncio.sleep(seconds)


def _document_id(body: bytes) -> str:
    """The id of a document that was refused; empty: it cannot be read, or is no sensible id."""
    try:
        return rag.IndexRequest.FromString(body).document_id[:128]
    except DecodeError:
        return ""
