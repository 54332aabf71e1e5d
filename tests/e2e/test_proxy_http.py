"""What a browser sees of a proxy while bridges, workers and proxies are killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.e2e.callers import COUNTING, FAST, lines
from tests.e2e.counting_worker import BEGINS, spoken
from tests.e2e.proxies import RunningProxy
from tests.running import System
from tests.waiting import eventually

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("bridge faults")]

ME = {"X-User-Id": "e2e"}


class Browser:
    """An EventSource: it keeps the last id, and comes back to the same address when it is cut off."""

    def __init__(self, client: httpx2.AsyncClient, url: str, asked: object = None, last_id: str = "") -> None:
        self._client = client
        self._url = url
        self._asked = asked
        self.text = self.location = ""
        self.last_id = last_id
        self.connections = 0
        self.done = False

    async def read(self) -> None:
        """Read to the end."""
        while not self.done:
            with suppress(httpx2.HTTPError):
                await self.connect()
            await asyncio.sleep(0.2)  # the standard's reconnection time, shortened

    async def connect(self, begun: Callable[[], None] = lambda: None) -> None:
        """Read as far as one connection goes."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        method = "POST" if self._asked else "GET"
        async with self._client.stream(method, self._url, json=self._asked, headers=headers) as response:
            assert response.status_code == 200, "an EventSource would give up"
            self.location = response.headers.get("location", "")
            self.connections += 1
            begun()
            event: dict[str, str] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(":")
                if line:
                    event[name] = value.removeprefix(" ")
                    continue
                self._take(event)
                event = {}

    def _take(self, event: dict[str, str]) -> None:
        self.last_id = event.get("id", self.last_id)
        match event.get("event"):
            case "message":
                self.text += json.loads(event["data"])["delta"]
            case "done":
                self.done = True
            case "error":
                raise AssertionError(event["data"])


async def test_event_source_survives_the_death_of_worker_bridge_and_proxy_in_turn(tmp_path: Path) -> None:
    with System(COUNTING, COUNTING, bridges=2, settings=FAST) as system:
        proxy = RunningProxy(system, tmp_path)
        proxy.start()
        try:
            await proxy.ready()
            async with httpx2.AsyncClient(base_url=proxy.origin, trust_env=False, timeout=30) as client:
                asked = {
                    "messages": [{"role": "user", "content": "数数"}],
                    "context": {"deltas": "400", "per_second": "30", "padding": "0"},
                }
                async with client.stream("POST", "/api/v1/ai/chat/stream", json=asked, headers=ME) as response:
                    path = response.headers["location"]
                given = await client.post("/api/v1/ai/tickets", json={"path": path}, headers=ME)
                browser = Browser(client, given.json()["url"])
                reading = asyncio.create_task(browser.read())

                async def goes_on() -> None:
                    before = len(browser.text)
                    await eventually(lambda: reading.done() or len(browser.text) > before + 20, timeout=30)
                    assert not reading.done()

                await goes_on()
                first = next(worker for worker in system.workers if lines(worker, BEGINS))
                pid = first.pid
                first.kill()
                await goes_on()
                system.bridges[0].kill()
                system.bridges[0].start()
                await goes_on()
                proxy.kill()
                proxy.start()
                await goes_on()
                system.bridges[1].kill()
                await reading
                assert browser.text == spoken(pid, 400)
                assert browser.connections >= 2
        finally:
            proxy.stop()


async def test_proxy_that_stops_lets_its_streams_end_or_moves_them(tmp_path: Path) -> None:
    """SIGTERM: a stream that does not end within the drain is cut, and read on at another proxy."""
    with System(COUNTING, settings=FAST) as system:
        proxies = [RunningProxy(system, tmp_path, f"proxy-{i}") for i in range(2)]
        for proxy in proxies:
            proxy.start()
        try:
            for proxy in proxies:
                await proxy.ready()
            asked = {
                "messages": [{"role": "user", "content": "数数"}],
                "context": {"deltas": "150", "per_second": "30"},
            }
            async with httpx2.AsyncClient(trust_env=False, timeout=30, headers=ME) as client:
                first = Browser(client, f"{proxies[0].origin}/api/v1/ai/chat/stream", asked)
                with pytest.raises(httpx2.HTTPError):
                    await first.connect(begun=proxies[0].terminate)
                assert first.text
                rest = Browser(client, proxies[1].origin + first.location, last_id=first.last_id)
                await rest.read()
                assert first.text + rest.text == spoken(system.workers[0].pid, 150)
            assert proxies[0].wait() == 0
        finally:
            for proxy in proxies:
                proxy.stop()


async def test_proxy_without_a_bridge_or_with_a_taken_port_says_so_and_ends(tmp_path: Path) -> None:
    with System(COUNTING, settings=FAST) as system:
        proxy = RunningProxy(system, tmp_path)
        proxy.start()
        await proxy.ready()
        second = RunningProxy(system, tmp_path, "second", QINGYU_PROXY__PORT=str(proxy.port))
        second.start()
        assert second.wait(20) == 2
        assert "set QINGYU_PROXY__PORT" in second.log
        proxy.stop()
        lost = RunningProxy(system, tmp_path, "lost", QINGYU_AI__PROXY__PYTHON_ADDR="127.0.0.1:1")
        lost.start()
        assert lost.wait(30) == 1
        assert "There is no connection to the AI service at 127.0.0.1:1" in lost.log
        assert "Traceback" not in lost.log
