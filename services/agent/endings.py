"""How an execution ends, in words: its own failures, beside those of the model and of the bus."""

from __future__ import annotations

from collections.abc import Sequence

from qingyu_ai.bus.errors import Code, Fault

from .events import Status

End = tuple[Status, int, str, str]
"""Status, code, sentence in English and Chinese, reason."""


def done(missing: Sequence[str]) -> End:
    """It has answered."""
    if not missing:
        return "completed", int(Code.OK), "ok", ""
    names = ", ".join(missing)
    said = f"ok, but without tools that nobody serves: {names} / 完成；以下工具没有服务，未使用：{names}"
    return "completed", int(Code.OK), said, ""


def timed_out(seconds: int) -> End:
    """Its own time is over."""
    said = (
        f"The agent stopped after {seconds} seconds; this is the text so far. Allow more with options.timeout_seconds / "
        f"智能体在 {seconds} 秒后停止，这是已写出的部分；可用 options.timeout_seconds 延长"
    )
    return "timeout", int(Code.DEADLINE_EXCEEDED), said, "AGENT_TIMEOUT"


def call_timed_out() -> End:
    """The time of the call is all but over, and its own is not."""
    said = (
        "The agent stopped just before the deadline of the call; this is the text so far. Give the call a later gRPC deadline / "
        "智能体在调用截止时间之前停止，这是已写出的部分；可设置更晚的 gRPC 截止时间"
    )
    return "timeout", int(Code.DEADLINE_EXCEEDED), said, "AGENT_TIMEOUT"


def of_fault(fault: Fault) -> End:
    """Something failed."""
    return "failed", int(fault.code), f"{fault.message} / {fault.chinese}", fault.reason


def context_too_long(tokens: int, limit: int) -> Fault:
    """The request alone is more than an execution may cost."""
    return Fault(
        Code.INVALID_ARGUMENT,
        "AGENT_CONTEXT_TOO_LONG",
        f"Task and context have about {tokens} tokens; this agent takes {limit} in all. Send less context",
        f"任务与资料约有 {tokens} 个 token，超过该智能体的总量上限 {limit}，请减少资料",
        facts={"tokens": str(tokens), "limit": str(limit)},
    )


def no_answer() -> Fault:
    """The model called tools to the end, and said nothing."""
    return Fault(
        Code.UNAVAILABLE,
        "AGENT_NO_ANSWER",
        "The model called tools until its steps or tokens were used up, and gave no answer; offer fewer tools or ask again",
        "模型一直在调用工具，用完了步数或 token 也没有给出回答；请减少工具或重试",
    )


def answer_stopped() -> Fault:
    """A content check ended the answer."""
    return Fault(
        Code.INVALID_ARGUMENT,
        "AGENT_ANSWER_STOPPED",
        "A content check ended the answer; this is the text before it",
        "内容检查中止了回答，这是中止之前的部分",
    )


def shape_not_held(problem: str) -> Fault:
    """The answer in JSON does not hold, also after a repair."""
    return Fault(
        Code.UNAVAILABLE,
        "AGENT_SHAPE_NOT_HELD",
        "The model's answer does not have this agent's JSON shape, also after a request to put it right; the raw text is kept",
        f"模型的回答不符合约定的 JSON 形状，要求改正后仍不符合，原文已保留：{problem}",
    )
