"""The limits of a child of the sandbox that no tool runs into on an ordinary day, and when it is replaced."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest

from services.tool import sandbox as module
from services.tool.sandbox import Sandbox
from tests.tool import naughty

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox leans on Linux")


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(naughty.TOOLS, children=1) as made:
        yield made


async def came(sandbox: Sandbox, code: str) -> str:
    said = await sandbox.run(naughty.attempt, json.dumps({"code": f"import resource\n{code}"}))
    return str(json.loads(said)["came"])


@pytest.mark.parametrize("limit", ["FSIZE", "CORE", "NPROC", "NOFILE"])
async def test_limit_is_nothing_and_cannot_be_raised(sandbox: Sandbox, limit: str) -> None:
    assert await came(sandbox, f"assert resource.getrlimit(resource.RLIMIT_{limit}) == (0, 0)") == "done"
    assert await came(sandbox, f"resource.setrlimit(resource.RLIMIT_{limit}, (1, 1))") in ("ValueError", "OSError")


async def test_time_of_the_cpu_is_limited_anew_for_each_call(sandbox: Sandbox) -> None:
    """By a little more than the tool's own seconds, so that the parent is first where it is not too busy."""
    limits = "soft = resource.getrlimit(resource.RLIMIT_CPU)[0]; used = sum(os.times()[:2])"
    await sandbox.run(naughty.nap, '{"number": 0}')  # may take a minute
    assert await came(sandbox, f"{limits}\nassert used + 5 < soft < used + 5 + 3") == "done"
    for _ in range(3):
        assert await came(sandbox, "x = sum(os.times()[:2])\nwhile sum(os.times()[:2]) < x + 0.4: pass") == "done"
    assert await came(sandbox, f"{limits}\nassert used + 5 < soft < used + 5 + 3") == "done"


async def test_a_loop_whose_parent_does_not_look_is_ended_by_the_kernel(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoTimeout:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *error: object) -> None: ...

    await sandbox.start()
    monkeypatch.setattr("asyncio.timeout", lambda seconds: NoTimeout())
    running = asyncio.ensure_future(sandbox.run(naughty.endless, "{}"))
    done, _ = await asyncio.wait([running], timeout=30)
    assert done
    assert type(running.exception()).__name__ == "ToolDied"


async def test_child_is_replaced_after_so_many_calls(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS_OF_A_CHILD", 3)
    pids = [json.loads(await sandbox.run(naughty.surroundings, ""))["pid"] for _ in range(7)]
    assert [pids.index(pid) for pid in pids] == [0, 0, 0, 3, 3, 3, 6]
