"""BatchIndex: a stream of documents, each of which is one job. One bad document does not fail the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from qingyu_ai.bus.errors import Fault, Overloaded
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


class Batch:
    """One BatchIndex call. At most `max_batch_in_flight` documents are in memory at once."""

    def __init__(self, item: Job[Any, Any], run_job: RunJob, settings: Settings, visitor: Visitor) -> None:
        self._item = item
        self._run_job = run_job
        self._settings = settings
        self._visitor = visitor
        self._room = asyncio.Semaphore(settings.bridge.max_batch_in_flight)
        self._answer = rag.BatchIndexResponse()

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
            end = await self._run_when_there_is_room(body, admitted)
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

    async def _run_when_there_is_room(self, body: bytes, admitted: Admitted) -> bus_pb2.End:
        """Indexing goes last, so it waits for room instead of failing. Meanwhile the next documents stay with their caller."""
        while True:
            try:
                return await self._run_job(self._item, body, admitted)
            except Overloaded as e:
                wait = e.retry_seconds or 1.0
                if admitted.envelope.deadline.remaining <= wait:
                    raise
                await asyncio.sleep(wait)

    def _count(self, name: str, success: bool) -> None:
        if success:
            self._answer.success_count += 1
        else:
            self._answer.failed_count += 1
            if len(self._answer.failed_ids) < MAX_FAILED_IDS:
                self._answer.failed_ids.append(name)


def _document_id(body: bytes) -> str:
    """The id of a document that was refused; empty: it cannot be read, or is no sensible id."""
    try:
        return rag.IndexRequest.FromString(body).document_id[:128]
    except DecodeError:
        return ""
