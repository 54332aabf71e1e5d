"""ExecuteAgent and ExecuteAgentStream: from a request to a run, from its events to chunks or to an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from qingyu_ai.bus.errors import Invalid
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.routes import AGENT_TYPES
from services.llm.offer import Offer

from .chunks import Before, chunk_of, read_before
from .events import Called, Ended, Outcome
from .library import Library
from .loop import Run
from .prompting import plan
from .toolbox import Toolbox


class AgentService:
    """Runs agents.

    Args:
        offer: the models that a request may ask for.
        library: the agents.
        toolbox: the tools that there are.
    """

    def __init__(self, offer: Offer, library: Library, toolbox: Toolbox) -> None:
        self._offer = offer
        self._library = library
        self._toolbox = toolbox

    async def execute(self, call: Call, request: ai.AgentRequest) -> ai.AgentResponse:
        """Run an agent, and answer in one piece. Its chunks are noted: a worker that takes the call over goes on after them.

        Raises:
            Fault: the request asks for what is not there; the caller's deadline has come.
        """
        chunks = list(call.said)
        async with aclosing(self.execute_stream(call, request)) as stream:
            async for chunk in stream:
                chunks.append(chunk)
                await call.note(chunk)
        return response(call, read_before(chunks), reasoning=request.options.enable_reasoning)

    async def execute_stream(self, call: Call, request: ai.AgentRequest) -> AsyncGenerator[ai.AgentStreamChunk, None]:
        """Run an agent, and say all as it happens. Exactly one chunk is final, and it is the last.

        What a worker before this one had said is not said again, and its finished tool calls are not made again.

        Raises:
            Fault: the request asks for what is not there; the caller's deadline has come.
        """
        before = read_before(call.said)
        if before.outcome is not None:
            trail(call, before.outcome)
            return
        agent = self._library.find(request.agent_type)
        if agent is None:
            raise Invalid(("agent_type", f"must be one of {', '.join(AGENT_TYPES)}"))
        model = self._offer.find(request.options.model)
        await self._toolbox.settle(request.tools)
        task = plan(agent, request, self._toolbox)
        run = Run(task, model, self._offer.new_gate, self._toolbox, call, before)
        async with aclosing(run.events()) as events:
            async for event in events:
                if isinstance(event, Outcome):
                    trail(call, event)
                elif isinstance(event, Ended):
                    call.on_tool(event.called.asked.name, event.called.duration_ms / 1000, event.called.code)
                yield chunk_of(event, run.elapsed_ms)


def trail(call: Call, outcome: Outcome) -> None:
    """Leave in the trailing metadata what Chat leaves there, too."""
    usage = outcome.spent.usage
    call.trailers["x-model"] = outcome.model
    call.trailers["x-finish-reason"] = outcome.finish
    call.trailers["x-usage-prompt"] = str(usage.prompt_tokens)
    call.trailers["x-usage-completion"] = str(usage.completion_tokens)
    call.trailers["x-usage-reasoning"] = str(usage.reasoning_tokens)
    call.trailers["x-usage-estimated"] = "true" if usage.estimated else "false"
    call.trailers["x-agent-status"] = outcome.status


def response(call: Call, said: Before, *, reasoning: bool) -> ai.AgentResponse:
    """The answer in one piece that a whole stream comes to."""
    outcome = said.outcome
    assert outcome is not None, "a stream ends with its outcome"
    usage = outcome.spent.usage
    return ai.AgentResponse(
        output=said.text,
        tool_calls=tool_calls(said),
        status=outcome.status,
        reasoning=said.thoughts if reasoning else (),
        response_status=common.Status(code=outcome.code, message=outcome.message, details=outcome.reason),
        metadata=common.Metadata(
            request_id=call.request_id,
            user_id=call.user,
            project_id=call.project,
            extra={
                "model": outcome.model,
                "finish_reason": outcome.finish,
                "tokens_prompt": str(usage.prompt_tokens),
                "tokens_completion": str(usage.completion_tokens),
                "tokens_estimated": "true" if usage.estimated else "false",
                "repaired": outcome.repaired,
                "missing_tools": ",".join(outcome.missing),
            },
        ),
        stats=ai.AgentStats(
            tokens_used=usage.prompt_tokens + usage.completion_tokens,
            duration_ms=outcome.duration_ms,
            tool_calls_count=outcome.tool_calls,
            retry_count=outcome.spent.retries,
        ),
    )


def tool_calls(said: Before) -> Iterable[common.ToolCall]:
    """The calls, in the order in which the model made them."""
    results: dict[str, Called] = {called.asked.id: called for called in said.called}
    for asked in (asked for step in said.steps for asked in step.asked):
        called = results.get(asked.id)
        if called is not None:
            yield common.ToolCall(
                tool_name=asked.name,
                parameters=asked.arguments,
                result=called.result,
                duration_ms=called.duration_ms,
                status=common.Status(
                    code=called.code, message=called.message if called.code else "ok", details=asked.broken
                ),
            )
