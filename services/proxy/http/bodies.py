"""Bodies that only the HTTP face has: the path names what the class's requests name themselves, and tickets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from services.proxy.models import AgentRequest, AgentType, Answer, Request, ToolRequest


class AgentTask(AgentRequest):
    """A task for the agent that the path names."""

    agent_type: AgentType | None = None  # type: ignore[assignment]  # the path has it


class ToolParameters(ToolRequest):
    """A call of the tool that the path names."""

    tool_name: str = ""


class TicketRequest(Request):
    """Asks for a ticket to one path."""

    path: Annotated[str, Field(max_length=512, pattern=r"^/[\x21\x22\x24-\x3e\x40-\x7e]*$")]
    """Where it is for, such as `/api/v1/ai/ws`: without a query."""


class Ticket(Answer):
    """Opens one path once, for who asked for it."""

    ticket: str
    expires_in: float
    """Seconds."""
    url: str
    """The path with the ticket in it."""
