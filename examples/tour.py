"""A tour of the AI backend: what a Python caller does, in the order in which one meets it.

    python examples/tour.py --target 127.0.0.1:50051 --proxy http://127.0.0.1:8080

Exit status 0: every answer came and was whole. 1: one was not, and the last line says which.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid

import agent
import grpc
import retrieval
import web
from calling import (
    Broken,
    connect,
    heading,
    metadata,
    new_request_id,
    opened,
    returned,
    show_usage,
    status_of,
    user,
)

from qingyu_ai.contract import ai_agent_pb2
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, rag_pb2_grpc

HEALTH_SECONDS = 5
CALL_SECONDS = 60

NOBODY = "none running"
"""What HealthCheck says of a kind of worker that is not there."""

PASSAGE = """\
雨是后半夜停的。沈砚推开渡口的木门，河面上浮着一层薄雾，像谁把旧信纸一张张撕碎了撒在水上。老艄公蹲在船头补网，头也不抬：\
“你师父临走前交代过，灯灭之前，不许过河。”沈砚摸了摸怀里那盏青铜小灯，灯芯只剩豆大一点火，却比昨夜更亮。他忽然明白，\
师父留下的不是灯，而是一个期限。对岸的钟声响了第一下，他解开缆绳，轻声说：“那就在它灭之前，把船撑到河心。”"""


def main() -> int:
    """Take the tour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="the bridge, host:port (default: %(default)s)")
    parser.add_argument("--proxy", default="", help="the AI Proxy, such as http://127.0.0.1:8080; without: left out")
    parser.add_argument("--ca", help="certificates, PEM, one of which signed the bridge's (default: no TLS)")
    parser.add_argument("--cert", help="our certificate, PEM, for a bridge that asks for one; with --key")
    parser.add_argument("--key", help="its key, PEM")
    target, proxy = (asked := parser.parse_args()).target, asked.proxy.rstrip("/")
    try:
        with opened(target, asked.ca, asked.cert, asked.key) as channel:
            connect(channel, target)
            stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
            retrieves = health(stub)
            chat(stub)
            conversation(stub)
            agent.write(stub, PASSAGE)
            if retrieves:
                retrieval.tour(rag_pb2_grpc.RAGServiceStub(channel), stub)
            else:
                heading("六、资料库", "left out: 这里没有检索 · there is no retrieval here")
        if proxy:
            web.tour(proxy)
        else:
            heading("九、浏览器的流", "left out: 未指定 --proxy · no --proxy is given")
    except grpc.RpcError as e:
        return fail(f"调用失败 · the call failed: {status_of(e)}")
    except Broken as e:
        return fail(str(e))
    print("\n全部完成 · all done")
    return 0


def health(stub: ai_agent_pb2_grpc.AIAgentServiceStub) -> bool:
    """Ask how the system is.

    Returns:
        Whether it has retrieval.
    """
    heading("一、健康检查", "HealthCheck")
    answer = stub.HealthCheck(ai_agent_pb2.HealthRequest(), timeout=HEALTH_SECONDS)
    print(f"{answer.status}, up for {answer.uptime_seconds} s")
    for part, state in sorted(answer.details.items()):
        print(f"  {part}: {state}")
    if answer.status != "healthy":
        raise Broken(f"系统不健康 · the system says it is {answer.status!r}")
    return answer.details.get("worker.rag", NOBODY) != NOBODY


def chat(stub: ai_agent_pb2_grpc.AIAgentServiceStub) -> None:
    """Ask one question about a passage and take the answer as a whole."""
    heading("二、问答", "Chat")
    question = "请用一两句话说说：下面这段里，沈砚为什么决定现在过河？"
    print(f"{PASSAGE}\n\n问 · asks: {question}\n")
    # The caller chooses the request id. With the same id a repeated call is answered, not run a second time, so a retry
    # after a lost connection costs nothing and writes nothing twice.
    request_id = new_request_id()
    answer, call = stub.Chat.with_call(
        ai_agent_pb2.ChatRequest(messages=[user(f"{question}\n\n{PASSAGE}")], metadata=metadata(request_id)),
        timeout=CALL_SECONDS,
    )
    print(f"答 · answers: {answer.message.content}\n")
    if answer.status.code != 0:
        raise Broken(f"状态非零 · the answer's status is {answer.status.code}: {answer.status.message}")
    if not answer.message.content.strip():
        raise Broken("回答为空 · the answer is empty")
    if returned(call.initial_metadata(), "x-request-id") != request_id:
        raise Broken("请求编号不符 · the initial metadata does not return the request id")
    show_usage(call.trailing_metadata(), request_id)


def conversation(stub: ai_agent_pb2_grpc.AIAgentServiceStub) -> None:
    """Talk in a session: the second turn sends only its own question, and the service remembers the first."""
    session = f"tour-{uuid.uuid4().hex[:12]}"
    heading("三、流式对话", "ChatStream")
    first = stream(stub, session, "请接着下面这段往下写两三句，保持语气。", PASSAGE)
    heading("四、同一会话的第二轮", "the second turn of the same session")
    second = stream(stub, session, "我刚才给你的那段里，主角叫什么名字，怀里揣着什么？")
    if second <= first:
        sizes = f"{second} tokens after a first one of {first}"
        raise Broken(f"会话没有记忆 · the second prompt has {sizes}, so the history is not in it")
    print(f"会话记忆 · the session remembers: its prompt grew from {first} to {second} tokens")


def stream(stub: ai_agent_pb2_grpc.AIAgentServiceStub, session: str, question: str, passage: str = "") -> int:
    """Send one turn and print the answer while it is written.

    Returns:
        The size of its prompt in tokens.
    """
    print(f"问 · asks: {question}\n")
    request_id = new_request_id()
    message = user(f"{question}\n\n{passage}".strip())
    request = ai_agent_pb2.ChatRequest(session_id=session, messages=[message], metadata=metadata(request_id))
    started = time.monotonic()
    call = stub.ChatStream(request, timeout=CALL_SECONDS)
    arrivals: list[float] = []
    text, final = "", False
    print("答 · answers: ", end="", flush=True)
    for chunk in call:
        if final:
            raise Broken("终块之后还有内容 · a chunk came after the final one")
        final = chunk.is_final
        if chunk.delta:
            arrivals.append(time.monotonic())
            text += chunk.delta
            print(chunk.delta, end="", flush=True)
    print("\n")
    # A stream that merely ends may have been cut. Only the final chunk says that the answer is whole.
    if not final:
        raise Broken("流没有终块 · the stream ended without a final chunk")
    if not text.strip():
        raise Broken("回答为空 · the answer is empty")
    show_pace(started, arrivals)
    if returned(call.initial_metadata(), "x-request-id") != request_id:
        raise Broken("请求编号不符 · the initial metadata does not return the request id")
    trailing = call.trailing_metadata()
    show_usage(trailing, request_id)
    return int(returned(trailing, "x-usage-prompt"))


def show_pace(started: float, arrivals: list[float]) -> None:
    """Say how soon the answer began, and how fast it came."""
    first = arrivals[0] - started
    lasted = arrivals[-1] - arrivals[0]
    pace = f"{(len(arrivals) - 1) / lasted:.0f} 块/秒 · chunks per second" if lasted > 0 else "all at once"
    print(f"  首块 {first * 1000:.0f} 毫秒 · ms to the first chunk, {len(arrivals)} 块 · chunks, {pace}")


def fail(reason: str) -> int:
    """Say what went wrong, on standard error."""
    print(f"\n失败 · failed: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
