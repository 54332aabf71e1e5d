"""A good request of each row, for a user."""

from __future__ import annotations

from typing import Any

from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool

Row = routes.Route[Any, Any]


def good_requests(user: str) -> dict[Row, Any]:
    """By row. What is asked for is small, and ends at once."""
    asked = [common.Message(role="user", content="灯灭了吗？")]
    task = {"agent_type": "creative", "task": "写一句", "user_id": user}
    return {
        routes.CHAT: ai.ChatRequest(messages=asked),
        routes.CHAT_STREAM: ai.ChatRequest(messages=asked),
        routes.EXECUTE_AGENT: ai.AgentRequest(**task),  # type: ignore[arg-type]
        routes.EXECUTE_AGENT_STREAM: ai.AgentRequest(**task),  # type: ignore[arg-type]
        routes.HEALTH_CHECK: ai.HealthRequest(),
        routes.SEARCH: rag.SearchRequest(query="灯", user_id=user, options=rag.SearchOptions(enable_hybrid=True)),
        routes.INDEX_DOCUMENT: rag.IndexRequest(document_id=f"{user}-d", content="灯灭了。", user_id=user),
        routes.DELETE_DOCUMENT: rag.DeleteRequest(document_id=f"{user}-gone", user_id=user),
        routes.BATCH_INDEX: rag.IndexRequest(document_id=f"{user}-b", content="灯灭了。", user_id=user),
        routes.CALL_TOOL: tool.ToolRequest(tool_name="search_knowledge", parameters='{"query": "灯"}', user_id=user),
        routes.LIST_TOOLS: tool.ListToolsRequest(),
        routes.GET_TOOL_INFO: tool.GetToolInfoRequest(tool_name="mine"),
        routes.CANCEL: control.CancelRequest(method="ChatStream", request_id=f"{user}-none"),
        routes.DESCRIBE: control.DescribeRequest(method="ChatStream", request_id=f"{user}-none"),
    }
