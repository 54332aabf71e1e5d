"""Answers in JSON: what holds, what is put right by rule or by the model, what fails."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.checking import check
from services.agent.lenient import Unreadable, read
from services.agent.prompting import repair
from services.agent.shapes import SHAPES, Shape
from services.llm.faults import Upstream, UpstreamFault
from services.llm.model import LENGTH, Delta

from .malformed import CASES, SAMPLES, Case, answer
from .scripted import LIBRARY, Box, Lab, ScriptedModel, calls, kinds, request, says, text_of

AGENTS = sorted(SAMPLES)


def shape_of(agent: str) -> type[Shape]:
    found = LIBRARY.find(agent)
    assert found is not None
    assert found.shape is not None
    return found.shape


def same(agent: str, output: str) -> bool:
    """Whether an answer holds, and has everything that was not spoilt."""
    return shape_of(agent).model_validate_json(output).model_dump_json() == output


@pytest.mark.parametrize("agent", AGENTS)
async def test_an_answer_that_holds_goes_through(agent: str) -> None:
    sample = json.dumps(SAMPLES[agent], ensure_ascii=False)
    model = ScriptedModel(says(sample))
    result = await Lab(model).ask(request(agent, context={"format": "json"}))
    assert (result.status, json.loads(result.output)) == ("completed", SAMPLES[agent])
    assert result.metadata.extra["repaired"] == ""
    assert "```json" in model.prompts[0].turns[0].content
    assert "format" not in model.prompts[0].turns[1].content


def test_there_are_twenty_ways() -> None:
    assert len(CASES) == 20
    assert sum(case.becomes == "rule" for case in CASES) == 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("agent", AGENTS)
async def test_malformed_answer(agent: str, case: Case) -> None:
    wrong, right = answer(agent, case), json.dumps(SAMPLES[agent], ensure_ascii=False)
    model = ScriptedModel(says(wrong, size=7), says(wrong if case.becomes == "failed" else right, size=7))
    chunks = await Lab(model).stream(request(agent, context={"format": "json"}))
    assert len(chunks) == 2  # one text, whole, whatever was asked in between
    facts = chunks[-1].metadata
    if case.becomes == "rule":
        assert (facts["status"], facts["repaired"], len(model.prompts)) == ("completed", "rule", 1)
        assert same(agent, chunks[0].delta)
        return
    assert len(model.prompts) == 2
    raw, told = model.prompts[1].turns[-2:]
    assert (raw.role, raw.content, told.role) == ("assistant", wrong, "user")
    assert re.search(case.told, told.content), told.content
    assert not model.prompts[1].tools
    assert facts["tokens_used"] == "220"
    if case.becomes == "turn":
        assert (facts["status"], facts["repaired"]) == ("completed", "turn")
        assert json.loads(chunks[0].delta) == SAMPLES[agent]
    else:
        assert (facts["status"], facts["reason"]) == ("failed", "AGENT_SHAPE_NOT_HELD")
        assert facts["finish_reason"] == "stop"
        assert chunks[0].delta == wrong


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("case", [c for c in CASES if c.becomes == "rule"], ids=lambda case: case.name)
def test_what_a_rule_puts_right_keeps_its_content(agent: str, case: Case) -> None:
    checked = check(shape_of(agent), answer(agent, case))
    found, sample = json.loads(checked.text), SAMPLES[agent]
    spoilt = {"quotes inside a text", "line breaks inside a text", "numbers as texts in a bare fence"}
    if case.name not in spoilt:
        assert found == sample
    else:
        flat = json.dumps(found, ensure_ascii=False)
        assert {"quotes inside a text": '\\"', "line breaks inside a text": "\\n\\t第二行"}.get(case.name, "") in flat


async def test_words_before_a_tool_call_are_not_part_of_the_json() -> None:
    model = ScriptedModel(
        calls(("text_statistics", {"text": "一"}), text="我先数一下。"), says(json.dumps(SAMPLES["review"]))
    )
    asked = request("review", context={"format": "json"}, tools=["text_statistics"])
    chunks = await Lab(model, Box().with_tool("text_statistics")).stream(asked)
    assert kinds(chunks) == ["tool_start", "tool_end", "text", "final"]
    assert json.loads(text_of(chunks)) == SAMPLES["review"]


async def test_a_repair_is_made_without_tools_and_with_all_tokens() -> None:
    model = ScriptedModel(says("没有 JSON"), says(json.dumps(SAMPLES["review"])))
    asked = request("review", context={"format": "json"}, tools=["text_statistics"])
    chunks = await Lab(model, Box().with_tool("text_statistics")).stream(asked)
    assert json.loads(text_of(chunks)) == SAMPLES["review"]
    assert [(len(p.tools), p.max_tokens) for p in model.prompts] == [(1, 6144), (0, 6144)]


async def test_a_failure_in_the_middle_keeps_the_raw_text() -> None:
    cut = UpstreamFault(Upstream.STREAM_CUT, "scripted")
    model = ScriptedModel([Delta('{"score": 7'), cut])
    chunks = await Lab(model).stream(request("review", context={"format": "json"}, options={"max_retries": 1}))
    assert text_of(chunks) == '{"score": 7'
    assert (chunks[-1].metadata["status"], chunks[-1].metadata["retry_count"]) == ("failed", "1")


async def test_a_request_just_below_the_bound_of_tokens_may_be_repaired() -> None:
    model = ScriptedModel(says("没有 JSON" * 20_000), says(json.dumps(SAMPLES["review"])))
    manuscript = "雨" * 490_000
    chunks = await Lab(model).stream(request("review", context={"format": "json", "稿": manuscript}))
    assert (chunks[-1].metadata["status"], chunks[-1].metadata["repaired"]) == ("completed", "turn")


async def test_a_failed_repair_keeps_the_answer_before() -> None:
    refused = UpstreamFault(Upstream.KEY_REFUSED, "scripted")
    model = ScriptedModel(says("没有 JSON"), [refused])
    chunks = await Lab(model).stream(request("review", context={"format": "json"}))
    assert (text_of(chunks), chunks[-1].metadata["reason"]) == ("没有 JSON", "MODEL_KEY_REFUSED")


async def test_a_timeout_keeps_the_raw_text() -> None:
    model = ScriptedModel([Delta('{"score": 7'), 30.0])
    asked = request("review", context={"format": "json"}, options={"timeout_seconds": 1})
    chunks = await Lab(model).stream(asked)
    assert (text_of(chunks), chunks[-1].metadata["status"]) == ('{"score": 7', "timeout")


async def test_a_failure_after_a_cut_at_the_servers_limit_keeps_both_parts() -> None:
    refused = UpstreamFault(Upstream.KEY_REFUSED, "scripted")
    model = ScriptedModel(says('{"score": 7', finish=LENGTH), [Delta('0, "verdict": "小'), refused])
    asked = request("review", context={"format": "json"}, tools=["text_statistics"])
    chunks = await Lab(model, Box().with_tool("text_statistics")).stream(asked)
    assert text_of(chunks) == '{"score": 70, "verdict": "小'
    assert (chunks[-1].metadata["status"], chunks[-1].metadata["reason"]) == ("failed", "MODEL_KEY_REFUSED")


async def test_another_format_is_a_text_like_others() -> None:
    model = ScriptedModel(says("好"))
    result = await Lab(model).ask(request("review", context={"format": "分三段写"}))
    assert result.output == "好"
    assert "分三段写" in model.prompts[0].turns[1].content


def test_the_repair_says_what_is_wrong() -> None:
    assert "score：缺少这个字段" in repair(check(SHAPES["review"], '{"verdict": "小改"}').problem)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("{a: 1, b: [1, 2,],}", {"a": 1, "b": [1, 2]}),
        ('{"a": "他说"好"，走了", "b": "x"}', {"a": '他说"好"，走了', "b": "x"}),
        ('{"a": "\\ud83d\\ude00\\u4e2d"}…', {"a": "😀中"}),
        ('{"a": "\\ud83d"} ', {"a": "\ufffd"}),
        ('{"a": 007, "b": -0.5}。', {"a": 7, "b": -0.5}),
        ('{"a": １２, "b": -０.５}', {"a": 12, "b": -0.5}),
        ('{"a": "http://x/y"}// 完', {"a": "http://x/y"}),
        ('{"a": "一"\n "b": "二"}', {"a": "一", "b": "二"}),
        ("｛“甲”：“乙”，“丙”：［1，2］｝", {"甲": "乙", "丙": [1, 2]}),
        ('{"a": "“内”引"}。', {"a": "“内”引"}),
    ],
)
def test_lenient_reading(written: str, value: Any) -> None:
    found, _ = next(read(written))
    assert json.loads(json.dumps(found)) == value or found == value


@pytest.mark.parametrize(
    "written",
    [
        "",
        "没有",
        "{",
        '{"a"',
        '{"a": ',
        '{"a": "一',
        "[1, 2",
        "{" * 100_000,
        '{"a":' * 10_000,
        '{"a": NaN}',
        '{"a": ' + "9" * 5000 + "}",
    ],
)
def test_what_cannot_be_read(written: str) -> None:
    with pytest.raises(Unreadable):
        next(read(written))


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_a_fence_without_an_end_of_its_line_takes_no_longer(blank: str) -> None:
    began = time.process_time()
    with pytest.raises(Unreadable):
        list(read("```" + blank * 60_000))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("piece", ['"//', '"/*', '", "', "{", '{"a":"', "```\n{", '"，', "[", "\\u12"])
def test_reading_takes_time_in_proportion(piece: str) -> None:
    written = '{"a": "' + piece * (60_000 // len(piece))
    began = time.process_time()
    with contextlib.suppress(Unreadable):
        list(read(written))
    assert time.process_time() - began < 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_plain_json_is_read_as_json_reads_it(value: dict[str, Any]) -> None:
    assert next(read(json.dumps(value, ensure_ascii=False))) == (value, True)
    assert next(read(json.dumps(value, ensure_ascii=True) + "\n"))[0] == value


@given(st.text(alphabet='{}[]",:“”，：｛｝ \n\\/*ab1１.-e中', max_size=60))
def test_nothing_breaks_the_reader(written: str) -> None:
    with contextlib.suppress(Unreadable):
        list(read(written))
