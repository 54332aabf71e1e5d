"""CallControl: what the owner of a call may ask and say about it (proto/control.proto)."""

from __future__ import annotations

from google.rpc import status_pb2

from qingyu_ai.bus import record, subjects
from qingyu_ai.bus.call import Caller
from qingyu_ai.bus.errors import BusDown, Cancelled, NotFound
from qingyu_ai.bus.record import Entry
from qingyu_ai.bus.transport_errors import TransportError
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import control_pb2 as control

STATES = {
    record.REOPENED: control.CALL_STATE_QUEUED,
    record.RUN: control.CALL_STATE_RUNNING,
    record.DONE: control.CALL_STATE_ENDED,
}


class Control:
    """Answers for one bridge process. The user is part of a call's id, so nobody reaches another user's call."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def cancel(self, user: str, request: control.CancelRequest) -> control.CancelResponse:
        """Cancel a call in words.

        Raises:
            BusDown: that could not be decided; the call goes on.
        """
        call = subjects.call_id(user, request.method, request.request_id)
        if not await self._caller.cancel(call, Cancelled()):
            raise BusDown("the call could not be cancelled")
        entry = await self._read(call)
        if entry is None:
            raise NotFound("call", "请求", request.request_id)
        return control.CancelResponse(call=described(entry))

    async def describe(self, user: str, request: control.DescribeRequest) -> control.DescribeResponse:
        """Say where a call stands.

        Raises:
            NotFound: nobody has begun it, or its record has expired.
            BusDown: the record cannot be read.
        """
        call = subjects.call_id(user, request.method, request.request_id)
        entry = await self._read(call)
        if entry is not None:
            return control.DescribeResponse(call=described(entry))
        if await self._caller.is_held(call):  # its first worker will make the record
            return control.DescribeResponse(call=control.Call(state=control.CALL_STATE_QUEUED))
        raise NotFound("call", "请求", request.request_id)

    async def _read(self, call: str) -> Entry | None:
        try:
            return await self._caller.records.read(call, newest=True)
        except TransportError as e:
            raise BusDown.of(e) from None


def described(entry: Entry) -> control.Call:
    """A record as its owner may see it."""
    held = entry.record
    call = control.Call(
        state=STATES.get(held.state, control.CALL_STATE_UNSPECIFIED),
        since_unix_ms=held.at_ms,
        claims=len(held.claims),
        reopenings=held.reopenings,
    )
    if entry.done:
        status = status_pb2.Status.FromString(held.end.status)
        call.status.CopyFrom(common.Status(code=status.code, message=status.message or "ok"))
        call.deltas = held.end.count
    return call
