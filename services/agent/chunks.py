"""Events as chunks of the contract, and chunks as events again: what a worker that takes an execution over finds in `Call.said`.

The keys are those of docs/agents.md. `seq` is the bus's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from qingyu_ai.contract import ai_agent_pb2 as ai
from services.llm.model import Usage

from .checking import By
from .events import UNSPENT, Asked, Called, Ended, Event, Outcome, Said, Spent, Started, Status, Thought

TEXT, REASONING, TOOL_START, TOOL_END = "text", "reasoning", "tool_start", "tool_end"

BREAK = "\n\n"
"""Between the texts of two steps."""


def chunk_of(event: Event, elapsed_ms: int) -> ai.AgentStreamChunk:
    """Write an event.

    Args:
        elapsed_ms: since the work began, without the time between two workers.
    """
    chunk = _chunk_of(event)
    chunk.metadata["elapsed_ms"] = str(elapsed_ms)
    return chunk


def _chunk_of(event: Event) -> ai.AgentStreamChunk:
    match event:
        case Said(text):
            return ai.AgentStreamChunk(delta=text, chunk_type=TEXT)
        case Thought(text):
            return ai.AgentStreamChunk(delta=text, chunk_type=REASONING)
        case Started(asked, spent):
            about = _about(asked) | {"parameters": asked.arguments}
            if asked.broken:
                about["broken"] = asked.broken
            return ai.AgentStreamChunk(chunk_type=TOOL_START, metadata=about | _spent(spent))
        case Ended(called, spent):
            about = _about(called.asked) | {
                "result": called.result,
                "duration_ms": str(called.duration_ms),
                "success": _flag(not called.code),
                "code": str(called.code),
            }
            if called.message:
                about["error"] = called.message
            return ai.AgentStreamChunk(chunk_type=TOOL_END, metadata=about | _spent(spent))
        case Outcome():
            return ai.AgentStreamChunk(chunk_type=TEXT, is_final=True, metadata=_outcome(event))


def _about(asked: Asked) -> dict[str, str]:
    return {"tool_name": asked.name, "call_id": asked.id, "step": str(asked.step)}


def _spent(spent: Spent) -> dict[str, str]:
    thought = spent.usage.reasoning_tokens
    return ({"tokens_reasoning": str(thought)} if thought else {}) | {
        "tokens_used": str(spent.usage.prompt_tokens + spent.usage.completion_tokens),
        "tokens_prompt": str(spent.usage.prompt_tokens),
        "tokens_completion": str(spent.usage.completion_tokens),
        "tokens_estimated": _flag(spent.usage.estimated),
        "retry_count": str(spent.retries),
    }


def _outcome(outcome: Outcome) -> dict[str, str]:
    return {
        "status": outcome.status,
        "code": str(outcome.code),
        "message": outcome.message,
        "reason": outcome.reason,
        "duration_ms": str(outcome.duration_ms),
        "tool_calls_count": str(outcome.tool_calls),
        "model": outcome.model,
        "finish_reason": outcome.finish,
        "repaired": outcome.repaired,
        "missing_tools": ",".join(outcome.missing),
        **_spent(outcome.spent),
    }


def _flag(value: bool) -> str:
    return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Step:
    """One request to the model that ended in tool calls."""

    number: int
    text: str
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Before:
    """What workers before this one have done of an execution."""

    steps: tuple[Step, ...] = ()
    called: tuple[Called, ...] = ()
    """In the order in which they ended."""
    text: str = ""
    """All of it."""
    begun: str = ""
    """The part of the text that follows the last tool: an answer that was interrupted."""
    thoughts: tuple[str, ...] = ()
    """Each as far as it went without anything else between."""
    spent: Spent = UNSPENT
    elapsed_ms: int = 0
    outcome: Outcome | None = None
    """Set if it is all done."""


def read_before(chunks: Iterable[ai.AgentStreamChunk]) -> Before:
    """Read what was said. Chunks of text may be merged otherwise than they were said."""
    steps: list[Step] = []
    called: list[Called] = []
    asked: dict[str, Asked] = {}
    text: list[str] = []
    begun: list[str] = []
    thoughts: list[str] = []
    thinking = False
    spent, elapsed_ms = UNSPENT, 0
    outcome: Outcome | None = None
    for chunk in chunks:
        facts = chunk.metadata
        elapsed_ms = int(facts.get("elapsed_ms", elapsed_ms))
        if chunk.is_final:
            outcome = _read_outcome(facts)
        elif chunk.chunk_type == REASONING:
            thoughts[len(thoughts) - thinking :] = [(thoughts[-1] if thinking else "") + chunk.delta]
        elif chunk.chunk_type == TEXT:
            text.append(chunk.delta)
            begun.append(chunk.delta)
        elif chunk.chunk_type == TOOL_START:
            spent = _read_spent(facts)
            number = int(facts["step"])
            one = Asked(number, facts["call_id"], facts["tool_name"], facts["parameters"], facts.get("broken", ""))
            asked[one.id] = one
            if steps and steps[-1].number == number:
                steps[-1] = Step(number, steps[-1].text, (*steps[-1].asked, one))
            else:
                steps.append(Step(number, _own("".join(begun)), (one,)))
                begun.clear()
        elif chunk.chunk_type == TOOL_END and facts["call_id"] in asked:
            spent = _read_spent(facts)
            called.append(
                Called(
                    asked[facts["call_id"]],
                    facts["result"],
                    int(facts["duration_ms"]),
                    int(facts["code"]),
                    facts.get("error", ""),
                )
            )
        thinking = chunk.chunk_type == REASONING
    return Before(
        tuple(steps), tuple(called), "".join(text), _own("".join(begun)), tuple(thoughts), spent, elapsed_ms, outcome
    )


def _own(text: str) -> str:
    """A step's text without the break that was put before it."""
    return text.removeprefix(BREAK)


def _read_spent(facts: Mapping[str, str]) -> Spent:
    usage = Usage(
        int(facts["tokens_prompt"]),
        int(facts["tokens_completion"]),
        estimated=facts["tokens_estimated"] == "true",
        reasoning_tokens=int(facts.get("tokens_reasoning", "0")),
    )
    return Spent(usage, int(facts["retry_count"]))


def _read_outcome(facts: Mapping[str, str]) -> Outcome:
    return Outcome(
        status=cast(Status, facts["status"]),
        code=int(facts["code"]),
        message=facts["message"],
        reason=facts["reason"],
        spent=_read_spent(facts),
        tool_calls=int(facts["tool_calls_count"]),
        duration_ms=int(facts["duration_ms"]),
        model=facts["model"],
        finish=facts["finish_reason"],
        repaired=cast(By, facts["repaired"]),
        missing=tuple(filter(None, facts["missing_tools"].split(","))),
    )
