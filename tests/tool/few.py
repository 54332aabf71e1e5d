"""A few tools, for the tests of their worker."""

from __future__ import annotations

import asyncio

from pydantic import Field

from qingyu_ai import routes
from qingyu_ai.contract import rag_pb2 as rag
from services.tool.definition import Parameters, ToolCaller, tool
from services.tool.errors import ToolFailed


class Number(Parameters):
    """One number."""

    number: int = Field(description="数", ge=0)


class Nothing(Parameters):
    """No parameters."""


class Query(Parameters):
    """What is looked for."""

    query: str = Field(description="查询")


@tool(category="sums")
def twice(parameters: Number) -> dict[str, int]:
    """加倍一个数。"""
    if parameters.number == 13:
        raise ToolFailed("13 is not to be doubled", "13 不可加倍")
    return {"twice": 2 * parameters.number}


@tool(category="users", requires_auth=True, in_worker=True)
async def mine(parameters: Nothing, caller: ToolCaller) -> dict[str, str]:
    """说出调用者。"""
    return {"user": caller.user, "project": caller.project}


@tool(category="search", in_worker=True)
async def look_up(parameters: Query, caller: ToolCaller) -> dict[str, int]:
    """检索。"""
    request = rag.SearchRequest(query=parameters.query)
    reply = rag.SearchResponse.FromString(await caller.ask(routes.SEARCH.path, request.SerializeToString()))
    return {"found": reply.total_count}


@tool(category="sums", seconds=0.2, in_worker=True)
async def never(parameters: Nothing, caller: ToolCaller) -> dict[str, int]:
    """从不结束。"""
    await asyncio.sleep(60)
    return {}


@tool(category="sums", in_worker=True)
async def defect(parameters: Nothing, caller: ToolCaller) -> dict[str, int]:
    """出错。"""
    return {"never": 1 // len(caller.user * 0)}
