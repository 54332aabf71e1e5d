"""Puts jobs into their queue, again and again while the queue does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from qingyu_ai.routes import Route
from qingyu_ai.settings import Bus as BusSettings

from . import topology
from .errors import BusDown, Fault, fault_of
from .headers import Envelope
from .transport import Bus, Headers, parse_ack
from .transport_errors import TransportError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for, of a job row."""

    route: Route[Any, Any]
    subject: str
    body: bytes
    envelope: Envelope
    begun: bool = False
    """The caller has a part of the answer already."""

    @property
    def digest(self) -> bytes:
        """Of the request without its metadata."""
        return bytes.fromhex(self.envelope.digest)

    @property
    def queue(self) -> str:
        """The stream that its job goes to."""
        return topology.QUEUES[self.route.worker].stream


class Storing:
    """One job on its way into its queue.

    Nobody waits for the acknowledgement, because the reader waits for the call's first frame anyway: only a refusal, or none in
    time, is news.

    Args:
        request: its envelope names the inbox.
        needless: whether the call is heard of, so that its job is stored.
        on_refused: told why it is not stored.
        on_stored: told that it is; perhaps more than once.
    """

    def __init__(
        self,
        bus: Bus,
        settings: BusSettings,
        request: Request,
        needless: Callable[[], bool],
        on_refused: Callable[[Fault], None],
        on_stored: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._request = request
        self._headers = request.envelope.encode(stored=True)
        self._needless = needless
        self._on_refused = on_refused
        self._on_stored = on_stored
        self._attempts = 0
        self._token = 0
        self._timer: asyncio.TimerHandle | None = None

    def put(self) -> None:
        """Send it.

        Raises:
            Disconnected, PayloadTooLarge: nothing was sent.
        """
        self._attempts += 1
        self._token = self._bus.request(
            self._request.subject, self._request.body, self._answered, headers=self._headers
        )
        self._timer = asyncio.get_running_loop().call_later(self._settings.store_seconds, self._late)

    def _answered(self, data: bytes, headers: Headers | None) -> None:
        if not data and self._bus.connected:
            return  # nobody listens now: `_late` tries again
        if self._timer is not None:
            self._timer.cancel()
        if not data:
            self._on_refused(BusDown("there is no connection to it"))
            return
        try:
            parse_ack(self._request.subject, data)
        except TransportError as e:
            self._on_refused(fault_of(e))
        else:
            self._on_stored()

    def _late(self) -> None:
        self._bus.forget(self._token)
        if self._needless():
            return  # only the acknowledgement was lost
        patience = self._settings.patience_seconds
        if self._request.envelope.deadline.passed or self._attempts * self._settings.store_seconds >= patience:
            self._on_refused(BusDown("the job queue does not answer"))
            return
        # It may be stored already. Then this is a second message of the same call, and the record lets one run.
        log.warning("job_not_acknowledged", call=self._request.envelope.call, attempt=self._attempts)
        try:
            self.put()
        except TransportError as e:
            self._on_refused(fault_of(e))
