"""Chat and ChatStream: from a request to a prompt, from the model's deltas to an answer and a turn to remember."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from services.llm.faults import UpstreamFault
from services.llm.gate import guarded
from services.llm.model import CUT, STOP, Delta, Prompt
from services.llm.model import Turn as PromptTurn
from services.llm.offer import Offer
from services.llm.tokens import estimated

from .session import Message, Sessions, Turn

SYSTEM = "system"

NOTE_SECONDS = 0.25
"""Between two notes of a unary answer, which nobody reads before its end: a frame for each delta would cost more than the rest of
a short call. So much is what a worker that takes over may have to ask for again."""


class ChatService:
    """Answers chats.

    Args:
        offer: the models that a request may ask for.
        sessions: the memory.
        system_prompt: of this deployment; empty: none.
    """

    def __init__(self, offer: Offer, sessions: Sessions, system_prompt: str) -> None:
        self._offer = offer
        self._sessions = sessions
        self._system_prompt = system_prompt

    async def chat(self, call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        """Answer in one piece. An answer that its model could not finish is given as far as it goes, and says so.

        The text is noted while it comes: a worker that takes the call over goes on with it, and asks no model for it again.
        """
        begun = "".join([chunk.delta for chunk in call.said])
        complete = any(chunk.is_final for chunk in call.said)
        said, noted = [begun], 1
        noted_at = monotonic()
        status = common.Status(code=0, message="ok")
        try:
            async with aclosing(self._talk(call, request, begun, complete=complete)) as deltas:
                async for delta in deltas:
                    if delta.text:
                        said.append(delta.text)
                        if monotonic() - noted_at >= NOTE_SECONDS:
                            await call.note(ai.ChatStreamChunk(delta="".join(said[noted:])))
                            noted, noted_at = len(said), monotonic()
        except UpstreamFault as e:
            if not any(said):
                raise
            status = common.Status(code=int(e.code), message=e.message)
            call.trailers.setdefault("x-model", e.facts["model"])
            call.trailers["x-finish-reason"] = CUT
        answer = common.Message(
            role="assistant",
            content="".join(said),
            metadata={
                "model": call.trailers.get("x-model", ""),
                "finish_reason": call.trailers.get("x-finish-reason", ""),
            },
        )
        tokens = sum(int(call.trailers.get(name, "0")) for name in ("x-usage-prompt", "x-usage-completion"))
        return ai.ChatResponse(message=answer, tokens_used=tokens, status=status)

    async def chat_stream(self, call: Call, request: ai.ChatRequest) -> AsyncGenerator[ai.ChatStreamChunk, None]:
        """Answer as the model speaks. Exactly one chunk is final, and it is the last.

        What a worker before this one had said is not said again: the model goes on with it.
        """
        begun = "".join([chunk.delta for chunk in call.said])
        complete = any(chunk.is_final for chunk in call.said)
        async with aclosing(self._talk(call, request, begun, complete=complete)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield ai.ChatStreamChunk(delta=delta.text)
        if not complete:
            yield ai.ChatStreamChunk(is_final=True)

    async def follow_up(self, call: str, left: bytes, order: int) -> None:
        """After the commit: store the turn, and let the session's next call go."""
        await self._sessions.store(call, Turn.model_validate_json(left), order)

    async def _talk(
        self, call: Call, request: ai.ChatRequest, begun: str = "", *, complete: bool = False
    ) -> AsyncGenerator[Delta, None]:
        """Have the model answer.

        Args:
            begun: the answer as far as another worker had said it.
            complete: it is all of it; only what comes after the answer is left to do.
        """
        model = self._offer.find(request.model)
        asked = [Message(role=m.role, content=m.content) for m in request.messages if m.role != SYSTEM]  # type: ignore[arg-type]
        history: list[Message] = []
        turn = Turn(user=call.user, session=request.session_id, replace=len(asked) > 1, messages=[])
        if turn.session:
            history = await self._sessions.take_turn(
                call.user, turn.session, call.id, max((len(m.content.encode()) for m in asked), default=0)
            )
            # Whatever happens now, the session's next call must be let go.
            call.follow_up = turn.model_dump_json().encode()
        said = [begun] if begun else []
        finished = complete
        try:
            prompt = self._prompt(request, asked if turn.replace else [*history, *asked], begun)
            if complete:
                self._trail(call, model.name, Delta(finish=STOP, usage=estimated(prompt, begun)))
                return
            async with aclosing(guarded(model.stream(prompt, call.deadline), prompt, self._offer.new_gate)) as deltas:
                async for delta in deltas:
                    said.append(delta.text)
                    if delta.finish:
                        finished = delta.finish == STOP
                        self._trail(call, delta.model or model.name, delta)
                    yield delta
        finally:
            if turn.session and any(said):
                answer = Message(role="assistant", content="".join(said), cut=not finished)
                turn.messages = self._sessions.keepable([*asked, answer])
                call.follow_up = turn.model_dump_json().encode()

    def _prompt(self, request: ai.ChatRequest, messages: list[Message], begun: str) -> Prompt:
        system = [self._system_prompt] if self._system_prompt else []
        system += [m.content for m in request.messages if m.role == SYSTEM]
        system += [f"{name}：\n{text}" for name, text in sorted(request.context.items())]
        turns = [PromptTurn("system", text) for text in system]
        turns += [PromptTurn(m.role, m.content) for m in messages]
        turns += [PromptTurn("assistant", begun)] if begun else []
        # proto3 cannot tell 0 from absent; both mean the model's own default.
        return Prompt(tuple(turns), max_tokens=request.max_tokens, temperature=request.temperature or None)

    @staticmethod
    def _trail(call: Call, model: str, last: Delta) -> None:
        call.trailers["x-model"] = model
        call.trailers["x-finish-reason"] = last.finish
        if last.usage is not None:
            call.trailers["x-usage-prompt"] = str(last.usage.prompt_tokens)
            call.trailers["x-usage-completion"] = str(last.usage.completion_tokens)
            call.trailers["x-usage-reasoning"] = str(last.usage.reasoning_tokens)
            call.trailers["x-usage-estimated"] = "true" if last.usage.estimated else "false"
