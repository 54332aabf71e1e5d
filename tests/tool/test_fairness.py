"""One user's many and slow calls beside another's first one: through a real bridge, with tools in real children."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from qingyu_ai import routes
from qingyu_ai.bus.asking import Asker
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import tool_pb2 as pb
from services.agent.service import AgentService
from services.agent.toolbox import BusToolbox
from services.llm.offer import Offer
from services.tool.definition import Tool
from services.tool.registry import Registry
from tests.agent.scripted import LIBRARY, ScriptedModel, calls, new_call, says
from tests.bridge.conftest import Bridge
from tests.bridge.conftest import bridge as bridge  # the fixtures
from tests.bridge.conftest import bridge_settings as bridge_settings
from tests.tool import naughty
from tests.tool.test_service import bus_settings as bus_settings
from tests.tool.test_service import tool_worker
from tests.waiting import eventually

TOOLS: list[Tool[Any, Any]] = [naughty.double, naughty.nap, naughty.sleeper]


def ask(bridge: Bridge, user: str, name: str, **parameters: Any) -> asyncio.Future[pb.ToolResponse]:
    request = pb.ToolRequest(tool_name=name, parameters=json.dumps(parameters), user_id=user)
    call: asyncio.Future[pb.ToolResponse] = asyncio.ensure_future(bridge.unary(routes.CALL_TOOL)(request, timeout=50))
    return call


async def test_another_users_call_goes_through_a_busy_sandbox(bridge: Bridge) -> None:
    async with tool_worker(bridge, TOOLS, slots=256) as worker:
        order: list[str] = []
        ten = [ask(bridge, "many", "nap", number=i) for i in range(10)]
        for one in ten:
            one.add_done_callback(lambda _: order.append("many"))
        await eventually(lambda: worker.running == 10)
        answer = await ask(bridge, "one", "double", number=21)
        assert (answer.success, json.loads(answer.result)) == (True, {"double": 42})
        assert len(order) <= 3  # of ten that came before it; the one child was taken
        assert all(one.success for one in await asyncio.gather(*ten))


async def test_a_call_that_finds_no_child_is_refused_to_be_tried_again_and_has_not_timed_out(bridge: Bridge) -> None:
    async with tool_worker(bridge, TOOLS, wait_seconds=0.2) as worker:
        busy = ask(bridge, "many", "sleeper")
        await eventually(lambda: worker.running == 1)
        request = pb.ToolRequest(tool_name="double", parameters='{"number": 1}', user_id="one")
        refusal = await bridge.refused(routes.CALL_TOOL, request)
        assert (refusal.code, refusal.fault.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert refusal.fault.retry_seconds
        assert "个工具进程在 0.2 秒内都没有空闲" in refusal.fault.chinese
        busy.cancel()


async def test_one_user_cannot_fill_a_worker(bridge: Bridge) -> None:
    async with tool_worker(bridge, TOOLS, slots=8) as worker:
        held = [ask(bridge, "many", "sleeper") for _ in range(2)]
        await eventually(lambda: worker.running == 2)
        request = pb.ToolRequest(tool_name="double", parameters='{"number": 1}', user_id="many")
        refusal = await bridge.refused(routes.CALL_TOOL, request)
        assert (refusal.code, refusal.fault.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "同时进行的工具调用过多（上限 2）" in refusal.fault.chinese
        waits = ask(bridge, "one", "double", number=1)
        await eventually(lambda: worker.running == 3)
        for one in (*held, waits):
            one.cancel()
        await eventually(lambda: worker.running == 0)
        assert (await ask(bridge, "many", "double", number=1)).success


@pytest.mark.parametrize("wait_seconds", [10.0, 0.2], ids=["in the queue", "refused, and asked again"])
async def test_an_agents_tool_call_behind_a_busy_sandbox_succeeds(bridge: Bridge, wait_seconds: float) -> None:
    """`double` may take half a second; the child is busy for longer."""
    async with tool_worker(bridge, TOOLS, slots=256, wait_seconds=wait_seconds) as worker:
        busy = ask(
            bridge, "many", "nap", number=15
        )  # tenths of a second, more than the call's own limit and the margin
        await eventually(lambda: worker.running == 1)
        model = ScriptedModel(calls(("double", {"number": 21})), says("好"))
        registry = Registry(worker.bus, bridge.settings.bus.tool_lease_seconds)
        service = AgentService(Offer({model.name: model}, model.name), LIBRARY, BusToolbox(registry, Asker(worker.bus)))
        asked = ai.AgentRequest(agent_type="creative", task="续写", user_id="one", tools=["double"])
        answer = await service.execute(new_call(), asked)
        [made] = answer.tool_calls
        assert (made.status.code, made.result, answer.output) == (0, '{"double":42}', "好")
        assert (await busy).success
        await registry.stop()


async def test_an_agent_whose_tool_is_busy_for_ever_has_time_left_to_answer(bridge: Bridge) -> None:
    async with tool_worker(bridge, TOOLS, slots=256, wait_seconds=0.2) as worker:
        busy = ask(bridge, "many", "sleeper")
        await eventually(lambda: worker.running == 1)
        model = ScriptedModel(calls(("double", {"number": 21})), says("没有数，直接写。"))
        registry = Registry(worker.bus, bridge.settings.bus.tool_lease_seconds)
        service = AgentService(Offer({model.name: model}, model.name), LIBRARY, BusToolbox(registry, Asker(worker.bus)))
        asked = ai.AgentRequest(agent_type="creative", task="续写", user_id="one", tools=["double"])
        asked.options.timeout_seconds = 4
        answer = await service.execute(new_call(), asked)
        [made] = answer.tool_calls
        assert (made.status.code, answer.status, answer.output) == (8, "completed", "没有数，直接写。")
        assert "请稍后重试" in made.status.message
        busy.cancel()
        await registry.stop()
