"""BatchIndex: a stream of documents, each of which is one job. One bad document does not fail the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.message import DecodeError

from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.errors import Fault, Invalid, NoWorker
from qingyu_ai.bus.job import internal
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.routes import JobStream
from qingyu_ai.settings import Settings

from .admission import REQUEST_ID_KEY, Incoming, admit, new_request_id
from .rules import check_request_id

if TYPE_CHECKING:
    from .handlers import Edge, Opened

log = structlog.get_logger(__name__)

MAX_FAILED_IDS = 10_000
"""Ids of failed documents that one answer lists; the counts are exact beyond it."""


class Batch:
    """One BatchIndex call. At most `max_batch_in_flight` documents are in memory at once."""

    def __init__(self, edge: Edge, caller: Caller, route: JobStream[Any, Any], settings: Settings) -> None:
        assert route.item is not None, "a stream of jobs names its item's row"
        self._edge = edge
        self._caller = caller
        self._item = route.item
        self._settings = settings
        self._room = asyncio.Semaphore(settings.bridge.max_batch_in_flight)
        self._answer = rag.BatchIndexResponse()

    async def run(self, bodies: AsyncIterator[bytes], opened: Opened) -> bytes:
        """Index all documents.

        Returns:
            The encoded `BatchIndexResponse`.

        Raises:
            Invalid: the call's request id is malformed.
            NoWorker: nobody could index anything.
        """
        incoming = Incoming.of(opened.context.invocation_metadata())  # type: ignore[arg-type]
        wrong = check_request_id(REQUEST_ID_KEY, incoming.request_id) if incoming.request_id else []
        if wrong:
            raise Invalid(*wrong)
        request_id = incoming.request_id or new_request_id()
        await self._edge.introduce(opened, request_id)
        if not self._caller.presence.has(self._item.worker):
            raise NoWorker(self._item.worker)
        remaining = opened.context.time_remaining()
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
            admitted = admit(self._item, body, own, remaining, self._settings, item_id=item_id)
            name = admitted.message.document_id  # type: ignore[attr-defined]
            end = await self._edge.run_job(self._item, body, admitted)
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
