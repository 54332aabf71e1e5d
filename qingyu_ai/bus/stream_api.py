"""What is asked of streams, as JetStream's own API takes it: single messages, how full they are, and their purging."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Protocol

from .headers import DESCRIPTION, STATUS
from .transport import Backlog, Headers, Queue, Stored, Usage
from .transport_errors import Disconnected, NoResponders, StoreRefused

SEQUENCE = "Nats-Sequence"
SUBJECT = "Nats-Subject"

NO_MESSAGE = 10037
"""The management API's error for a subject without a message."""

API_TIMEOUT = 5.0
"""Seconds for one call of the JetStream management API."""


class Ask(Protocol):
    """How requests are made: `transport.Bus.ask`."""

    def __call__(
        self, subject: str, data: bytes, *, timeout: float, headers: bytes = b""
    ) -> Awaitable[tuple[bytes, Headers | None]]: ...


class StreamApi:
    """Of one connection. The methods are those of `transport.Bus`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def last(self, stream: str, subject: str, *, timeout: float, newest: bool = False) -> Stored | None:
        """See `transport.Bus.last`."""
        if newest:
            try:
                found = await self.api(
                    f"STREAM.MSG.GET.{stream}", json.dumps({"last_by_subj": subject}).encode(), timeout
                )
            except StoreRefused as e:
                if e.code == NO_MESSAGE:
                    return None
                raise
            message = found["message"]
            return Stored(message["subject"], message["seq"], base64.b64decode(message.get("data", "")))
        return await self._direct_get(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout)

    async def next(self, stream: str, subject: str, sequence: int, *, timeout: float) -> Stored | None:
        """See `transport.Bus.next`."""
        wanted = json.dumps({"seq": max(sequence, 1), "next_by_subj": subject}).encode()
        return await self._direct_get(f"$JS.API.DIRECT.GET.{stream}", wanted, timeout)

    async def _direct_get(self, api: str, wanted: bytes, timeout: float) -> Stored | None:
        try:
            try:
                body, headers = await self._ask(api, wanted, timeout=timeout)
            except Disconnected:
                # To read twice does no harm; the second time waits for the next connection.
                body, headers = await self._ask(api, wanted, timeout=timeout)
        except NoResponders:
            raise StoreRefused(api, 503, "the stream is not there") from None
        headers = headers or {}
        status = headers.get(STATUS)
        if status == "404" or headers.get("KV-Operation"):
            return None
        if status is not None:
            raise StoreRefused(api, int(status), headers.get(DESCRIPTION, ""))
        return Stored(headers[SUBJECT], int(headers[SEQUENCE]), body)

    async def drop(self, stream: str, subject: str, *, timeout: float) -> None:
        """See `transport.Bus.drop`."""
        await self.api(f"STREAM.PURGE.{stream}", json.dumps({"filter": subject}).encode(), timeout)

    async def generation(self, stream: str) -> str:
        """See `transport.Bus.generation`."""
        return str((await self._info(stream))["created"])

    async def span(self, stream: str) -> tuple[str, int]:
        """A stream's generation, and the sequence of its last message."""
        info = await self._info(stream)
        return str(info["created"]), int(info["state"]["last_seq"])

    async def used(self, stream: str) -> Usage:
        """See `transport.Bus.used`."""
        info = await self._info(stream)
        state, first = info["state"], 0.0
        if state["messages"]:
            first = _unix(state["first_ts"])
        created = info["created"]
        return Usage(state["bytes"], info["config"]["max_bytes"], first, _unix(created), created, state["messages"])

    async def backlog(self, queue: Queue) -> Backlog:
        """See `transport.Bus.backlog`.

        The consumer's own count of what waits is that of its server's copy. Of a work queue the stream's leader has each job that
        is not done, and only leaders answer these requests.
        """
        subjects = json.dumps({"subjects_filter": queue.subject}).encode()
        stream = await self.api(f"STREAM.INFO.{queue.stream}", subjects, API_TIMEOUT)
        consumer = await self.api(f"CONSUMER.INFO.{queue.stream}.{queue.consumer}", b"", API_TIMEOUT)
        jobs, claimed = sum((stream["state"].get("subjects") or {}).values()), consumer["num_ack_pending"]
        return Backlog(max(0, jobs - claimed), claimed)

    async def _info(self, stream: str) -> dict[str, Any]:
        return await self.api(f"STREAM.INFO.{stream}", b"", API_TIMEOUT)

    async def api(self, request: str, body: bytes, timeout: float) -> dict[str, Any]:
        """Ask the management API.

        Raises:
            StoreRefused: it says no; with its error code.
            ReplyTimeout, Disconnected: it says nothing.
        """
        try:
            answer, _ = await self._ask(f"$JS.API.{request}", body, timeout=timeout)
        except NoResponders:
            raise StoreRefused(request, 503, "JetStream is not running") from None
        said: dict[str, Any] = json.loads(answer)
        if "error" in said:
            raise StoreRefused(request, said["error"].get("err_code", 0), said["error"].get("description", ""))
        return said


def _unix(timestamp: str) -> float:
    """RFC 3339 with nanoseconds, as JetStream writes it, to unix seconds."""
    head, _, fraction = timestamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(head + "+00:00").timestamp() + (float(f"0.{fraction}") if fraction.isdigit() else 0)
