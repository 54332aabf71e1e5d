"""An AIAgentService that answers from memory, and breaks one promise if asked to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc

from qingyu_ai.contract import ai_agent_pb2, common_pb2
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, rag_pb2_grpc
from tests.cli.fake_rag import FakeRag

ANSWER = "灯灭之前，他必须把船撑到河心。"

AGENT_ANSWER = "许七把船牌收回袖里。"

END = {
    "message": "",
    "duration_ms": "1200",
    "model": "fake",
    "finish_reason": "stop",
    "retry_count": "0",
    "tokens_prompt": "30",
    "tokens_completion": "12",
    "tokens_estimated": "true",
}
"""What the last chunk of an agent says of the whole, beside its status."""

Context = grpc.ServicerContext


class FakeAgent(ai_agent_pb2_grpc.AIAgentServiceServicer):
    """Keeps its promises, but for the one named in `fault`."""

    def __init__(self, fault: str = "") -> None:
        """Prepare it."""
        self.fault = fault
        self.sessions: dict[str, int] = {}

    def HealthCheck(self, request: ai_agent_pb2.HealthRequest, context: Context) -> ai_agent_pb2.HealthResponse:
        """Say how it is."""
        status = "unhealthy" if self.fault == "unhealthy" else "healthy"
        details = {"bus": "ok", "chat": "1 replica"}
        details["worker.rag"] = "none running" if self.fault == "no retrieval" else "1 running"
        return ai_agent_pb2.HealthResponse(status=status, details=details, uptime_seconds=7)

    def ExecuteAgent(self, request: ai_agent_pb2.AgentRequest, context: Context) -> ai_agent_pb2.AgentResponse:
        """Not part of the tour."""
        raise NotImplementedError

    def ExecuteAgentStream(
        self, request: ai_agent_pb2.AgentRequest, context: Context
    ) -> Iterator[ai_agent_pb2.AgentStreamChunk]:
        """Call a tool, then answer in chunks."""
        numbers = count()

        def chunk(chunk_type: str, delta: str = "", **facts: str) -> ai_agent_pb2.AgentStreamChunk:
            number = 0 if self.fault == "numbers that stand" else next(numbers)
            return ai_agent_pb2.AgentStreamChunk(
                chunk_type=chunk_type, delta=delta, metadata={"seq": str(number), "elapsed_ms": "7", **facts}
            )

        calls = self.fault not in ("no tool called", "tools refused")
        called = {"tool_name": "text_statistics", "call_id": "c1"}
        yield chunk("reasoning", "先数一数。")
        if calls and self.fault != "end without start":
            yield chunk("tool_start", **called, parameters=json.dumps({"text": "灯" * 100}))
        if calls and self.fault != "start without end":
            failed = {"success": "false", "error": "no text / 没有文字"} if self.fault == "tool fails" else {}
            result = json.dumps({"zi": 100, "lines": list(range(90))})
            yield chunk("tool_end", **called, **{"success": "true", "result": result, "duration_ms": "3", **failed})
        refused = self.fault == "tools refused" and bool(request.tools)
        if not refused and self.fault != "silent agent":
            for character in AGENT_ANSWER:
                yield chunk("text", character)
        status = "failed" if refused or self.fault == "agent fails" else "completed"
        final = chunk("text", status=status, reason="MODEL_REFUSED_REQUEST" if refused else "", **END)
        final.metadata["tool_calls_count"] = str(int(calls))
        final.is_final = self.fault != "agent never ends"
        yield final
        if self.fault == "agent says more":
            yield chunk("text", "还有")

    def Chat(self, request: ai_agent_pb2.ChatRequest, context: Context) -> ai_agent_pb2.ChatResponse:
        """Answer as a whole."""
        self._metadata(request, context)
        if self.fault == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "no chat worker answers")
        answer = "" if self.fault == "empty answer" else ANSWER
        return ai_agent_pb2.ChatResponse(message=common_pb2.Message(role="assistant", content=answer), tokens_used=20)

    def ChatStream(self, request: ai_agent_pb2.ChatRequest, context: Context) -> Iterator[ai_agent_pb2.ChatStreamChunk]:
        """Answer in chunks."""
        self._metadata(request, context)
        if self.fault != "empty stream":
            for character in ANSWER:
                yield ai_agent_pb2.ChatStreamChunk(delta=character)
        if self.fault != "no final chunk":
            yield ai_agent_pb2.ChatStreamChunk(is_final=True)
        if self.fault == "text after the end":
            yield ai_agent_pb2.ChatStreamChunk(delta="还有")

    def _metadata(self, request: ai_agent_pb2.ChatRequest, context: Context) -> None:
        size = sum(len(message.content) for message in request.messages)
        if request.session_id and self.fault != "no memory":
            size += self.sessions.get(request.session_id, 0)
            self.sessions[request.session_id] = size
        request_id = "another" if self.fault == "another id" else request.metadata.request_id
        context.send_initial_metadata((("x-request-id", request_id),))
        trailing = [
            ("x-usage-prompt", str(size)),
            ("x-usage-completion", str(len(ANSWER))),
            ("x-usage-estimated", "true"),
            ("x-finish-reason", "stop"),
            ("x-model", "fake"),
            ("x-request-id", request_id),
        ]
        if self.fault == "no usage":
            trailing = trailing[2:]
        context.set_trailing_metadata(tuple(trailing))


def serve(agent: FakeAgent, port: int = 0, rag: FakeRag | None = None) -> tuple[grpc.Server, int]:
    """Start a server; the second result is its port."""
    server = grpc.server(ThreadPoolExecutor(4))
    ai_agent_pb2_grpc.add_AIAgentServiceServicer_to_server(agent, server)
    rag = rag or FakeRag(agent.fault)
    rag_pb2_grpc.add_RAGServiceServicer_to_server(rag, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, port
