"""Rpc rows, asked: by a bridge for its callers, and by a worker for a call that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from google.protobuf.message import Message

from qingyu_ai.routes import CALL_TOOL, Route, Rpc

from . import headers as wire
from . import spans, subjects
from .deadline import Deadline
from .errors import Expired, Fault, NoWorker, fault_of
from .handler import Call
from .headers import Envelope
from .transport import Bus
from .transport_errors import Disconnected, NoResponders, PayloadTooLarge, ReplyTimeout, TransportError

log = structlog.get_logger(__name__)

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)


async def ask(bus: Bus, route: Route[Any, Any], subject: str, body: bytes, envelope: Envelope) -> bytes:
    """Ask once.

    Returns:
        The encoded reply.

    Raises:
        Fault: the worker's own, or NoWorker, Expired, BusDown, TooLarge.
    """
    with spans.asking(route, envelope) as span:
        if span:
            envelope = envelope._replace(traceparent=span.traceparent)
        return await _ask(bus, route, subject, body, envelope)


async def _ask(bus: Bus, route: Route[Any, Any], subject: str, body: bytes, envelope: Envelope) -> bytes:
    try:
        reply, headers = await bus.ask(
            subject, body, timeout=max(0.001, envelope.deadline.remaining), headers=envelope.encode(stored=False)
        )
    except NoResponders:
        raise NoWorker(route.worker) from None
    except ReplyTimeout:
        tell_cancelled(bus, envelope.call)
        raise Expired from None
    except (Disconnected, PayloadTooLarge) as e:
        raise fault_of(e) from None
    except asyncio.CancelledError:
        tell_cancelled(bus, envelope.call)
        raise
    if headers and wire.ERROR_CODE in headers:
        raise Fault.from_status(reply)
    return reply


def tell_cancelled(bus: Bus, call: str) -> None:
    """Say to its worker that nobody waits for a call."""
    try:
        bus.publish(subjects.cancel(call), b"")
    except TransportError as e:
        log.warning("cancel_not_sent", call=call, error=str(e))


Sign = Callable[[str, str, str], str]
"""(call id, user, tool) to the proof that the call is this user's (`headers.PROOF`)."""


class Asker:
    """What a worker asks of others, in the name of the call that it serves.

    Args:
        sign: proves to tools for verified users whose a call is; None: this process calls none of them.
    """

    def __init__(self, bus: Bus, sign: Sign | None = None) -> None:
        self._bus = bus
        self._sign = sign

    async def ask(self, call: Call, route: Rpc[Req, Rep], request: Req, *, part: str, seconds: float) -> Rep:
        """Ask once, as the caller of `call`.

        Args:
            part: what the question is in the call; no two that run at once have the same. It makes a call id of its own.
            seconds: after which the answer is of no use; the call's deadline holds, too.

        Raises:
            Fault: the other worker's own, or NoWorker, Expired, BusDown, TooLarge.
        """
        envelope = Envelope(
            call=subjects.call_id(call.user, route.method, f"{call.id}/{part}"),
            request_id=call.request_id,
            deadline=min(call.deadline, Deadline.after(seconds)),
            user=call.user,
            project=call.project,
            roles=call.roles,
            traceparent=call.traceparent,
            verified=call.verified,
            projects=call.projects,
        )
        if route is CALL_TOOL and self._sign is not None and call.verified:
            tool = route.subject_of(request).rpartition(".")[2]
            envelope = envelope._replace(proof=self._sign(envelope.call, call.user, tool))
        reply = await ask(self._bus, route, route.subject_of(request), request.SerializeToString(), envelope)
        return route.reply.FromString(reply)
