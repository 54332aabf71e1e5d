"""A writing agent that calls tools: a stream whose chunks have types, and a last one that says how it ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from calling import USER, Broken, heading, metadata, new_request_id, painted

from qingyu_ai.contract import ai_agent_pb2
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc

EARLIER = """\
沈砚没有对任何人说起昨夜的事。许七来敲门的时候，他刚把那盏青铜小灯藏进灶膛，手上还沾着灰。许七站在门外问：“你师父的船呢？”\
沈砚说：“卖了。”许七笑了一声，袖口滑出半块旧船牌：“卖给谁？渡口这三年，没有一条船换过主人。”\
沈砚看着那半块船牌，没有回答。许七也不催他，只把船牌翻过来搁在门槛上。牌子背面刻着一盏灯。

"""
"""What stands before the tour's passage: somebody else comes in, so that there is more to find than one name."""

TASK = "先用工具数出前文的字数、认出其中的人物，再接着往下写两三句，保持语气。"

AGENT_SECONDS = 100
"""That the agent gives itself. When they are over it says so in its last chunk, with what it has."""

CALL_SECONDS = 120

MOST_TOKENS = 600

REFUSED = "MODEL_REFUSED_REQUEST"
"""What a server says whose model takes no tools: Ollama does, and vLLM without --enable-auto-tool-choice."""

SHOWN_TEXT = 18
SHOWN_ENTRIES = (4, 3, 2)
"""Characters of a text that are printed, and entries of a list or an object, by how deep it lies."""


@dataclass(frozen=True)
class Work:
    """What an agent is asked to do."""

    task: str
    without_tools: str
    """The task for a model whose server takes no tools."""
    context: dict[str, str]
    tools: tuple[str, ...]
    project: str = ""
    """Whose documents `search_knowledge` looks at; empty: all of the user's."""


@dataclass
class Watched:
    """What was seen of a stream so far."""

    kind: str = ""
    """Of the last chunk."""
    text: str = ""
    open: dict[str, str] = field(default_factory=dict)
    """Tools that run, by the id of their call."""
    read: int = 0
    """The number to resume from, should the connection be lost: `x-resume-from` in the metadata."""


def write(stub: ai_agent_pb2_grpc.AIAgentServiceStub, passage: str) -> None:
    """Have an agent go on with a passage, and print what it does while it does it."""
    heading("五、会用工具的写作智能体", "ExecuteAgentStream, agent_type creative")
    without = TASK[TASK.index("接着") :]
    run(stub, Work(TASK, without, {"前文": EARLIER + passage}, ("text_statistics", "character_names")))


def run(stub: ai_agent_pb2_grpc.AIAgentServiceStub, work: Work) -> None:
    """Have an agent do something, if need be without tools, and print what it does while it does it."""
    print(f"任务 · task: {work.task}\n工具 · tools: {', '.join(work.tools)}\n")
    end = execute(stub, work)
    if end["reason"] == REFUSED and not int(end["tool_calls_count"]):
        print("  这个模型的服务不接受工具，不带工具再问一次 · this model's server takes no tools; again without any\n")
        end = execute(stub, replace(work, task=work.without_tools, tools=()))
    elif not int(end["tool_calls_count"]):
        print("  模型没有调用工具，直接作答 · the model called no tool; one without function calling never does")
    if end["status"] != "completed":
        raise Broken(f"智能体没有完成 · the agent ended {end['status']} ({end['reason']}): {end['message']}")


def execute(stub: ai_agent_pb2_grpc.AIAgentServiceStub, work: Work) -> dict[str, str]:
    """Run the agent once.

    Returns:
        What the last chunk says of the whole.
    """
    request = ai_agent_pb2.AgentRequest(
        agent_type="creative",
        task=work.task,
        context=work.context,
        tools=work.tools,
        user_id=USER,
        project_id=work.project,
        options=ai_agent_pb2.AgentOptions(timeout_seconds=AGENT_SECONDS, max_tokens=MOST_TOKENS, enable_reasoning=True),
        metadata=metadata(new_request_id()),
    )
    seen, end = Watched(), dict[str, str]()
    for chunk in stub.ExecuteAgentStream(request, timeout=CALL_SECONDS):
        if end:
            raise Broken("终块之后还有内容 · a chunk came after the final one")
        show(chunk, seen)
        if chunk.is_final:
            end = dict(chunk.metadata)
    if not end:
        raise Broken("流没有终块 · the stream ended without a final chunk")
    if seen.open:
        raise Broken(f"工具没有结束 · tools that never ended: {', '.join(seen.open.values())}")
    if end["status"] == "completed" and not seen.text.strip():
        raise Broken("回答为空 · the answer is empty")
    show_end(end)
    return end


def show(chunk: ai_agent_pb2.AgentStreamChunk, seen: Watched) -> None:
    """Print one chunk, by its type."""
    facts, kind = chunk.metadata, chunk.chunk_type
    if int(facts["seq"]) < seen.read:
        raise Broken(f"块的编号倒退 · a chunk is numbered {facts['seq']} after {seen.read - 1}")
    seen.read = int(facts["seq"]) + 1
    if kind == "tool_start":
        seen.open[facts["call_id"]] = facts["tool_name"]
        show_line(kind, facts, seen, f"{facts['tool_name']} {shortened(facts['parameters'])}")
    elif kind == "tool_end":
        if not seen.open.pop(facts["call_id"], ""):
            raise Broken(f"工具没有开始就结束了 · {facts['tool_name']} ended and never started")
        came = shortened(facts["result"]) if facts["success"] == "true" else f"失败 · failed: {facts['error']}"
        show_line(kind, facts, seen, f"{facts['tool_name']} {facts['duration_ms']} 毫秒 · ms → {came}")
    elif chunk.delta:
        if kind != seen.kind:
            show_line(kind, facts, seen, "\n" if kind == "text" else "")
        print(painted(kind, chunk.delta), end="", flush=True)
        seen.text += chunk.delta if kind == "text" else ""
    seen.kind = kind


def show_line(kind: str, facts: Any, seen: Watched, said: str) -> None:
    """Begin a line: when, in seconds since the agent's work began, and which type of chunk."""
    end = "\n" if kind.startswith("tool_") else ""
    begin = "\n" if seen.kind in ("text", "reasoning") else ""
    print(f"{begin}{int(facts['elapsed_ms']) / 1000:6.2f} s  {painted(kind, f'{kind:<10}')}  {said}", end=end)


def show_end(end: dict[str, str]) -> None:
    """Print the last chunk's facts."""
    about = " (估算 · estimated)" if end["tokens_estimated"] == "true" else ""
    print(f"\n\n  终块 · final chunk: {end['status']}, 模型 · model: {end['model']}, {end['finish_reason']}")
    print(
        f"  用时 · took {int(end['duration_ms']) / 1000:.1f} s, 工具 · tools {end['tool_calls_count']}, "
        f"重试 · retries {end['retry_count']}, "
        f"tokens {end['tokens_prompt']} + {end['tokens_completion']}{about}"
    )


def shortened(written: str) -> str:
    """A tool's JSON on one line: what is long is cut, and how long it was is said."""
    return json.dumps(brief(json.loads(written)), ensure_ascii=False)


def brief(value: Any, depth: int = 0) -> Any:
    """A JSON value with long texts and lists cut."""
    most = SHOWN_ENTRIES[min(depth, len(SHOWN_ENTRIES) - 1)]
    if isinstance(value, str) and len(value) > SHOWN_TEXT:
        return f"{value[:SHOWN_TEXT]}……（{len(value)} 字）"
    if isinstance(value, list):
        more = [f"……{len(value)} 项"] if len(value) > most else []
        return [brief(one, depth + 1) for one in value[:most]] + more
    if isinstance(value, dict):
        left = {"……": f"{len(value)} 项"} if len(value) > most else {}
        return {name: brief(one, depth + 1) for name, one in list(value.items())[:most]} | left
    return value
