"""docs/events.md: the ten lines run, and the page names what there is."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.consumers import Consumers
from qingyu_ai.bus.stream_api import StreamApi
from qingyu_ai.bus.subjects import project_token
from qingyu_ai.bus.transport import Bus
from qingyu_ai.events.kinds import KINDS
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
from tests.events.test_node import decided
from tests.nats_cluster import AnyNats
from tests.optional import ROOT, require_tool
from tests.waiting import eventually

PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


@pytest.mark.once
async def test_the_ten_lines_run(
    connect: Callable[[], Awaitable[Bus]], settings: BusSettings, nats_process: AnyNats, tmp_path: Path
) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    address = "nats://127.0.0.1:4222"
    assert address in code
    assert len([line for line in code.splitlines() if line]) <= 10
    script = tmp_path / "subscriber.py"
    script.write_text(code.replace(address, nats_process.url), encoding="utf-8")
    bus = await connect()
    assert isinstance(bus, NatsBus)
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-u",
        str(script),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        consumers = Consumers(StreamApi(bus.ask), topology.EVENTS, 30)
        await eventually(lambda: consumers.find("quota"), timeout=20)
        await Publisher(bus, settings).decided(decided(1))
        assert program.stdout is not None
        line = await asyncio.wait_for(program.stdout.readline(), 10)
        assert f"{1:032x}.7 用户1 Usage(" in line.decode()
    finally:
        program.kill()
        await program.communicate()


def test_every_event_and_its_message_is_in_the_table() -> None:
    for kind in KINDS:
        assert f"`{kind.name}`" in PAGE
        if not kind.name.startswith("worker"):
            row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind.name}` "))
            assert f"`{kind.message.DESCRIPTOR.name}`" in row
            assert row.endswith("| never |" if kind.kept else "| may be |")


def test_a_projects_token_can_be_made_in_a_shell() -> None:
    command = re.findall(r"`(printf .*?)`", PAGE)[0]
    require_tool("sha256sum")
    made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    assert made == project_token("p1")
