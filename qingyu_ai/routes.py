"""THE table: one row per RPC of the contract, and of what stands beside it. Read this file first.

What can be asked again is an `Rpc`: core request/reply, at most once, no listener means UNAVAILABLE at once. What costs
money or changes data is a `Job`: stored in a work queue, claimed, logged, committed (docs/bus-protocol.md). The kind of row
decides the signature of both ends; tests/test_routes.py compares the table with the compiled descriptors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from .contract import ai_agent_pb2 as ai
from .contract import control_pb2 as control
from .contract import rag_pb2 as rag
from .contract import tool_pb2 as tool

Req = TypeVar("Req", bound=Message)
Rep = TypeVar("Rep", bound=Message)

AGENT_TYPES = ("creative", "outline", "character", "plot", "review")


@dataclass(frozen=True)
class Route(Generic[Req, Rep]):
    """One RPC."""

    service: str
    """Full name of the gRPC service."""
    method: str
    request: type[Req]
    reply: type[Rep]
    worker: str
    """The kind of worker that answers; `bridge`: the edge itself."""
    subject: str
    """Where its requests go."""
    token: str = ""
    """A request field whose value is the last token of the subject. Validated before it gets there."""
    room: float = 1.0
    """How full the bridge and the row's queue may be for one more call. Chat goes before agents, and agents before indexing, so
    those leave room (docs/bus-protocol.md, "Who goes first")."""

    @property
    def path(self) -> str:
        """The method as gRPC names it."""
        return f"/{self.service}/{self.method}"

    def subject_of(self, request: Any) -> str:
        """Where this request goes."""
        return f"{self.subject}.{getattr(request, self.token)}" if self.token else self.subject

    @property
    def interest(self) -> str:
        """What a worker listens to in order to serve the row."""
        return f"{self.subject}.*" if self.token else self.subject


@dataclass(frozen=True)
class Rpc(Route[Req, Rep]):
    """Can be asked again: one request, one reply, nothing stored."""


@dataclass(frozen=True)
class Job(Route[Req, Rep]):
    """Stored, claimed, committed: one request, one reply."""


@dataclass(frozen=True)
class StreamJob(Route[Req, Rep]):
    """Stored, claimed, committed: one request, a stream of replies."""


@dataclass(frozen=True)
class JobStream(Route[Req, Rep]):
    """A stream of requests, each of which is one job of another row; one reply counts them."""

    item: Job[Any, Any] | None = None


@dataclass(frozen=True)
class Edge(Route[Req, Rep]):
    """Answered by the bridge."""


AGENT_SERVICE = "qingyu.ai.agent.AIAgentService"
RAG_SERVICE = "qingyu.ai.rag.RAGService"
TOOL_SERVICE = "qingyu.ai.tool.ToolService"
CONTROL_SERVICE = "qingyu.ai.control.v1.CallControl"

# fmt: off
EXECUTE_AGENT = Job(
    AGENT_SERVICE, "ExecuteAgent", ai.AgentRequest, ai.AgentResponse, "agent", "ai.job.agent.execute", "agent_type", room=0.75)
EXECUTE_AGENT_STREAM = StreamJob(
    AGENT_SERVICE, "ExecuteAgentStream", ai.AgentRequest, ai.AgentStreamChunk, "agent", "ai.job.agent.stream", "agent_type",
    room=0.75)
CHAT = Job(AGENT_SERVICE, "Chat", ai.ChatRequest, ai.ChatResponse, "chat", "ai.job.chat.complete")
CHAT_STREAM = StreamJob(AGENT_SERVICE, "ChatStream", ai.ChatRequest, ai.ChatStreamChunk, "chat", "ai.job.chat.stream")
HEALTH_CHECK = Edge(AGENT_SERVICE, "HealthCheck", ai.HealthRequest, ai.HealthResponse, "bridge", "")
SEARCH = Rpc(RAG_SERVICE, "Search", rag.SearchRequest, rag.SearchResponse, "rag", "ai.rpc.rag.search")
INDEX_DOCUMENT = Job(
    RAG_SERVICE, "IndexDocument", rag.IndexRequest, rag.IndexResponse, "rag", "ai.job.rag.index", room=0.5)
DELETE_DOCUMENT = Job(
    RAG_SERVICE, "DeleteDocument", rag.DeleteRequest, rag.DeleteResponse, "rag", "ai.job.rag.delete", room=0.5)
BATCH_INDEX = JobStream(
    RAG_SERVICE, "BatchIndex", rag.IndexRequest, rag.BatchIndexResponse, "rag", "", room=0.5, item=INDEX_DOCUMENT)
CALL_TOOL = Rpc(TOOL_SERVICE, "CallTool", tool.ToolRequest, tool.ToolResponse, "tool", "ai.rpc.tool.call", "tool_name")
LIST_TOOLS = Rpc(TOOL_SERVICE, "ListTools", tool.ListToolsRequest, tool.ListToolsResponse, "tool", "ai.rpc.tool.list")
GET_TOOL_INFO = Rpc(TOOL_SERVICE, "GetToolInfo", tool.GetToolInfoRequest, tool.ToolInfo, "tool", "ai.rpc.tool.info", "tool_name")
CANCEL = Edge(CONTROL_SERVICE, "Cancel", control.CancelRequest, control.CancelResponse, "bridge", "")
DESCRIBE = Edge(CONTROL_SERVICE, "Describe", control.DescribeRequest, control.DescribeResponse, "bridge", "")
# fmt: on

ROUTES: tuple[Route[Any, Any], ...] = (
    EXECUTE_AGENT,
    EXECUTE_AGENT_STREAM,
    CHAT,
    CHAT_STREAM,
    HEALTH_CHECK,
    SEARCH,
    INDEX_DOCUMENT,
    DELETE_DOCUMENT,
    BATCH_INDEX,
    CALL_TOOL,
    LIST_TOOLS,
    GET_TOOL_INFO,
    CANCEL,
    DESCRIBE,
)


@functools.cache
def services() -> dict[str, tuple[str, ...]]:
    """Each gRPC service and the kinds of worker behind it."""
    return {
        name: tuple(sorted({r.worker for r in of_service(name) if not isinstance(r, Edge)}))
        for name in dict.fromkeys(r.service for r in ROUTES)
    }


def of_service(service: str) -> Iterator[Route[Any, Any]]:
    """The rows of one gRPC service."""
    return (r for r in ROUTES if r.service == service)
