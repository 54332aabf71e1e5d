"""Models of the real client at a scripted upstream in its own process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired
from qingyu_ai.settings import ChatModel
from services.llm.chain import Chain
from services.llm.curl import Curls
from services.llm.faults import UpstreamFault
from services.llm.long import LongAnswer
from services.llm.meters import Meters
from services.llm.model import NEVER, Delta, Model, Prompt, Turn
from services.llm.remote import RemoteModel
from services.llm.server import Server
from tests.upstream.process import Upstream
from tests.upstream.script import Reply

KEY = "sk-test-0123456789abcdef"

TEXT = "雨停了，院子里积着水。林黛玉推开窗，看见天边有一道虹。"

ASKED = Prompt((Turn("user", "雨停了吗？"),))


@dataclass
class Answer:
    """All that a stream said."""

    deltas: list[Delta] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        return "".join(delta.reasoning for delta in self.deltas)

    @property
    def last(self) -> Delta:
        return self.deltas[-1]


@dataclass
class Lab:
    """The client, and the process that it talks to."""

    upstream: Upstream
    curls: Curls
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    meters: Meters = field(init=False)

    def __post_init__(self) -> None:
        self.meters = Meters(self.registry)

    def settings(self, model: str, **more: Any) -> ChatModel:
        return ChatModel(**{"base_url": self.upstream.base_url, "model": model, "api_key": KEY, "attempts": 1, **more})

    def remote(self, model: str, replies: Sequence[Reply] | Reply | None = None, **more: Any) -> RemoteModel:
        """One model that answers by a script."""
        if replies is not None:
            self.upstream.script(model, replies)
        settings = self.settings(model, **more)
        return RemoteModel(Server(model, settings, self.curls), settings, self.meters)

    def chain(self, *models: RemoteModel) -> Chain:
        return Chain(models, self.meters)

    def long(self, model: RemoteModel) -> LongAnswer:
        return LongAnswer(self.chain(model), model.settings, self.meters)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


async def ask(model: Model, prompt: Prompt = ASKED, seconds: float | None = None, into: Answer | None = None) -> Answer:
    """Ask, and keep what was said also when it ends in an error."""
    answer = into or Answer()
    async with aclosing(model.stream(prompt, NEVER if seconds is None else Deadline.after(seconds))) as deltas:
        async for delta in deltas:
            answer.deltas.append(delta)
    return answer


async def failed(
    lab: Lab, replies: Reply, into: Answer | None = None, seconds: float | None = None, **more: Any
) -> Any:
    """Ask a model that fails; its error."""
    with pytest.raises((UpstreamFault, Expired)) as error:
        await ask(lab.remote("m", replies, **more), into=into, seconds=seconds)
    return error.value


@pytest.fixture(scope="session")
def upstream_process() -> Iterator[Upstream]:
    with Upstream() as up:
        yield up


@pytest.fixture
def upstream(upstream_process: Upstream) -> Upstream:
    upstream_process.reset()
    return upstream_process


@pytest.fixture
async def lab(upstream: Upstream) -> AsyncIterator[Lab]:
    curls = Curls()
    yield Lab(upstream, curls)
    assert curls.open == 0, "a transfer was left behind"
    curls.close()
