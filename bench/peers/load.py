"""One client, one process: reads streams from a model server and prints what that cost. Run by `bench.models`.

    python bench/peers/load.py openai http://127.0.0.1:8000/v1 paced --streams 100 --at-once 100

Each client is used as its own documentation shows, with one client object for all streams and logging off. The printed CPU time
is that of this process, all threads; a first round that is not counted has imported and connected everything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

QUESTION = "写一章"
KEY = "sk-bench"

Stream = Callable[[], Awaitable[int]]
"""Reads one stream; returns how many characters came."""


def bare(base_url: str, model: str) -> Stream:
    """An HTTP client and a loop over lines, as one writes it in ten minutes."""
    import httpx

    client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None), trust_env=False)
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": True}

    async def read() -> int:
        size = 0
        url, headers = f"{base_url}/chat/completions", {"Authorization": f"Bearer {KEY}"}
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    for choice in json.loads(line[6:])["choices"]:
                        size += len(choice["delta"].get("content") or "")
        return size

    return read


def plain(base_url: str, model: str) -> Stream:
    """The bare client, for an answer in one piece."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    return _posting(f"{base_url}/chat/completions", body, lambda answer: answer["choices"][0]["message"]["content"])


def proxy_plain(base_url: str, model: str) -> Stream:
    """The bare client, for an answer of our AI Proxy in one piece."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    return _posting(f"{base_url}/api/v1/ai/chat", body, lambda answer: answer["message"]["content"])


def _posting(url: str, body: dict[str, Any], text_of: Callable[[Any], str]) -> Stream:
    import httpx

    client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None), trust_env=False)

    async def read() -> int:
        answer = await client.post(url, json=body, headers={"Authorization": f"Bearer {KEY}", "X-User-Id": "bench"})
        answer.raise_for_status()
        return len(text_of(answer.json()))

    return read


def proxy(base_url: str, model: str) -> Stream:
    """The bare client, for the server-sent events of our AI Proxy."""
    import httpx

    client = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None), trust_env=False)
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}

    async def read() -> int:
        size = 0
        url, headers = f"{base_url}/api/v1/ai/chat/stream", {"X-User-Id": "bench"}
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    size += len(json.loads(line[6:]).get("delta", ""))
        return size

    return read


def openai(base_url: str, model: str) -> Stream:
    """The `openai` package."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0)

    async def read() -> int:
        size = 0
        answer: Any = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        async for chunk in answer:
            for choice in chunk.choices:
                size += len(choice.delta.content or "")
        return size

    return read


def pydantic_ai(base_url: str, model: str) -> Stream:
    """An agent of `pydantic-ai` without tools."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    agent: Any = Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=base_url, api_key=KEY)))

    async def read() -> int:
        size = 0
        async with agent.run_stream(QUESTION) as answer:
            async for text in answer.stream_text(delta=True, debounce_by=None):
                size += len(text)
        return size

    return read


def ours(base_url: str, model: str) -> Stream:
    """This project's client with everything on: retries, breaker, long answers, metrics."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from qingyu_ai.settings import ChatModel
    from services.llm.chain import Chain
    from services.llm.curl import Curls
    from services.llm.long import LongAnswer
    from services.llm.meters import Meters
    from services.llm.model import Prompt, Turn
    from services.llm.remote import RemoteModel
    from services.llm.server import Server

    settings = ChatModel.model_validate({"base_url": base_url, "model": model, "api_key": KEY, "connections": 1000})
    meters = Meters()
    remote = RemoteModel(Server("bench", settings, Curls()), settings, meters)
    asked = LongAnswer(Chain([remote], meters), settings, meters)

    async def read() -> int:
        size = 0
        async for delta in asked.stream(Prompt((Turn("user", QUESTION),))):
            size += len(delta.text)
        return size

    return read


CLIENTS: dict[str, Callable[[str, str], Stream]] = {
    "bare": bare,
    "plain": plain,
    "proxy": proxy,
    "proxy-plain": proxy_plain,
    "ours": ours,
    "openai": openai,
    "pydantic-ai": pydantic_ai,
}


async def main() -> None:
    """Read the streams and print one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("base_url")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--characters", type=int, required=True, help="that each stream must have")
    a = parser.parse_args()
    read = CLIENTS[a.client](a.base_url, a.model)
    left = 0

    async def run() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            size = await read()
            assert size == a.characters, f"{size} characters of {a.characters}"

    async def load(streams: int) -> None:
        nonlocal left
        left = streams
        await asyncio.gather(*(run() for _ in range(a.at_once)))

    await load(max(2, a.at_once // 4))
    cpu, began = time.process_time(), time.monotonic()
    await load(a.streams)
    print(json.dumps({"cpu_seconds": time.process_time() - cpu, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
