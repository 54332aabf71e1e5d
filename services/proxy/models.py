"""What goes in and comes out, with the JSON names of the caller's side. Requests are read strictly: no text for a number."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator
from pydantic.alias_generators import to_camel

from .errors import AGENT_FAILED, TOOL_FAILED, AIProxyError, failure

Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What the contract's int32 can hold, and nothing below zero."""

FAILED = "failed"
"""The status of an agent that failed."""

Texts = dict[str, str]
AgentType = Literal["creative", "outline", "character", "plot", "review"]
Role = Literal["system", "user", "assistant"]


class Request(BaseModel):
    """What a caller says."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
    )


class Answer(BaseModel):
    """What a caller is told."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)

    def to_json(self) -> bytes:
        """Encode with the names of the caller's side."""
        return self.model_dump_json(by_alias=True).encode()


class AgentOptions(Request):
    """Tune one call. A zero means "the configured default"."""

    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Whole = 0
    max_retries: Whole = 0
    timeout_seconds: Whole = 0
    enable_reasoning: bool = False


class AgentRequest(Request):
    """A task for an agent."""

    agent_type: AgentType
    task: Annotated[str, Field(min_length=1)]
    context: Texts = Field(default_factory=dict)
    tools: list[str] = Field(default_factory=list)
    user_id: str = ""
    project_id: str = ""
    options: AgentOptions = AgentOptions()
    stream: bool = False


class ToolCall(Answer):
    """One tool that an agent called."""

    tool_name: str
    parameters: Any = None
    """As parsed JSON."""
    result: Any = None
    """As parsed JSON; null: it failed."""
    duration_ms: int = 0
    success: bool = True
    error: str = ""


class AgentStats(Answer):
    """What an execution took."""

    tokens_used: int = 0
    duration_ms: int = 0
    tool_calls_count: int = 0
    retry_count: int = 0


class AgentResponse(Answer):
    """What an agent did. One that failed is an answer, too: `status` says so, and `error` why."""

    output: str = ""
    tool_calls: list[ToolCall] = Field(default_factory=list)
    status: str = "completed"
    reasoning: list[str] = Field(default_factory=list)
    stats: AgentStats = AgentStats()
    error: str = ""
    request_id: str = ""

    def raise_if_failed(self) -> None:
        """Raise what the answer says.

        Raises:
            AIProxyError: 5001: the agent failed.
        """
        if self.status == FAILED:
            raise failure(AGENT_FAILED, self.error, request_id=self.request_id)


class StreamChunk(Answer):
    """One step of a stream of an agent or a chat. Exactly one is final, and it is the last."""

    delta: str = ""
    chunk_type: str = "text"
    metadata: Texts = Field(default_factory=dict)
    """Of an agent: `seq`, and what docs/agents.md lists. On the final chunk of a chat: model, finish_reason, usage."""
    is_final: bool = False
    _event_id: str = PrivateAttr(default="")

    @property
    def event_id(self) -> str:
        """Where a reader stands that has this chunk."""
        return self._event_id

    @event_id.setter
    def event_id(self, value: str) -> None:
        self._event_id = value

    def failure(self, request_id: str = "") -> AIProxyError | None:
        """What went wrong, if this is the final chunk of an agent that failed: error 5001."""
        facts = self.metadata
        if not self.is_final or facts.get("status") != FAILED:
            return None
        return failure(AGENT_FAILED, facts.get("message", ""), facts.get("reason", ""), request_id)


class Message(Request):
    """One utterance in a conversation."""

    role: Role
    content: str
    metadata: Texts = Field(default_factory=dict)


class ChatRequest(Request):
    """A conversation that waits for its next answer."""

    messages: Annotated[list[Message], Field(min_length=1)]
    session_id: str = ""
    model: str = ""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Whole = 0
    context: Texts = Field(default_factory=dict)
    user_id: str = ""
    project_id: str = ""
    stream: bool = False


class Usage(Answer):
    """What an answer took, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False


class Said(Answer):
    """What the model said."""

    role: str = "assistant"
    content: str = ""
    metadata: Texts = Field(default_factory=dict)


class ChatResponse(Answer):
    """The answer of a chat."""

    message: Said = Said()
    tokens_used: int = 0
    usage: Usage = Usage()
    model: str = ""
    finish_reason: str = ""
    error: str = ""
    """Why the answer is not whole, if it is not."""
    request_id: str = ""


class SearchOptions(Request):
    """Tune one search."""

    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0
    enable_rerank: bool = False
    enable_hybrid: bool = False
    filters: Texts = Field(default_factory=dict)


class SearchRequest(Request):
    """A question to a user's documents."""

    query: Annotated[str, Field(min_length=1)]
    user_id: str = ""
    project_id: str = ""
    content_types: list[str] = Field(default_factory=list)
    top_k: Whole = 0
    options: SearchOptions = SearchOptions()


class SearchResult(Answer):
    """One chunk of a document."""

    document_id: str
    content: str = ""
    score: float = 0.0
    metadata: Texts = Field(default_factory=dict)
    content_type: str = ""
    highlights: list[str] = Field(default_factory=list)


class SearchResponse(Answer):
    """What was found, the best first."""

    results: list[SearchResult] = Field(default_factory=list)
    total_count: int = 0
    duration_ms: int = 0
    request_id: str = ""


class IndexRequest(Request):
    """A document to store."""

    document_id: Annotated[str, Field(min_length=1)]
    content: Annotated[str, Field(min_length=1)]
    content_type: str = ""
    user_id: str = ""
    project_id: str = ""
    metadata: Texts = Field(default_factory=dict)


class IndexResponse(Answer):
    """What became of one document."""

    document_id: str
    success: bool = True
    message: str = ""
    chunks_count: int = 0
    request_id: str = ""


class BatchIndexResponse(Answer):
    """What became of all documents of a batch."""

    total: int = 0
    success_count: int = 0
    failed_count: int = 0
    failed_ids: list[str] = Field(default_factory=list)
    request_id: str = ""


class DeleteResponse(Answer):
    """Whether there was such a document; it is gone in any case."""

    success: bool = True
    message: str = ""
    request_id: str = ""


class ToolRequest(Request):
    """A call of a tool."""

    tool_name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] = Field(default_factory=dict)
    user_id: str = ""
    project_id: str = ""

    @field_validator("parameters")
    @classmethod
    def _is_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise ValueError("must be values that JSON has: no NaN, no Infinity, no halves of characters") from None
        return value


class ToolResponse(Answer):
    """What a tool returned. One that failed is an answer, too."""

    result: Any = None
    """As parsed JSON; null: it failed."""
    success: bool = True
    error: str = ""
    duration_ms: int = 0
    request_id: str = ""

    def raise_if_failed(self) -> None:
        """Raise what the answer says.

        Raises:
            AIProxyError: 5003: the tool failed.
        """
        if not self.success:
            raise failure(TOOL_FAILED, self.error, request_id=self.request_id)


class ToolParameter(Answer):
    """One parameter of a tool."""

    name: str
    type: str = ""
    description: str = ""
    required: bool = False
    default_value: Any = None
    """As parsed JSON."""


class ToolInfo(Answer):
    """A tool, for people and for models that choose one."""

    name: str
    description: str = ""
    category: str = ""
    parameters: list[ToolParameter] = Field(default_factory=list)
    requires_auth: bool = False


class ToolList(Answer):
    """The tools that there are."""

    tools: list[ToolInfo] = Field(default_factory=list)


class HealthResponse(Answer):
    """The state of the whole system as the bridge sees it."""

    status: str
    details: Texts = Field(default_factory=dict)
    uptime_seconds: int = 0
