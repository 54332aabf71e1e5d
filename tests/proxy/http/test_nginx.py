"""Behind nginx as Debian has it, with its buffering left on: streams come word for word."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Origin

from tests.bridge.conftest import Bridge
from tests.bridge.halting import Halting
from tests.optional import require_program
from tests.ports import free_port
from tests.proxy.http.conftest import ME, Open
from tests.proxy.http.test_json import ASKED
from tests.proxy.http.test_sse import events
from tests.waiting import eventually

CONFIGURATION = """
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_read_timeout 1s;
    }}
  }}
}}
"""


@contextmanager
def nginx(upstream: int, folder: Path) -> Iterator[int]:
    """Run nginx in front of a port."""
    program, port = require_program("nginx"), free_port()
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, port=port, upstream=upstream))
    with subprocess.Popen([program, "-p", str(folder), "-c", str(path)], stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def test_events_pass_at_once_and_silence_does_not_end_them(
    bridge: Bridge, open_site: Open, tmp_path: Path
) -> None:
    """nginx gives up after a second without a byte; the comments come sooner."""
    site = await open_site(silence_seconds=0.3)
    halting = Halting()
    await bridge.worker(stream=halting.stream)
    with nginx(site.port, tmp_path) as port:
        await eventually(lambda: accepts(port))
        found: list[dict[str, str]] = []
        comments = 0
        async with (
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client,
            client.stream("POST", "/api/v1/ai/chat/stream", json=ASKED, headers=ME) as response,
        ):
            async for event in events(response.aiter_lines()):
                if "data" not in event:
                    comments += "" in event
                elif not found:
                    assert json.loads(event["data"])["delta"] == "前", "it came while the worker waited"
                if comments == 6:  # longer than nginx waits
                    halting.release.set()
                found += [event] if "data" in event else []
        assert found[-1]["event"] == "done"
        assert comments >= 6


async def test_socket_passes_too(bridge: Bridge, open_site: Open, tmp_path: Path) -> None:
    site = await open_site()
    halting = Halting()
    halting.release.set()
    await bridge.worker(stream=halting.stream)
    with nginx(site.port, tmp_path) as port:
        await eventually(lambda: accepts(port))
        address = f"ws://127.0.0.1:{port}/api/v1/ai/ws"
        async with connect(
            address, additional_headers=ME, proxy=None, origin=Origin(f"http://127.0.0.1:{port}")
        ) as socket:
            await socket.send(json.dumps({"type": "chat", "request": ASKED}))
            *chunks, done = [json.loads(message) async for message in socket][1:]
    assert ("".join(chunk["delta"] for chunk in chunks), done["type"]) == ("前后", "done")


async def test_client_that_leaves_nginx_leaves_the_call(bridge: Bridge, open_site: Open, tmp_path: Path) -> None:
    site = await open_site()
    halting = Halting()
    await bridge.worker(chat=halting.chat)
    with nginx(site.port, tmp_path) as port:
        await eventually(lambda: accepts(port))
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            task = asyncio.create_task(client.post("/api/v1/ai/chat", json=ASKED, headers=ME))
            await eventually(lambda: halting.ran == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: halting.stopped == 1)
