"""The spans of the bus: a question asked and answered, a job that waited, a worker that had it.

A worker that is killed cannot tell of its own span, under which others hang that were told already. So its span has an id that
follows from call and epoch, and whoever takes the call over tells of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from hashlib import blake2b
from typing import Any, TypeVar

from qingyu_ai import tracing
from qingyu_ai.routes import Route
from qingyu_ai.tracing import Attributes, Kind, Off, Span, names

from . import topology
from .claiming import Claimed, Lost
from .errors import Expired, Fault
from .headers import Envelope
from .transport import Delivery

T = TypeVar("T")

NATS = "nats"
LOST = "worker_lost"


def asking(route: Route[Any, Any], envelope: Envelope) -> Span | Off:
    """The span of an rpc that is asked."""
    if not tracing.is_on():
        return tracing.OFF
    return tracing.span(_method(route), Kind.CLIENT, _rpc(route, envelope), parent=tracing.onward(envelope.traceparent))


async def answering(route: Route[Any, Any], envelope: Envelope, answer: Awaitable[T]) -> T:
    """Answer an rpc within its span."""
    if not tracing.is_on():
        return await answer
    with tracing.span(_method(route), Kind.SERVER, _rpc(route, envelope), parent=envelope.traceparent) as span:
        try:
            return await answer
        except BaseException:
            if envelope.deadline.passed:
                span.failed(Expired())
            raise


def working(delivery: Delivery, envelope: Envelope, claim: Claimed) -> Span | Off:
    """The span of a worker that has claimed a job. It is current from now on."""
    if not tracing.is_on():
        return tracing.OFF
    now, parent, facts = time.time_ns(), envelope.traceparent, _messaging(delivery, envelope)
    if not claim.goes_on:
        began = min(delivery.stored_ns, now)  # by another clock, perhaps
        waiting = {names.OPERATION_NAME: "wait", names.OPERATION_TYPE: "receive", **facts}
        tracing.span(f"wait {delivery.subject}", Kind.CONSUMER, waiting, parent=parent, began_ns=began).end()
    if claim.lost is not None and claim.lost.epoch:
        _tell_of(claim.lost, delivery, envelope)
    span = tracing.span(
        f"process {delivery.subject}",
        Kind.CONSUMER,
        {
            **_processing(facts, claim.epoch),
            names.WORKER: claim.record.claims[-1].worker,
            names.DELIVERY: delivery.delivery,
        },
        parent=parent,
        span_id=_id(envelope.call, claim.epoch),
    )
    span.enter()
    return span


def _tell_of(lost: Lost, delivery: Delivery, envelope: Envelope) -> None:
    facts = {**_processing(_messaging(delivery, envelope), lost.epoch), names.WORKER: lost.worker}
    began, span_id = lost.at_ms * 10**6, _id(envelope.call, lost.epoch)
    name = f"process {delivery.subject}"
    span = tracing.span(name, Kind.CONSUMER, facts, parent=envelope.traceparent, began_ns=began, span_id=span_id)
    span.fail(LOST, "The worker was lost, and another one went on")
    span.end()


def worked(span: Span | Off, fault: Fault | None, *, given_back: bool = False) -> None:
    """A worker has done with a job. Who does not say so has lost it to another one, which tells of it."""
    if given_back:
        span.set(names.GIVEN_BACK, True)
    span.failed(fault)
    span.end()


def _id(call: str, epoch: int) -> int:
    return int.from_bytes(blake2b(f"{call} {epoch}".encode(), digest_size=8).digest()) or 1


def _method(route: Route[Any, Any]) -> str:
    return route.path[1:]


def _rpc(route: Route[Any, Any], envelope: Envelope) -> Attributes:
    return {names.RPC_SYSTEM: NATS, names.RPC_METHOD: _method(route), names.CALL: envelope.call}


def _messaging(delivery: Delivery, envelope: Envelope) -> dict[str, tracing.Value]:
    return {
        names.MESSAGING_SYSTEM: NATS,
        names.DESTINATION: delivery.subject,
        names.MESSAGE_ID: str(delivery.sequence),
        names.CONSUMER_GROUP: topology.QUEUES[delivery.subject.split(".")[2]].consumer,
        names.CALL: envelope.call,
    }


def _processing(facts: Attributes, epoch: int) -> dict[str, tracing.Value]:
    return {names.OPERATION_NAME: "process", names.OPERATION_TYPE: "process", **facts, names.EPOCH: epoch}
