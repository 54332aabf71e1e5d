"""Streams of the AI Proxy's class while bridges and workers are killed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from qingyu_ai.settings import AiProxy
from services.proxy.models import ChatRequest, Message
from services.proxy.service import AIProxyService
from services.proxy.who import Who
from tests.e2e.callers import COUNTING, FAST, lines
from tests.e2e.counting_worker import BEGINS, spoken
from tests.running import System
from tests.waiting import eventually

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("bridge faults")]

WHO = Who("e2e")


def counting(**context: float) -> ChatRequest:
    said = {name: f"{value:g}" for name, value in {"padding": 0.0, **context}.items()}
    return ChatRequest(messages=[Message(role="user", content="数数")], context=said)


async def text_of(service: AIProxyService, request: ChatRequest, heard: list[str]) -> str:
    async with aclosing(service.chat_stream(request, WHO)) as chunks:
        async for chunk in chunks:
            heard.append(chunk.delta)
    return "".join(heard)


async def test_streams_of_killed_bridges_are_unbroken_for_their_reader() -> None:
    """One bridge after the other is killed; each comes back before the next. No reader sees anything of it."""
    with System(COUNTING, bridges=2, settings=FAST) as system:
        addresses = ",".join(bridge.target for bridge in system.bridges)
        service = await AIProxyService.start(AiProxy(python_addr=f"ipv4:{addresses}", rate_limit=1000))
        heard: list[list[str]] = [[] for _ in range(12)]
        tasks = [asyncio.create_task(text_of(service, counting(deltas=240, per_second=40), texts)) for texts in heard]
        await eventually(lambda: all(heard), timeout=20)
        system.bridges[0].kill()
        lengths = [len(texts) for texts in heard]
        await eventually(lambda: all(len(t) > n + 5 for t, n in zip(heard, lengths, strict=True)), timeout=20)
        system.bridges[0].start()
        await eventually(lambda: not system.bridges[0].unready, timeout=20)
        system.bridges[1].kill()
        texts = await asyncio.gather(*tasks)
        await service.close()
        [worker] = system.workers
        assert texts == [spoken(worker.pid, 240)] * 12
        assert lines(worker, BEGINS) == 12


async def test_stream_waits_for_the_only_bridge_to_come_back() -> None:
    with System(COUNTING, settings=FAST) as system:
        service = await AIProxyService.start(AiProxy(python_addr=system.target, circuit_max_fails=1))
        heard: list[str] = []
        task = asyncio.create_task(text_of(service, counting(deltas=100, per_second=30), heard))
        await eventually(lambda: len(heard) > 5, timeout=20)
        system.bridges[0].kill()
        system.bridges[0].start()
        text = await task
        await service.close()
        assert text == spoken(system.workers[0].pid, 100)
        assert lines(system.workers[0], BEGINS) == 1


async def test_stream_survives_its_worker() -> None:
    with System(COUNTING, COUNTING, settings=FAST) as system:
        service = await AIProxyService.start(AiProxy(python_addr=system.target))
        heard: list[str] = []
        task = asyncio.create_task(text_of(service, counting(deltas=100, per_second=30), heard))
        await eventually(lambda: len(heard) > 5, timeout=20)
        first = next(worker for worker in system.workers if lines(worker, BEGINS))
        pid = first.pid
        first.kill()
        # Who takes over counts on under the name of who began.
        text = await task
        await service.close()
        assert text == spoken(pid, 100)
