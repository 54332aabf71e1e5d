"""A real browser, headless: its EventSource reads on while worker, bridge and proxy are killed in turn."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tests.e2e.callers import COUNTING, FAST, lines
from tests.e2e.counting_worker import BEGINS, spoken
from tests.e2e.proxies import RunningProxy
from tests.optional import require_program
from tests.ports import free_port
from tests.running import System
from tests.waiting import eventually

pytestmark = [pytest.mark.once, pytest.mark.timeout(120), pytest.mark.xdist_group("bridge faults")]

PAGE = Path(__file__).with_name("page.html")
DELTAS, PER_SECOND = 500, 30


@dataclass
class Reports:
    """What the page says of itself."""

    text: str = ""
    opened: int = 0
    done: bool = False
    mistakes: list[str] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        """Take one."""
        found = json.loads(await request.body())
        if not self.done:
            self.text, self.opened, self.done = found["text"], found["opened"], found["done"]
            self.mistakes = found["mistakes"]
        return Response(status_code=204)


@asynccontextmanager
async def pages(port: int) -> AsyncIterator[Reports]:
    """Serve the page from an origin of its own, and take its reports."""
    reports = Reports()
    app = Starlette(routes=[Route("/", lambda _: FileResponse(PAGE)), Route("/report", reports.take, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off", loop="none"))
    serving = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    yield reports
    server.should_exit = True
    await serving


@contextmanager
def browser(program: str, url: str, profile: Path) -> Iterator[None]:
    """Have a headless browser show a page."""
    command = [
        *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"),
        *(f"--user-data-dir={profile}", "--remote-debugging-port=0", url),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


async def test_page_shows_the_whole_text_through_every_death(tmp_path: Path) -> None:
    chromium, port = require_program("chromium"), free_port()
    with System(COUNTING, COUNTING, bridges=2, settings=FAST) as system:
        origins = json.dumps([f"http://127.0.0.1:{port}"])
        proxy = RunningProxy(system, tmp_path, QINGYU_PROXY__ALLOWED_ORIGINS=origins)
        proxy.start()
        try:
            await proxy.ready()
            query = urlencode({"base": proxy.origin, "deltas": DELTAS, "per_second": PER_SECOND})
            async with pages(port) as reports:
                with browser(chromium, f"http://127.0.0.1:{port}/?{query}", tmp_path / "profile"):
                    await watch(system, proxy, reports)
        finally:
            proxy.stop()


async def watch(system: System, proxy: RunningProxy, reports: Reports) -> None:
    async def goes_on() -> None:
        before = len(reports.text)
        await eventually(lambda: reports.done or reports.mistakes or len(reports.text) > before + 20, timeout=40)
        assert not reports.mistakes
        assert not reports.done, "it ended before everything was killed"

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
    await eventually(lambda: reports.done or reports.mistakes, timeout=60)
    assert not reports.mistakes
    assert reports.text == spoken(pid, DELTAS)
    assert reports.opened == 2
