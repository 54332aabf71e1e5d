"""Bodies that only the HTTP face has: the path names what the class's requests name themselves, and tickets."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from services.proxy.models import AgentRequest, AgentType, Answer, Request, ToolRequest


class AgentTask(AgentRequest):
    """A task for the agent that the path names."""

    agent_type: AgentType | None = None  # type: ignore[assignment]  # the path has it


class ToolParameters(ToolRequest):
    """A call of the tool that the path names."""

    tool_name: str = ""


PATH = r"^/([\x21\x22\x24-\x2e\x30-\x3e\x40-\x5b\x5d-\x7e][\x21\x22\x24-\x3e\x40-\x7e]*)?$"
"""A path without a query, and none that a browser would read as another server's (`//host`, and `/\\host`)."""


def _checked_path(path: str) -> str:
    if not re.fullmatch(PATH, path) or path.endswith("\n"):
        raise ValueError("must be a path of this proxy, such as /api/v1/ai/ws, without a query")
    return path


class TicketRequest(Request):
    """Asks for a ticket to one path."""

    path: Annotated[str, Field(max_length=512, json_schema_extra={"pattern": PATH}), AfterValidator(_checked_path)]
    """Where it is for, such as `/api/v1/ai/ws`: without a query."""


class Ticket(Answer):
    """Opens one path once, for who asked for it."""

    ticket: str
    expires_in: float
    """Seconds."""
    url: str
    """The path with the ticket in it."""
