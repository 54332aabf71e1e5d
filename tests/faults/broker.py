"""What the broker holds, read beside the system: sessions, records, queues and consumers."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from qingyu_ai.bus import topology
from qingyu_ai.bus.subjects import call_id
from qingyu_ai.contract import bus_pb2
from services.chat.session import Session, key_of

from .clients import USER, Client
from .report import Outcome

QUEUE = "AI_CHAT"


class Broker:
    """A connection of an observer."""

    def __init__(self, js: JetStreamContext) -> None:
        self.js = js

    async def session(self, session: str) -> Session:
        """A session, as it is stored."""
        data = await self._last(topology.SESSIONS, key_of(USER, session))
        return Session.model_validate_json(data) if data else Session()

    async def record(self, client: Client, method: str = "ChatStream") -> bus_pb2.Record | None:
        """The record of a call; None: there is none."""
        call = call_id(USER, method, client.request_id)
        data = await self._last(topology.CALLS, topology.call_key(call))
        return bus_pb2.Record.FromString(data) if data else None

    async def _last(self, stream: str, subject: str) -> bytes:
        try:
            return (await self.js.get_last_msg(stream, subject)).data or b""
        except NotFoundError:
            return b""

    async def open_jobs(self) -> int:
        """Chat jobs that are queued or held."""
        return (await self.js.stream_info(QUEUE)).state.messages

    async def messages(self, stream: str) -> int:
        """Messages of a stream."""
        return (await self.js.stream_info(stream)).state.messages

    async def no_jobs(self) -> bool:
        """Whether none is."""
        return await self.open_jobs() == 0

    async def consumers(self, stream: str = topology.LOG) -> int:
        """Consumers of a stream."""
        return (await self.js.stream_info(stream)).state.consumer_count


@asynccontextmanager
async def observed(url: str) -> AsyncIterator[Broker]:
    """Connect to a broker."""
    client = await nats.connect(url)
    try:
        yield Broker(client.jetstream())
    finally:
        await client.close()


async def check_sessions(broker: Broker, clients: Iterable[Client], outcome: Outcome) -> None:
    """Each call that ended well is in its session once, question and answer; nothing waits, and nothing else is there."""
    by_session: dict[str, list[Client]] = {}
    for client in clients:
        by_session.setdefault(client.session, []).append(client)
    for name, calls in by_session.items():
        session = await broker.session(name)
        questions = Counter(m.content for m in session.messages if m.role == "user")
        answers = Counter(m.content for m in session.messages if m.role == "assistant")
        for client in calls:
            asked, answered = questions.pop(str(client.ask), 0), answers.pop(client.text, 0)
            if (asked, answered) != (1, 1) and client.failure is None:
                outcome.wrong.append(
                    f"{client.ask.call}: its turn is stored {asked} times, its answer {answered} times"
                )
            elif asked > 1:
                outcome.wrong.append(f"{client.ask.call}, which failed: its turn is stored {asked} times")
        if questions or answers:
            outcome.wrong.append(f"{name}: holds what nobody asked: {[*questions, *answers][:2]}")
        if session.waiting:
            outcome.wrong.append(f"{name}: {len(session.waiting)} tickets are left in the session")
