"""Session memory: one key-value entry for each conversation, changed by compare-and-set only.

Calls of one session take turns: each puts its ticket into the session, waits until those before it are decided, and leaves
with its turn (question and answer together). A ticket is a call id, so a turn is stored once however often it is tried, and
the turn of a call whose worker died can be finished by whoever finds its record decided.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import structlog
from pydantic import BaseModel, Field

from qingyu_ai.bus import subjects, topology
from qingyu_ai.bus.errors import Overloaded, TooLarge
from qingyu_ai.bus.owner import owner_of
from qingyu_ai.bus.patience import patiently
from qingyu_ai.bus.record import now_ms
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.transport_errors import Conflict, StoreRefused
from qingyu_ai.settings import Bus as BusSettings
from qingyu_ai.settings import Chat as ChatSettings

log = structlog.get_logger(__name__)

MAX_WAITING = 8
"""Calls of one session that may wait for their turn; more of them would hold the slots of everybody else."""

APPLIED_KEPT = 128
"""How many call ids a session remembers as stored, so that a follow-up that runs again finds its turn there."""

FULL_SECONDS = 60.0
"""For a caller to wait while there is no room for sessions: they go by age, or when somebody makes room."""

WAIT_FIRST, WAIT_LONGEST = 0.02, 0.25
"""Seconds between looks at the call before."""


class Message(BaseModel):
    """One message of the history."""

    role: Literal["system", "user", "assistant"]
    content: str
    cut: bool = False
    """An answer that was not finished."""
    call: str = ""
    """Whose turn it is of, so that a call that was tried again can put the whole answer in place of the cut one."""


class Turn(BaseModel):
    """What a call adds to its session."""

    user: str
    session: str
    replace: bool
    """The request brought the whole history with it."""
    messages: list[Message]


class Session(BaseModel):
    """What the bucket holds under a session's key."""

    messages: list[Message] = Field(default_factory=list)
    waiting: list[str] = Field(default_factory=list)
    """Tickets, in order; the first may go."""
    applied: list[str] = Field(default_factory=list)
    """Calls whose turn is in `messages`, the latest last."""
    orders: dict[str, int] = Field(default_factory=dict)
    """Of these calls: the order of the decision that the turn was stored for."""
    owner: str = ""
    """Whose it is (`bus.owner.owner_of`, hexadecimal): the key does not tell, and all that a user left must be found."""


Change = Callable[[Session], Session]


def key_of(user: str, session: str) -> str:
    """Name a session so that no user can name another user's."""
    digest = hashlib.blake2b(f"{len(user)}:{user}{session}".encode(), digest_size=16).hexdigest()
    return topology.session_key(digest)


def enter(session: Session, call: str, user: str = "") -> Session:
    """Put a ticket into the session.

    Args:
        user: whose session it is.

    Raises:
        Overloaded: too many calls wait already.
    """
    if call in session.waiting:
        return session
    if len(session.waiting) >= MAX_WAITING:
        raise Overloaded("Too many calls of this session wait for their turn", "该会话等待中的请求过多", MAX_WAITING)
    return session.model_copy(update={"waiting": [*session.waiting, call], "owner": owner_of(user).hex()})


def leave(session: Session, call: str, turn: Turn | None, order: int, max_messages: int, max_bytes: int) -> Session:
    """Take the ticket out and, if there is a turn that is not stored yet, store it.

    Args:
        order: of the decision that the turn belongs to. A call that was decided, and tried again, and decided again, has a
            higher one then: its turn takes the place of the one before, and never the other way round.
    """
    waiting = [w for w in session.waiting if w != call]
    known = call in session.applied or any(message.call == call for message in session.messages)
    if turn is None or not turn.messages or (known and order <= session.orders.get(call, order)):
        return session.model_copy(update={"waiting": waiting})
    own = [message.model_copy(update={"call": call}) for message in turn.messages]
    messages = own if turn.replace else [*session.messages, *own]
    if known:
        messages = _in_place(session.messages, call, own)
    applied = [*(a for a in session.applied if a != call), call][-APPLIED_KEPT:]
    orders = {a: session.orders[a] for a in applied if a in session.orders} | {call: order}
    return session.model_copy(
        update={
            "messages": trim(messages, max_messages, max_bytes),
            "waiting": waiting,
            "applied": applied,
            "orders": orders,
        }
    )


def _in_place(messages: Sequence[Message], call: str, own: Sequence[Message]) -> list[Message]:
    """Put a call's messages where its messages are; nowhere, if they are forgotten."""
    at = next((i for i, m in enumerate(messages) if m.call == call), None)
    if at is None:
        return list(messages)
    return [*messages[:at], *own, *(m for m in messages[at:] if m.call != call)]


def trim(messages: Sequence[Message], max_messages: int, max_bytes: int) -> list[Message]:
    """Forget the oldest, down to the limits; then what is left of a turn whose question is gone.

    The newest turn, from its question on, stays whole whatever its size.
    """
    last_turn = max((i for i, m in enumerate(messages) if m.role == "user"), default=max(0, len(messages) - 1))
    first = min(max(0, len(messages) - max_messages), last_turn)
    size = sum(len(m.content.encode()) for m in messages[first:])
    while first < last_turn and size > max_bytes:
        size -= len(messages[first].content.encode())
        first += 1
    while 0 < first < last_turn and messages[first].role == "assistant":
        first += 1
    return list(messages[first:])


class Sessions:
    """The session bucket."""

    def __init__(self, bus: Bus, bus_settings: BusSettings, settings: ChatSettings) -> None:
        self._bus = bus
        self._timeout = bus_settings.store_seconds
        self._patience = bus_settings.patience_seconds
        self._longest_ms = int((bus_settings.longest_deadline_seconds + bus_settings.lease_seconds) * 1000)
        self._records = Records(bus, bus_settings)
        self._settings = settings

    async def take_turn(self, user: str, session: str, call: str, asked_bytes: int = 0) -> list[Message]:
        """Wait for this call's turn and read the history as it then stands.

        Args:
            asked_bytes: of the longest message that the call brings.

        Raises:
            TooLarge: it is longer than a session may be.
            Overloaded: too many calls of this session wait, or there is no room for another session.
            TransportError: the bucket does not answer.
        """
        key = key_of(user, session)
        if asked_bytes > self._settings.session_max_bytes:
            # It would push out all that was said before, without a word.
            limit = self._settings.session_max_bytes
            raise TooLarge("A message of a session", "会话中的一条消息", asked_bytes, limit)
        try:
            current = await self._change(key, lambda s: enter(s, call, user))
        except Overloaded:
            await self._forget_decided(key)  # callers who left while they waited hold tickets still
            current = await self._change(key, lambda s: enter(s, call, user))
        wait = WAIT_FIRST
        while current.waiting and current.waiting[0] != call:
            first = current.waiting[0]
            if await self._decided(first):
                current = await self._after(key, first)
                continue
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, WAIT_LONGEST)
            current, _ = await self._read(key)
            if call not in current.waiting:
                # Another call took us for dead, or the session was replaced: take a new ticket.
                current = await self._change(key, lambda s: enter(s, call, user))
        # A call that is tried again must not find its own unfinished turn in the history.
        own = next((i for i, message in enumerate(current.messages) if message.call == call), None)
        return current.messages[:own]

    def keepable(self, messages: Sequence[Message]) -> list[Message]:
        """What a session would keep of these messages: a call's record need not carry more."""
        return trim(messages, self._settings.session_messages, self._settings.session_max_bytes)

    async def store(self, call: str, turn: Turn, order: int) -> None:
        """Store a turn, once for each decision of its call, and let the next call go.

        Raises:
            Overloaded: there is no room for it. Its record keeps it.
            TransportError: the bucket does not answer.
        """
        s = self._settings
        await self._change(
            key_of(turn.user, turn.session),
            lambda session: leave(session, call, turn, order, s.session_messages, s.session_max_bytes),
        )

    async def _forget_decided(self, key: str) -> None:
        current, _ = await self._read(key)
        for ticket in current.waiting:
            if await self._decided(ticket):
                await self._after(key, ticket)

    async def _decided(self, call: str) -> bool:
        if not subjects.CALL_ID.fullmatch(call):
            return True
        entry = await self._records.read(call, newest=True)  # a copy that is behind would not know a claim yet
        if entry is None or entry.done:
            return True
        # No call is that long: its job was lost, and nobody will decide it.
        return entry.record.at_ms + self._longest_ms < now_ms()

    async def _after(self, key: str, call: str) -> Session:
        """The call before is decided: its turn first, if its worker has not stored it yet."""
        entry = await self._records.read(call, newest=True)
        turn, order = None, 0
        if entry is not None and entry.record.follow_up:
            turn, order = Turn.model_validate_json(entry.record.follow_up), entry.revision
        s = self._settings
        return await self._change(
            key, lambda session: leave(session, call, turn, order, s.session_messages, s.session_max_bytes)
        )

    async def _read(self, key: str) -> tuple[Session, int]:
        stored = await patiently(
            lambda: self._bus.last(topology.SESSIONS, key, timeout=self._timeout, newest=True), self._patience
        )
        if stored is None:
            return Session(), 0
        return Session.model_validate_json(stored.data), stored.sequence

    async def _store(self, key: str, data: bytes, revision: int) -> int:
        return await self._bus.store(key, data, expect=revision, timeout=self._timeout)

    async def _change(self, key: str, change: Change) -> Session:
        while True:
            current, revision = await self._read(key)
            changed = change(current)
            if changed == current:
                return current
            try:
                data = changed.model_dump_json(exclude_defaults=True).encode()
                await patiently(functools.partial(self._store, key, data, revision), self._patience)
            except Conflict:
                continue  # somebody else was faster, or it was ourselves and only the acknowledgement was lost
            except StoreRefused as e:
                if e.full:
                    raise Overloaded(
                        "The store of sessions is full", "会话存储已满", retry_seconds=FULL_SECONDS
                    ) from None
                raise
            return changed
