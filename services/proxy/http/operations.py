"""The table of the HTTP face: one row per route. The router and the OpenAPI document are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from services.proxy import models
from services.proxy.models import Answer, Request

from .bodies import AgentTask, Ticket, TicketRequest, ToolParameters

PREFIX = "/api/v1/ai"

Method = Literal["GET", "POST", "DELETE"]


@dataclass(frozen=True)
class Operation:
    """One route."""

    name: str
    """Of its handler, and in the OpenAPI document."""
    method: Method
    path: str
    summary: str
    chinese: str
    reply: type[Answer] | None = None
    """None: no JSON."""
    request: type[Request] | None = None
    parameters: tuple[str, ...] = ()
    """Of the query; those of the path are in it."""
    streams: bool = False
    """The answer is a stream of server-sent events."""
    may_stream: bool = False
    """It is one if the body says `stream`."""
    batches: bool = False
    """The body may be many requests, one a line."""
    public: bool = False
    """Whoever calls."""


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "execute_agent", "POST", f"{PREFIX}/agents/{{type}}", "Have an agent do a task", "让智能体完成一项任务",
        models.AgentResponse, AgentTask, may_stream=True,
    ),
    Operation(
        "execute_agent_stream", "POST", f"{PREFIX}/agents/{{type}}/stream", "Have an agent do a task, and hear it work",
        "让智能体完成一项任务，流式返回", None, AgentTask, streams=True,
    ),
    Operation(
        "chat", "POST", f"{PREFIX}/chat", "Answer the last message of a conversation", "对话",
        models.ChatResponse, models.ChatRequest, may_stream=True,
    ),
    Operation(
        "chat_stream", "POST", f"{PREFIX}/chat/stream", "Answer as the text appears", "对话，流式返回",
        None, models.ChatRequest, streams=True,
    ),
    Operation(
        "follow", "GET", f"{PREFIX}/calls/{{requestId}}/stream", "Read a stream on from Last-Event-ID", "从断点续读流",
        parameters=("ticket", "lastEventId"), streams=True,
    ),
    Operation("cancel", "DELETE", f"{PREFIX}/calls/{{requestId}}", "Cancel a stream", "取消流式请求"),
    Operation(
        "search", "POST", f"{PREFIX}/rag/search", "Find parts of the user's documents", "检索用户文档",
        models.SearchResponse, models.SearchRequest,
    ),
    Operation(
        "index", "POST", f"{PREFIX}/rag/documents", "Store a document, or many, one a line", "存储文档，或按行批量存储",
        models.IndexResponse, models.IndexRequest, batches=True,
    ),
    Operation(
        "delete", "DELETE", f"{PREFIX}/rag/documents/{{id}}", "Remove a document", "删除文档", models.DeleteResponse,
    ),
    Operation(
        "list_tools", "GET", f"{PREFIX}/tools", "Describe the tools that there are", "列出工具",
        models.ToolList, parameters=("category",),
    ),
    Operation("tool_info", "GET", f"{PREFIX}/tools/{{name}}", "Describe one tool", "查看工具", models.ToolInfo),
    Operation(
        "call_tool", "POST", f"{PREFIX}/tools/{{name}}", "Run a tool", "调用工具",
        models.ToolResponse, ToolParameters,
    ),
    Operation(
        "ticket", "POST", f"{PREFIX}/tickets", "Get a ticket for an EventSource or a WebSocket", "获取一次性票据",
        Ticket, TicketRequest,
    ),
    Operation("health", "GET", "/health", "Ask how the system is", "系统健康状况", models.HealthResponse, public=True),
    Operation("metrics", "GET", "/metrics", "Prometheus metrics", "监控指标", public=True),
)  # fmt: skip

WEBSOCKET = f"{PREFIX}/ws"
FOLLOW = f"{PREFIX}/calls/{{requestId}}/stream"
