"""Which events follow from a decided call. A pure function of the record: whoever finds it says the same with the same ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from qingyu_ai.bus.fault import Code, Fault
from qingyu_ai.bus.observing import Decided, Observed
from qingyu_ai.contract import bus_pb2
from qingyu_ai.contract import events_pb2 as events

from . import kinds
from .kinds import Kind

PUT_ASIDE = ("DEAD_LETTER", "INTERNAL")
"""Reasons of jobs that lie in the dead letters: the end of several workers, and a defect of ours."""


class Told(NamedTuple):
    """An event that is to be published."""

    kind: Kind
    id: str
    message: Any
    """Its data, a protobuf message."""
    at_ms: int


def about(call: Observed, epoch: int | None = None) -> events.Call:
    """The call that an event is about."""
    envelope = call.envelope
    return events.Call(
        id=envelope.call,
        epoch=call.epoch if epoch is None else epoch,
        traceparent=envelope.traceparent,
        user=envelope.user,
        project=envelope.project,
        service=call.kind,
        method=call.method,
        request_id=envelope.request_id,
        target=call.target,
    )


def of_decision(decided: Decided) -> list[Told]:
    """The events of a decided call: of each decision that was reopened, and of the last one.

    The id of an event is the call's with the revision of its decision: the same for everybody who finds it, and another one after
    a reopening, or when the same request id runs again because its record has expired.
    """
    held = decided.record
    told = [
        _of_end(decided, one.revision, one.at_ms, one.epoch, one.claims, one.deaths, one.end) for one in held.earlier
    ]
    claims = len(held.claims)
    told.append(_of_end(decided, decided.revision, held.at_ms, held.epoch, claims, held.deaths, held.end))
    return told


def _of_end(
    decided: Decided, revision: int, at_ms: int, epoch: int, claims: int, deaths: int, end: bus_pb2.End
) -> Told:
    """The event of one decision, whose facts these are. No generator and no object for them: one is made for every call."""
    trailers = end.trailers
    id = f"{decided.call.envelope.call}.{revision}"
    shared: dict[str, Any] = {
        "at_unix_ms": at_ms,
        "call": about(decided.call, epoch),
        "usage": usage(trailers),
        "duration_ms": max(0, at_ms - decided.record.claims[0].at_ms) if claims else 0,
        "attempts": claims,
    }
    if not end.status:
        finish_reason, agent_status = trailers.get("x-finish-reason", ""), trailers.get("x-agent-status", "")
        message = events.CallCompleted(finish_reason=finish_reason, agent_status=agent_status, **shared)
        return Told(kinds.COMPLETED, id, message, at_ms)
    fault = Fault.from_status(end.status)
    if fault.code is Code.CANCELLED:
        return Told(kinds.CANCELLED, id, events.CallCancelled(**shared), at_ms)
    if fault.reason in PUT_ASIDE:
        aside = events.CallDeadLettered(failure=failure(fault), deaths=deaths, **shared)
        return Told(kinds.DEAD_LETTERED, id, aside, at_ms)
    return Told(kinds.FAILED, id, events.CallFailed(failure=failure(fault), **shared), at_ms)


def of_asked(call: Observed, seconds: float, fault: Fault | None, at_ms: int) -> Told:
    """The one event of a call of an rpc row.

    Its id names the call and how it ended: a call that failed and is made again under its request id has two events.
    """
    shared: dict[str, Any] = {
        "at_unix_ms": at_ms,
        "call": about(call),
        "duration_ms": round(seconds * 1000),
        "attempts": 1,
    }
    message: Any
    if fault is None:
        kind, message = kinds.COMPLETED, events.CallCompleted(**shared)
    elif fault.code is Code.CANCELLED:
        kind, message = kinds.CANCELLED, events.CallCancelled(**shared)
    else:
        kind, message = kinds.FAILED, events.CallFailed(failure=failure(fault), **shared)
    return Told(kind, f"{call.envelope.call}.{kind.name}", message, at_ms)


def failure(fault: Fault) -> events.Failure:
    """What the caller was told."""
    return events.Failure(code=int(fault.code), reason=fault.reason, message=fault.message)


def usage(trailers: Mapping[str, str]) -> events.Usage | None:
    """What a call cost, from what its handler left for the caller; None: it left nothing."""
    if "x-usage-prompt" not in trailers and "x-model" not in trailers:
        return None
    return events.Usage(
        model=trailers.get("x-model", ""),
        prompt_tokens=_count(trailers, "x-usage-prompt"),
        completion_tokens=_count(trailers, "x-usage-completion"),
        reasoning_tokens=_count(trailers, "x-usage-reasoning"),
        estimated=trailers.get("x-usage-estimated", "true") != "false",
    )


def _count(trailers: Mapping[str, str], name: str) -> int:
    value = trailers.get(name, "")
    return int(value) if value.isdecimal() and len(value) < 16 else 0
