"""The chat service by itself, with a model that counts how often it is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from services.chat.service import ChatService
from services.llm.model import NEVER, STOP, Delta, Prompt, Usage
from services.llm.offer import Offer

REQUEST = ai.ChatRequest(messages=[common.Message(role="user", content="写")])


class Counting:
    """Says another sentence each time that it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        self.asked += 1
        yield Delta(text=f"第{self.asked}句。")
        yield Delta(finish=STOP, usage=Usage(3, 4, estimated=False))


def call_with(notes: list[Any], said: tuple[Any, ...] = ()) -> Call:
    call = Call.of(Envelope("a" * 32, "r", Deadline.after(10)))
    call.said = said

    async def note(part: Any) -> None:
        notes.append(part)

    call.note = note
    return call


def service(model: Counting) -> ChatService:
    return ChatService(Offer({model.name: model}, model.name), None, "")  # type: ignore[arg-type]  # no sessions are used


async def test_answer_that_was_whole_when_its_worker_died_is_only_committed() -> None:
    model, notes = Counting(), list[Any]()
    first = await service(model).chat(call_with(notes), REQUEST)
    again = await service(model).chat(call_with([], tuple(notes)), REQUEST)
    assert (model.asked, again.message.content) == (1, "第1句。")
    assert first.message.content == again.message.content
    assert first.tokens_used == 7
    assert again.tokens_used > 0


async def test_answer_that_was_not_whole_goes_on() -> None:
    model, notes = Counting(), list[Any]()
    await service(model).chat(call_with(notes), REQUEST)
    again = await service(model).chat(call_with([], tuple(notes[:-1])), REQUEST)
    assert (model.asked, again.message.content) == (2, "第1句。第2句。")
