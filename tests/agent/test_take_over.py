"""Take-over: whatever a worker had said when it was lost, the next one comes to the same text, and calls no tool twice."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from qingyu_ai.bus.chunks import AGENT, merge
from qingyu_ai.bus.errors import Code
from qingyu_ai.contract import ai_agent_pb2 as ai
from services.agent.toolbox import ToolResult
from services.llm.model import Prompt

from .scripted import Answer, Box, Lab, ScriptedModel, calls, new_call, request, says, text_of

STEPS = ("先数字数。", "再查重复。", "夜雨落在瓦上，他推开门，看见了那盏灯。")

TOOLS = ("text_statistics", "search_knowledge")

Chunks = Sequence[ai.AgentStreamChunk]


def novelist(prompt: Prompt, number: int) -> Answer:
    """A model that knows from its prompt alone how far it is, and goes on with an answer that was begun."""
    begun = prompt.turns[-1].content if prompt.turns[-1].role == "assistant" else ""
    done = sum(turn.role == "tool" for turn in prompt.turns)
    text = STEPS[done].removeprefix(begun)
    if done == len(TOOLS):
        return says(text, reasoning="" if begun else "想好了。")
    return calls((TOOLS[done], {"text": STEPS[done]}), text=text)


def box(counted: Counter[str], *, repeatable: bool) -> Box:
    made = Box()
    for name in TOOLS:

        async def function(arguments: dict[str, Any], name: str = name) -> ToolResult:
            counted[name] += 1
            return ToolResult(json.dumps({"zi": len(arguments["text"])}))

        made.with_tool(name, function, repeatable=repeatable)
    return made


ASKED = request(tools=TOOLS, options={"enable_reasoning": True})


async def whole(counted: Counter[str], *, repeatable: bool = True) -> list[ai.AgentStreamChunk]:
    return await Lab(ScriptedModel(script=novelist), box(counted, repeatable=repeatable)).stream(ASKED)


CHUNKS = 13
"""Of the whole run."""

BORDERS = range(CHUNKS + 1)


def calls_in(chunks: Chunks) -> list[tuple[str, str]]:
    return [
        (c.chunk_type, c.metadata["call_id"])
        for c in chunks
        if c.chunk_type in ("tool_start", "tool_end") and not c.is_final
    ]


async def test_the_run_has_as_many_chunks_as_there_are_borders() -> None:
    assert len(await whole(Counter())) == CHUNKS


@pytest.mark.parametrize("repeatable", [True, False], ids=["repeatable", "once"])
@pytest.mark.parametrize("border", BORDERS)
async def test_from_every_border_the_text_is_the_same_and_no_tool_is_called_twice(
    border: int, repeatable: bool
) -> None:
    first: Counter[str] = Counter()
    chunks = await whole(first, repeatable=repeatable)
    said = chunks[:border]
    ended = {c.metadata["tool_name"] for c in said if c.chunk_type == "tool_end"}
    started = {c.metadata["tool_name"] for c in said if c.chunk_type == "tool_start"}
    counted: Counter[str] = Counter(ended)  # what the lost worker had finished
    rest = await Lab(ScriptedModel(script=novelist), box(counted, repeatable=repeatable)).stream(
        ASKED, new_call(said=said)
    )
    together = [*said, *rest]
    assert text_of(together) == text_of(chunks) == "\n\n".join(STEPS)
    assert [c.is_final for c in together] == [False] * (len(together) - 1) + [True]
    assert together[-1].metadata["status"] == "completed"
    assert calls_in(together) == calls_in(chunks)  # each start once, each end once, in their order
    interrupted = started - ended
    for name in TOOLS:
        assert counted[name] == (0 if name in interrupted and not repeatable else 1)
    if interrupted and not repeatable:
        [end] = [c for c in rest if c.chunk_type == "tool_end" and c.metadata["tool_name"] in interrupted]
        assert end.metadata["code"] == str(int(Code.UNKNOWN))
        assert "不知道" in end.metadata["error"]


@pytest.mark.parametrize("border", BORDERS)
async def test_merged_chunks_are_taken_over_alike(border: int) -> None:
    chunks = await whole(Counter())
    said = chunks[:border]
    encoded, _ = merge(AGENT, [(chunk, 1) for chunk in said])
    merged = [ai.AgentStreamChunk.FromString(chunk) for chunk in encoded]
    rest = await Lab(ScriptedModel(script=novelist), box(Counter(), repeatable=True)).stream(
        ASKED, new_call(said=merged)
    )
    assert text_of([*merged, *rest]) == text_of(chunks)


@pytest.mark.parametrize("border", BORDERS)
async def test_the_answer_in_one_piece_is_taken_over_too(border: int) -> None:
    chunks = await whole(Counter())
    answer = await Lab(ScriptedModel(script=novelist), box(Counter(), repeatable=True)).ask(
        ASKED, new_call(said=chunks[:border])
    )
    assert (answer.status, answer.output) == ("completed", "\n\n".join(STEPS))
    assert "".join(answer.reasoning) in ("想好了。", "想好了。想好了。")
    assert [c.tool_name for c in answer.tool_calls] == list(TOOLS)
    assert answer.stats.tool_calls_count == 2


async def test_notes_are_the_chunks_of_the_stream() -> None:
    noted: list[ai.AgentStreamChunk] = []

    async def note(part: ai.AgentStreamChunk) -> None:
        noted.append(part)

    call = new_call()
    call.note = note
    answer = await Lab(ScriptedModel(script=novelist), box(Counter(), repeatable=True)).ask(ASKED, call)
    assert text_of(noted) == answer.output
    assert noted[-1].is_final


async def test_tokens_survive_a_take_over_as_far_as_they_are_known() -> None:
    chunks = await whole(Counter())
    after_tools = next(i for i, n in zip(itertools.count(), chunks) if n.metadata.get("step") == "2") + 2
    rest = await Lab(ScriptedModel(script=novelist), box(Counter(), repeatable=True)).stream(
        ASKED, new_call(said=chunks[:after_tools])
    )
    assert rest[-1].metadata["tokens_used"] == "330"
    assert rest[-1].metadata["tokens_estimated"] == "false"
    in_text = await Lab(ScriptedModel(script=novelist), box(Counter(), repeatable=True)).stream(
        ASKED, new_call(said=chunks[:-3])
    )
    assert int(in_text[-1].metadata["tokens_used"]) > 330  # the lost request is estimated
    assert in_text[-1].metadata["tokens_estimated"] == "true"


async def test_a_finished_run_is_only_committed() -> None:
    chunks = await whole(Counter())
    model = ScriptedModel([AssertionError("nobody asks again")])
    call = new_call(said=chunks)
    assert await Lab(model).stream(ASKED, call) == []
    assert call.trailers["x-model"] == "scripted"
    answer = await Lab(model).ask(ASKED, new_call(said=chunks))
    assert (answer.output, answer.status) == ("\n\n".join(STEPS), "completed")
    assert not model.prompts


async def test_two_calls_at_once_of_which_one_had_ended() -> None:
    counted: Counter[str] = Counter()

    def script(prompt: Prompt, number: int) -> Answer:
        if any(turn.role == "tool" for turn in prompt.turns):
            return says("好。")
        return calls((TOOLS[0], {"text": "一"}), (TOOLS[1], {"text": "二二"}))

    model = ScriptedModel(script=script)
    chunks = await Lab(model, box(Counter(), repeatable=True)).stream(ASKED)
    assert [c.chunk_type for c in chunks[:4]] == ["tool_start", "tool_start", "tool_end", "tool_end"]
    rest = await Lab(model, box(counted, repeatable=True)).stream(ASKED, new_call(said=chunks[:3]))
    assert counted == {TOOLS[1]: 1}
    assert text_of(rest) == "好。"
    [assistant] = [turn for turn in model.prompts[-1].turns if turn.role == "assistant"]
    assert [call.name for call in assistant.tool_calls] == list(TOOLS)
    results = [json.loads(turn.content) for turn in model.prompts[-1].turns if turn.role == "tool"]
    assert results == [{"zi": 1}, {"zi": 2}]


def at_once(prompt: Prompt, number: int) -> Answer:
    """A model that calls what it has no result of, all at once."""
    have = [turn.content for turn in prompt.turns if turn.role == "tool"]
    missing = [(name, {"text": "字" * size}) for size, name in enumerate(TOOLS, 1) if not _has(have, size)]
    begun = prompt.turns[-1].content if prompt.turns[-1].role == "assistant" else ""
    return calls(*missing) if missing and prompt.tools else says("都查过了，写。".removeprefix(begun))


def _has(results: Sequence[str], size: int) -> bool:
    return any(result.startswith("It is not known") or json.loads(result)["zi"] == size for result in results)


@pytest.mark.parametrize("border", range(9))
async def test_calls_at_once_from_every_border(border: int) -> None:
    chunks = await Lab(ScriptedModel(script=at_once), box(Counter(), repeatable=True)).stream(ASKED)
    assert len(chunks) == 7
    said = chunks[:border]
    counted: Counter[str] = Counter({c.metadata["tool_name"] for c in said if c.chunk_type == "tool_end"})
    rest = await Lab(ScriptedModel(script=at_once), box(counted, repeatable=True)).stream(ASKED, new_call(said=said))
    together = [*said, *rest]
    assert text_of(together) == "都查过了，写。"
    assert counted == Counter(TOOLS)
    kinds = Counter(kind for kind, _ in calls_in(together))
    assert kinds == {"tool_start": 2, "tool_end": 2}
    assert together[-1].metadata["tool_calls_count"] == "2"


async def test_the_time_of_the_worker_before_counts() -> None:
    said = (await Lab(ScriptedModel(says("雨停了。"))).stream(request()))[:1]
    said[0].metadata["elapsed_ms"] = "59500"
    model = ScriptedModel([30.0])
    chunks = await Lab(model).stream(request(options={"timeout_seconds": 60}), new_call(said=said))
    assert chunks[-1].metadata["status"] == "timeout"
    assert 60_000 <= int(chunks[-1].metadata["duration_ms"]) < 62_000


async def test_an_answer_that_had_all_its_tokens_is_complete() -> None:
    said = (await Lab(ScriptedModel(says("雨停了，他推开门，看见那盏灯。" * 3))).stream(request()))[:-1]
    model = ScriptedModel([AssertionError("nobody asks again")])
    chunks = await Lab(model).stream(request(options={"max_tokens": 20}), new_call(said=said))
    assert (len(chunks), chunks[0].metadata["status"]) == (1, "completed")
    assert chunks[0].metadata["finish_reason"] == "length"


async def test_a_model_that_has_nothing_to_add_completes_the_text() -> None:
    said = (await Lab(ScriptedModel(says("雨停了。"))).stream(request()))[:-1]
    chunks = await Lab(ScriptedModel(says(""))).stream(request(), new_call(said=said))
    assert (text_of(chunks), chunks[-1].metadata["status"]) == ("", "completed")


REVIEW = {"score": 80, "verdict": "小改", "summary": "稳", "strengths": [], "issues": []}


async def test_json_that_had_been_shown_is_complete_and_json_that_had_not_is_asked_for_again() -> None:
    asked = request("review", context={"format": "json"})
    chunks = await Lab(ScriptedModel(says(json.dumps(REVIEW)))).stream(asked)
    assert len(chunks) == 2
    none = ScriptedModel([AssertionError("nobody asks again")])
    rest = await Lab(none).stream(asked, new_call(said=chunks[:1]))
    assert (len(rest), rest[0].metadata["status"]) == (1, "completed")
    again = ScriptedModel(says(json.dumps(REVIEW)))
    assert text_of(await Lab(again).stream(asked, new_call())) == chunks[0].delta


async def test_json_that_had_been_shown_and_does_not_hold_is_not_shown_again() -> None:
    asked = request("review", context={"format": "json"})
    chunks = await Lab(ScriptedModel(says("没有 JSON"))).stream(asked)
    assert [chunk.delta for chunk in chunks] == ["没有 JSON", ""]
    none = ScriptedModel([AssertionError("nobody asks again")])
    [last] = await Lab(none).stream(asked, new_call(said=chunks[:1]))
    assert (last.is_final, last.metadata["reason"]) == (True, "AGENT_SHAPE_NOT_HELD")


async def test_a_call_with_broken_arguments_is_refused_again_and_not_of_unknown_outcome() -> None:
    model = ScriptedModel(calls((TOOLS[0], '{"text": ')), says("好。"))
    chunks = await Lab(model, box(Counter(), repeatable=False)).stream(ASKED)
    rest = await Lab(model, box(Counter(), repeatable=False)).stream(ASKED, new_call(said=chunks[:1]))
    assert rest[0].metadata["code"] == str(int(Code.INVALID_ARGUMENT))


async def test_results_of_the_worker_before_count_in_the_bound_of_all() -> None:
    """2 MiB together, however many workers it took."""

    async def large(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(json.dumps("x" * 500_000))

    asked = request(tools=["large"])
    one = Box().with_tool("large", large)
    first = await Lab(ScriptedModel(calls(*[("large", {})] * 3), says("好")), one).stream(asked)
    said = first[: 1 + max(i for i, chunk in enumerate(first) if chunk.chunk_type == "tool_end")]
    rest = await Lab(ScriptedModel(calls(*[("large", {})] * 2), says("好")), one).stream(asked, new_call(said=said))
    assert [c.metadata["code"] for c in said if c.chunk_type == "tool_end"] == ["0"] * 3
    assert sorted(c.metadata["code"] for c in rest if c.chunk_type == "tool_end") == [
        "0",
        str(int(Code.RESOURCE_EXHAUSTED)),
    ]
