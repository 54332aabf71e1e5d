"""Between the models of the caller's side and the messages of the contract."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool

from .models import (
    AgentRequest,
    AgentResponse,
    AgentStats,
    BatchIndexResponse,
    ChatRequest,
    ChatResponse,
    DeleteResponse,
    HealthResponse,
    IndexRequest,
    IndexResponse,
    Said,
    SearchRequest,
    SearchResponse,
    SearchResult,
    StreamChunk,
    ToolCall,
    ToolInfo,
    ToolList,
    ToolParameter,
    ToolRequest,
    ToolResponse,
    Usage,
)
from .who import Who

TRAILERS = {
    "x-model": "model",
    "x-finish-reason": "finish_reason",
    "x-usage-prompt": "tokens_prompt",
    "x-usage-completion": "tokens_completion",
    "x-usage-estimated": "tokens_estimated",
}
"""What follows a chat, and how the metadata of its final chunk calls that: with the words of an agent's final chunk."""


def metadata(who: Who, request_id: str) -> common.Metadata:
    """Say who asks, and under which id."""
    return common.Metadata(
        request_id=request_id, user_id=who.user_id, project_id=who.project_id, timestamp=int(time.time())
    )


def agent_request(request: AgentRequest, who: Who, request_id: str) -> ai.AgentRequest:
    """Write a task."""
    given = request.options
    options = ai.AgentOptions(
        model=given.model,
        temperature=given.temperature,
        max_tokens=given.max_tokens,
        max_retries=given.max_retries,
        timeout_seconds=given.timeout_seconds,
        enable_reasoning=given.enable_reasoning,
    )
    return ai.AgentRequest(
        agent_type=request.agent_type,
        task=request.task,
        context=request.context,
        tools=request.tools,
        user_id=who.user_id,
        project_id=who.project_id,
        metadata=metadata(who, request_id),
        options=options,
    )


def agent_response(reply: ai.AgentResponse, request_id: str) -> AgentResponse:
    """Read what an agent did."""
    return AgentResponse(
        output=reply.output,
        tool_calls=[_tool_call(call) for call in reply.tool_calls],
        status=reply.status,
        reasoning=list(reply.reasoning),
        stats=AgentStats(
            tokens_used=reply.stats.tokens_used,
            duration_ms=reply.stats.duration_ms,
            tool_calls_count=reply.stats.tool_calls_count,
            retry_count=reply.stats.retry_count,
        ),
        error=reply.response_status.message if reply.response_status.code else "",
        request_id=request_id,
    )


def _tool_call(call: common.ToolCall) -> ToolCall:
    return ToolCall(
        tool_name=call.tool_name,
        parameters=parsed(call.parameters),
        result=parsed(call.result),
        duration_ms=call.duration_ms,
        success=not call.status.code,
        error=call.status.message if call.status.code else "",
    )


def agent_chunk(chunk: ai.AgentStreamChunk) -> StreamChunk:
    """Read a step of an agent."""
    return StreamChunk.model_construct(
        delta=chunk.delta, chunk_type=chunk.chunk_type, metadata=dict(chunk.metadata), is_final=chunk.is_final
    )


def chat_request(request: ChatRequest, who: Who, request_id: str) -> ai.ChatRequest:
    """Write a conversation."""
    return ai.ChatRequest(
        session_id=request.session_id,
        messages=[common.Message(role=m.role, content=m.content, metadata=m.metadata) for m in request.messages],
        model=request.model,
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        context=request.context,
        metadata=metadata(who, request_id),
    )


def chat_response(reply: ai.ChatResponse, trailers: Mapping[str, str], request_id: str) -> ChatResponse:
    """Read an answer and what follows it."""
    usage = Usage(
        prompt_tokens=_number(trailers.get("x-usage-prompt", "")),
        completion_tokens=_number(trailers.get("x-usage-completion", "")),
        estimated=trailers.get("x-usage-estimated") == "true",
    )
    said = Said(role=reply.message.role, content=reply.message.content, metadata=dict(reply.message.metadata))
    return ChatResponse(
        message=said,
        tokens_used=reply.tokens_used,
        usage=usage,
        model=trailers.get("x-model", ""),
        finish_reason=trailers.get("x-finish-reason", ""),
        error=reply.status.message if reply.status.code else "",
        request_id=request_id,
    )


def chat_chunk(chunk: ai.ChatStreamChunk) -> StreamChunk:
    """Read a piece of an answer."""
    return StreamChunk.model_construct(delta=chunk.delta, chunk_type="text", metadata={}, is_final=chunk.is_final)


def search_request(request: SearchRequest, who: Who, request_id: str) -> rag.SearchRequest:
    """Write a question."""
    given = request.options
    return rag.SearchRequest(
        query=request.query,
        user_id=who.user_id,
        project_id=who.project_id,
        content_types=request.content_types,
        top_k=request.top_k,
        options=rag.SearchOptions(
            min_score=given.min_score,
            enable_rerank=given.enable_rerank,
            enable_hybrid=given.enable_hybrid,
            filters=given.filters,
        ),
        metadata=metadata(who, request_id),
    )


def search_response(reply: rag.SearchResponse, request_id: str) -> SearchResponse:
    """Read what was found."""
    results = [
        SearchResult(
            document_id=found.document_id,
            content=found.content,
            score=found.score,
            metadata=dict(found.metadata),
            content_type=found.content_type,
            highlights=list(found.highlights),
        )
        for found in reply.results
    ]
    return SearchResponse(
        results=results, total_count=reply.total_count, duration_ms=reply.duration_ms, request_id=request_id
    )


def index_request(request: IndexRequest, who: Who) -> rag.IndexRequest:
    """Write a document."""
    return rag.IndexRequest(
        document_id=request.document_id,
        content=request.content,
        content_type=request.content_type,
        user_id=who.user_id,
        project_id=who.project_id,
        metadata=request.metadata,
    )


def index_response(reply: rag.IndexResponse, request_id: str) -> IndexResponse:
    """Read what became of a document."""
    return IndexResponse(
        document_id=reply.document_id,
        success=reply.success,
        message=reply.message,
        chunks_count=reply.chunks_count,
        request_id=request_id,
    )


def batch_response(reply: rag.BatchIndexResponse, request_id: str) -> BatchIndexResponse:
    """Read what became of a batch."""
    return BatchIndexResponse(
        total=reply.total,
        success_count=reply.success_count,
        failed_count=reply.failed_count,
        failed_ids=list(reply.failed_ids),
        request_id=request_id,
    )


def delete_response(reply: rag.DeleteResponse, request_id: str) -> DeleteResponse:
    """Read what became of a document."""
    return DeleteResponse(success=reply.success, message=reply.message, request_id=request_id)


def tool_request(request: ToolRequest, who: Who, request_id: str) -> tool.ToolRequest:
    """Write a call of a tool."""
    return tool.ToolRequest(
        tool_name=request.tool_name,
        parameters=json.dumps(request.parameters, ensure_ascii=False),
        user_id=who.user_id,
        project_id=who.project_id,
        metadata=metadata(who, request_id),
    )


def tool_response(reply: tool.ToolResponse, request_id: str) -> ToolResponse:
    """Read what a tool returned."""
    return ToolResponse(
        result=parsed(reply.result),
        success=reply.success,
        error=reply.error,
        duration_ms=reply.duration_ms,
        request_id=request_id,
    )


def tool_info(reply: tool.ToolInfo) -> ToolInfo:
    """Read a tool's description."""
    parameters = [
        ToolParameter(
            name=p.name,
            type=p.type,
            description=p.description,
            required=p.required,
            default_value=parsed(p.default_value),
        )
        for p in reply.parameters
    ]
    return ToolInfo(
        name=reply.name,
        description=reply.description,
        category=reply.category,
        parameters=parameters,
        requires_auth=reply.requires_auth,
    )


def tool_list(tools: Iterable[tool.ToolInfo]) -> ToolList:
    """Read the tools that there are."""
    return ToolList(tools=[tool_info(one) for one in tools])


def health_response(reply: ai.HealthResponse) -> HealthResponse:
    """Read the state of the system."""
    return HealthResponse(status=reply.status, details=dict(reply.details), uptime_seconds=reply.uptime_seconds)


def parsed(text: str) -> Any:
    """Read JSON of a tool; what is none stays a text, and nothing is null."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0
