"""The chat service by itself, with a model that counts how often it is asked."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from typing import Any

import pytest

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

    def __init__(self, sentences: int = 1) -> None:
        self.asked = 0
        self._sentences = sentences

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        self.asked += 1
        for _ in range(self._sentences):
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
    model = Counting()
    said = (ai.ChatStreamChunk(delta="第1句。"), ai.ChatStreamChunk(is_final=True))
    again = await service(model).chat(call_with([], said), REQUEST)
    assert (model.asked, again.message.content) == (0, "第1句。")
    assert again.tokens_used > 0


async def test_answer_that_was_not_whole_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.chat.service.NOTE_SECONDS", 0.0)
    model, notes = Counting(), list[Any]()
    first = await service(model).chat(call_with(notes), REQUEST)
    assert (first.message.content, first.tokens_used) == ("第1句。", 7)
    again = await service(model).chat(call_with([], tuple(notes)), REQUEST)
    assert (model.asked, again.message.content) == (2, "第1句。第2句。")


async def test_notes_are_the_text_so_far_and_a_short_answer_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = list[Any]()
    await service(Counting(3)).chat(call_with(notes), REQUEST)
    assert notes == []

    ticks = itertools.count()
    monkeypatch.setattr("services.chat.service.monotonic", lambda: next(ticks) * 0.1)
    first = await service(Counting(9)).chat(call_with(notes), REQUEST)
    assert len(notes) == 3
    assert first.message.content.startswith("".join(note.delta for note in notes))
    assert not any(note.is_final for note in notes)
