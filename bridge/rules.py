"""What a request must hold before it goes on, one function for each request type.

A rule looks at values, never at other systems: whether a model or a document exists is the worker's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message

from qingyu_ai.bus import subjects
from qingyu_ai.bus.errors import NotFound
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool
from qingyu_ai.routes import AGENT_TYPES, ROUTES, Job, StreamJob

Violation = tuple[str, str]
"""(field, what is wrong with it)."""

NONE: Sequence[Violation] = ()

MAX_ID = 128
"""Characters of an id."""

MAX_QUERY = 10_000
"""Characters of a search query."""

MAX_TOKENS = 1_000_000
MAX_TOP_K = 1_000
MAX_TIMEOUT_SECONDS = 24 * 3600
MAX_RETRIES = 20
MAX_MESSAGES = 2_000
MAX_TOOLS = 64
MAX_CONTEXT = 256
"""Background texts of one agent; their size is the request's."""
JOBS = tuple(route.method for route in ROUTES if isinstance(route, Job | StreamJob))
"""Rows whose calls have a record, and can be described and cancelled by name."""
ROLES = frozenset(("system", "user", "assistant"))

_ID = re.compile(r"[^\x00-\x20\x7f\u2028\u2029](?:[^\x00-\x1f\x7f\u2028\u2029]*[^\x00-\x20\x7f\u2028\u2029])?")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def check_id(field: str, value: str) -> Sequence[Violation]:
    """Check an id of a caller: bounded, without control characters and without blanks at its ends."""
    if not value or (value.isalnum() and len(value) <= MAX_ID):
        return NONE  # most ids end here: letters and digits of any script
    if len(value) > MAX_ID:
        return [(field, f"has {len(value)} characters; the limit is {MAX_ID}")]
    if not _ID.fullmatch(value):
        return [(field, "has control characters, or blanks at an end")]
    return NONE


def check_request_id(field: str, value: str) -> Sequence[Violation]:
    """Check a request id: visible ASCII."""
    if REQUEST_ID.fullmatch(value):
        return NONE
    return [(field, f"must be 1 to {MAX_ID} visible ASCII characters")]


def _required(field: str, value: str) -> Sequence[Violation]:
    return NONE if value and not value.isspace() else [(field, "is required")]


def _between(field: str, value: float, low: float, high: float) -> Sequence[Violation]:
    # Written so that NaN fails too.
    return NONE if low <= value <= high else [(field, f"must be between {low} and {high}")]


def _tool_name(field: str, value: str) -> Sequence[Violation]:
    if not value:
        return [(field, "is required")]
    if not subjects.TOOL_NAME.fullmatch(value):
        raise NotFound("tool", "工具", value[:MAX_ID])
    return NONE


def _context_name(name: str) -> Sequence[Violation]:
    if not name or name.isspace():
        return [("context", "has an entry without a name")]
    return [("context", f"has a name of {len(name)} characters; the limit is {MAX_ID}")] if len(name) > MAX_ID else NONE


def _agent(r: ai.AgentRequest) -> Sequence[Violation]:
    found = [*_required("task", r.task)]
    if r.agent_type not in AGENT_TYPES:
        found.append(("agent_type", f"must be one of {', '.join(AGENT_TYPES)}"))
    if len(r.tools) > MAX_TOOLS:
        found.append(("tools", f"has {len(r.tools)} entries; the limit is {MAX_TOOLS}"))
    if len(r.context) > MAX_CONTEXT:
        found.append(("context", f"has {len(r.context)} entries; the limit is {MAX_CONTEXT}"))
    else:
        for name in r.context:
            found += _context_name(name)
    found += [
        (f"tools[{i}]", "is no tool name: lower-case letters, digits and _, at most 64")
        for i, name in enumerate(r.tools[:MAX_TOOLS])
        if not subjects.TOOL_NAME.fullmatch(name)
    ]
    if r.HasField("options"):
        o = r.options
        found += check_id("options.model", o.model)
        found += _between("options.temperature", o.temperature, 0, 2)
        found += _between("options.max_tokens", o.max_tokens, 0, MAX_TOKENS)
        found += _between("options.max_retries", o.max_retries, 0, MAX_RETRIES)
        found += _between("options.timeout_seconds", o.timeout_seconds, 0, MAX_TIMEOUT_SECONDS)
    return found


def _chat(r: ai.ChatRequest) -> Sequence[Violation]:
    found: list[Violation] = []
    messages = r.messages
    if not messages:
        found.append(("messages", "is required"))
    if len(messages) > MAX_MESSAGES:
        found.append(("messages", f"has {len(messages)} entries; the limit is {MAX_MESSAGES}"))
    else:
        asked = False
        for i, message in enumerate(messages):
            if message.role not in ROLES:
                found.append((f"messages[{i}].role", "must be system, user or assistant"))
            asked = asked or message.role == "user"
        if messages and not asked:
            found.append(("messages", "must hold a message of the user"))
    found += check_id("session_id", r.session_id)
    found += check_id("model", r.model)
    found += _between("temperature", r.temperature, 0, 2)
    found += _between("max_tokens", r.max_tokens, 0, MAX_TOKENS)
    return found[:20]


def _search(r: rag.SearchRequest) -> Sequence[Violation]:
    found = [*_required("query", r.query)]
    if len(r.query) > MAX_QUERY:
        found.append(("query", f"has {len(r.query)} characters; the limit is {MAX_QUERY}"))
    found += _between("top_k", r.top_k, 0, MAX_TOP_K)
    if r.HasField("options"):
        found += _between("options.min_score", r.options.min_score, 0, 1)
    for i, kind in enumerate(r.content_types):
        found += check_id(f"content_types[{i}]", kind)
    return found


def _index(r: rag.IndexRequest) -> Sequence[Violation]:
    return [
        *_required("document_id", r.document_id),
        *_required("content", r.content),
        *check_id("document_id", r.document_id),
        *check_id("content_type", r.content_type),
    ]


def _delete(r: rag.DeleteRequest) -> Sequence[Violation]:
    return [*_required("document_id", r.document_id), *check_id("document_id", r.document_id)]


def _call_tool(r: tool.ToolRequest) -> Sequence[Violation]:
    return _tool_name("tool_name", r.tool_name)


def _tool_info(r: tool.GetToolInfoRequest) -> Sequence[Violation]:
    return _tool_name("tool_name", r.tool_name)


def _list_tools(r: tool.ListToolsRequest) -> Sequence[Violation]:
    return check_id("category", r.category)


def _named_call(r: control.CancelRequest | control.DescribeRequest) -> Sequence[Violation]:
    found = [*check_request_id("request_id", r.request_id)]
    if r.method not in JOBS:
        found.append(("method", f"must be one of {', '.join(JOBS)}"))
    return found


RULES: dict[type[Message], Callable[[Any], Sequence[Violation]]] = {
    ai.AgentRequest: _agent,
    ai.ChatRequest: _chat,
    ai.HealthRequest: lambda _: (),
    rag.SearchRequest: _search,
    rag.IndexRequest: _index,
    rag.DeleteRequest: _delete,
    tool.ToolRequest: _call_tool,
    tool.ListToolsRequest: _list_tools,
    tool.GetToolInfoRequest: _tool_info,
    control.CancelRequest: _named_call,
    control.DescribeRequest: _named_call,
}
"""Every request type of the table has its rule; tests/bridge/test_rules.py compares this with the table."""
