"""CallControl and linger: what a caller may do about a call that it is not connected to."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from bridge.admission import LINGER_KEY
from qingyu_ai import routes
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import control_pb2 as control
from tests.bridge.conftest import Bridge, chat
from tests.bridge.halting import Halting
from tests.waiting import eventually


def named(request_id: str, user: str = "") -> dict[str, Any]:
    return {"method": "ChatStream", "request_id": request_id, "metadata": common.Metadata(user_id=user)}


async def cancel(bridge: Bridge, request_id: str, user: str = "") -> control.Call:
    answer: control.CancelResponse = await bridge.unary(routes.CANCEL)(
        control.CancelRequest(**named(request_id, user)), timeout=5
    )
    return answer.call


async def describe(bridge: Bridge, request_id: str, user: str = "") -> control.Call:
    answer: control.DescribeResponse = await bridge.unary(routes.DESCRIBE)(
        control.DescribeRequest(**named(request_id, user)), timeout=5
    )
    return answer.call


async def begin(bridge: Bridge, request_id: str, *more: tuple[str, str]) -> Any:
    call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=(("x-request-id", request_id), *more), timeout=20)
    begun = (await call.read()).delta
    assert begun.startswith("前")
    return call


async def rest_of(call: Any) -> str:
    text = ""
    while (chunk := await call.read()) is not grpc.aio.EOF:
        text += chunk.delta
    return text


async def test_call_is_described_from_its_claim_to_its_end(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    call = await begin(bridge, "a")
    running = await describe(bridge, "a")
    assert (running.state, running.claims, running.HasField("status")) == (control.CALL_STATE_RUNNING, 1, False)
    halting.release.set()
    assert await rest_of(call) == "后"
    ended = await describe(bridge, "a")
    assert (ended.state, ended.status.code, ended.deltas) == (control.CALL_STATE_ENDED, 0, 3)
    assert ended.since_unix_ms >= running.since_unix_ms


async def test_call_that_waits_for_a_worker_is_described_at_every_bridge(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream, slots=1)
    await begin(bridge, "a")
    waiting = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=(("x-request-id", "b"),), timeout=20)
    await waiting.initial_metadata()
    async with bridge.second() as other:
        for asked in (bridge, other):
            queued = await describe(asked, "b")
            assert (queued.state, queued.claims) == (control.CALL_STATE_QUEUED, 0)
    halting.release.set()
    assert await rest_of(waiting) == "前后"


async def test_nobody_sees_or_ends_the_call_of_another_user(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    call = await begin(bridge, "a")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await describe(bridge, "a", user="somebody else")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    await cancel(bridge, "a", user="somebody else")
    halting.release.set()
    assert await rest_of(call) == "后"


async def test_call_that_is_cancelled_in_words_ends_for_its_reader_and_stops_its_worker(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    call = await begin(bridge, "a")
    said = await cancel(bridge, "a")
    assert (said.state, said.status.code) == (control.CALL_STATE_ENDED, grpc.StatusCode.CANCELLED.value[0])
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await rest_of(call)
    assert await call.code() is grpc.StatusCode.CANCELLED
    await eventually(lambda: halting.stopped == 1)


async def test_call_that_has_ended_stays_as_it_is(bridge: Bridge) -> None:
    halting = Halting()
    halting.release.set()
    await bridge.worker(stream=halting.stream)
    await rest_of(await begin(bridge, "a"))
    assert (await cancel(bridge, "a")).status.code == 0


async def test_call_that_comes_after_its_cancel_is_cancelled(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    await cancel(bridge, "a")
    call = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=(("x-request-id", "a"),), timeout=5)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await rest_of(call)
    assert halting.ran == 0


@pytest.mark.parametrize(
    ("method", "request_id", "field"), [("Search", "a", "method"), ("", "a", "method"), ("Chat", "", "request_id")]
)
async def test_request_that_names_no_call_is_refused(bridge: Bridge, method: str, request_id: str, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await bridge.unary(routes.DESCRIBE)(control.DescribeRequest(method=method, request_id=request_id), timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(refused.value.details())


async def test_call_without_linger_ends_with_its_caller(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    (await begin(bridge, "a")).cancel()
    await eventually(lambda: halting.stopped == 1)


async def test_call_that_lingers_is_there_when_its_caller_comes_back(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    (await begin(bridge, "a", (LINGER_KEY, "20000"))).cancel()
    await eventually(lambda: bridge.caller.readers.withdrawals.lingering == 1)
    assert (await describe(bridge, "a")).state == control.CALL_STATE_RUNNING
    halting.release.set()
    again = bridge.streaming(routes.CHAT_STREAM)(chat("写"), metadata=(("x-request-id", "a"),), timeout=20)
    assert await rest_of(again) == "前后"
    assert (halting.ran, halting.stopped) == (1, 0)


async def test_call_that_lingers_is_cancelled_when_nobody_comes_back(bridge: Bridge) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    (await begin(bridge, "a", (LINGER_KEY, "300"))).cancel()
    await eventually(lambda: halting.stopped == 1)
    assert (await describe(bridge, "a")).status.code == grpc.StatusCode.CANCELLED.value[0]
    await eventually(lambda: bridge.caller.readers.withdrawals.lingering == 0)


async def test_caller_who_has_come_back_elsewhere_is_not_cut_off(bridge: Bridge) -> None:
    """At the end of a linger the bridge asks whether another one reads the call."""
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    (await begin(bridge, "a", (LINGER_KEY, "600"))).cancel()
    await eventually(lambda: bridge.caller.readers.withdrawals.lingering == 1)
    async with bridge.second() as other:
        again = await begin(other, "a")
        await eventually(lambda: bridge.caller.readers.withdrawals.lingering == 0, timeout=10)
        halting.release.set()
        assert await rest_of(again) == "后"
    assert halting.stopped == 0


async def test_linger_that_is_none_is_refused(bridge: Bridge) -> None:
    await bridge.worker(stream=Halting().stream)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await begin(bridge, "a", (LINGER_KEY, "soon"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert LINGER_KEY in str(refused.value.details())


async def test_cancel_while_its_bridge_drains_stops_the_work(bridge: Bridge) -> None:
    """Only whoever is cut off at the end of the drain is one who may come back."""
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    call = await begin(bridge, "a")
    await bridge.health.drain()
    call.cancel()
    await eventually(lambda: halting.stopped == 1)
    other = await begin(bridge, "b")
    bridge.edge.leaving.send_away()
    with pytest.raises(grpc.aio.AioRpcError, match="x-resume-from") as sent:
        await rest_of(other)
    assert sent.value.code() is grpc.StatusCode.UNAVAILABLE
    assert halting.stopped == 1  # the call goes on
    halting.release.set()


def questions(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What a bridge is answered from now on when it asks whether anybody reads a call."""
    withdrawals = bridge.caller.readers.withdrawals
    ask, answers = withdrawals.is_held, list[bool]()

    async def is_held(call: str) -> bool:
        answers.append(await ask(call))
        return answers[-1]

    monkeypatch.setattr(withdrawals, "is_held", is_held)
    return answers


@pytest.mark.parametrize("timeout", [20, 1])
async def test_reader_at_another_bridge_does_not_end_the_call_of_the_first(
    bridge: Bridge, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by leaving nor by its own, shorter deadline."""
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    first = await begin(bridge, "a")
    async with bridge.second() as other:
        asked = questions(other, monkeypatch)
        second = other.streaming(routes.CHAT_STREAM)(chat("写"), metadata=(("x-request-id", "a"),), timeout=timeout)
        assert (await second.read()).delta == "前"
        if timeout > 1:
            second.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await rest_of(second)
        await eventually(lambda: other.edge.open == 0 and other.caller.readers.withdrawals.lingering == 0)
        await eventually(lambda: asked == [True])
        assert (await describe(bridge, "a")).state == control.CALL_STATE_RUNNING
        halting.release.set()
        assert await rest_of(first) == "后"


async def test_first_reader_does_not_end_the_call_of_one_at_another_bridge(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    first = await begin(bridge, "a")
    async with bridge.second() as other:
        second = await begin(other, "a")
        asked = questions(bridge, monkeypatch)
        first.cancel()
        await eventually(lambda: asked == [True])
        assert halting.stopped == 0
        second.cancel()
        await eventually(lambda: halting.stopped == 1)
