"""The guards of the product that a negative control removes, one at a time, in a process of its own (`patched`).

Each function takes one guard away and leaves the rest. None of them is ever called in a process that tests run in.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

from bridge import admission
from bridge.resume import Chunk, Resume
from qingyu_ai.bus import reading, record, subjects, topology
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.discovery import Presence
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.fold import Position, Verdict, fold
from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.bus.job import JobRun
from qingyu_ai.bus.ordered import OrderedReader
from qingyu_ai.bus.records import Records
from qingyu_ai.bus.requests import Requests
from qingyu_ai.bus.speaker import Speaker
from qingyu_ai.bus.suspects import Suspect, Suspects
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.withdrawal import Withdrawals
from qingyu_ai.bus.worker import Worker
from qingyu_ai.contract import bus_pb2
from qingyu_ai.settings import Bus as Settings
from services.chat import session as sessions
from services.chat.session import Session, Turn
from services.llm.seam import Seam


def seam() -> None:
    """A rest is joined as it comes, with what it repeats."""
    Seam.closed = property(lambda self: True)  # type: ignore[method-assign, assignment]


def resume() -> None:
    """A stream that is read again is read whole, whatever its caller has."""

    def trim(self: Resume, chunks: list[Chunk]) -> list[Chunk]:
        self._left = 0
        return list(chunks)

    Resume.trim = trim  # type: ignore[method-assign, assignment]


def applied() -> None:
    """A session does not look whether a turn is stored already."""
    leave = sessions.leave

    def forgetful(
        session: Session, call: str, turn: Turn | None, order: int, max_messages: int, max_bytes: int
    ) -> Session:
        nobodys = [message.model_copy(update={"call": ""}) for message in session.messages]
        forgotten = session.model_copy(update={"applied": [], "messages": nobodys})
        return leave(forgotten, call, turn, order, max_messages, max_bytes)

    sessions.leave = forgetful


def cancel() -> None:
    """A worker does not hear that a call is cancelled."""
    Worker._on_cancel = lambda self, subject, reply, data, headers: None  # type: ignore[method-assign]


def expiry() -> None:
    """A worker runs jobs whose deadline has passed."""

    make = Call.of

    def with_more_time(envelope: Envelope) -> Call:
        return make(envelope._replace(deadline=Deadline.after(60)))

    Call.of = with_more_time  # type: ignore[method-assign]


def resend() -> None:
    """A frame that was not acknowledged is not sent again, neither by the claim nor by the connection."""
    publish = Speaker._publish
    Requests._again = lambda self, token: None  # type: ignore[method-assign]

    def publish_once(self: Speaker) -> None:
        if not self._flight_tokens:
            publish(self)

    Speaker._publish = publish_once  # type: ignore[method-assign]


def epochs() -> None:
    """A reader takes what any worker says, also one that was replaced."""

    def fold_any(at: Position, frame: bus_pb2.Frame) -> tuple[Position, Verdict]:
        after, verdict = fold(Position(min(at.epoch, frame.epoch), at.next), frame)
        return Position(max(at.epoch, after.epoch), after.next), verdict

    reading.fold = fold_any  # type: ignore[attr-defined]


def fence() -> None:
    """A worker that takes over does not close the log to the one before."""

    async def look_at_the_end(self: Speaker) -> int:
        last = await self._bus.last(topology.LOG, self._inbox, timeout=2)
        return last.sequence + 1 if last else 1

    Speaker.fence = look_at_the_end  # type: ignore[method-assign]


def compare() -> None:
    """A worker commits whatever the record says by now."""
    write = Records.write

    async def write_over(self: Records, call: str, value: bus_pb2.Record, expect: int) -> int:
        if value.state == record.DONE:
            return await self._bus.store(topology.call_key(call), value.SerializeToString(), timeout=2)
        return await write(self, call, value, expect)

    Records.write = write_over  # type: ignore[method-assign]


def windows() -> None:
    """A reader holds whatever comes."""
    init = reading.Reading.__init__

    def without_limits(
        self: reading.Reading, bus: Bus, call: str, inbox: str, settings: Settings, *rest: Any, **more: Any
    ) -> None:
        wide = settings.model_copy(update={"window_frames": 10**9, "window_bytes": 10**9})
        init(self, bus, call, inbox, wide, *rest, **more)

    reading.Reading.__init__ = without_limits  # type: ignore[method-assign]


def holes() -> None:
    """A reader shows what comes, also where something before it is missing."""

    def fold_on(at: Position, frame: bus_pb2.Frame) -> tuple[Position, Verdict]:
        after, verdict = fold(at, frame)
        return fold(Position(frame.epoch, frame.seq), frame) if verdict is Verdict.HOLE else (after, verdict)

    reading.fold = fold_on  # type: ignore[attr-defined]


def one_log() -> None:
    """A reader shows what comes, whichever log it is in and whatever is missing before it."""
    holes()
    reading.Reading.astray = property(lambda self: False)  # type: ignore[method-assign, assignment]


def presence() -> None:
    """A bridge does not ask whether there is a worker."""
    Presence.has = lambda self, kind: True  # type: ignore[method-assign]


def dismiss() -> None:
    """A reader that was of one call is never taken down."""

    async def go_on(self: OrderedReader) -> None:
        """Nothing."""

    OrderedReader.stop = go_on  # type: ignore[method-assign]


def alone() -> None:
    """A job over which workers were lost does not wait until nothing else runs, and says that nothing does."""

    async def at_once(self: Suspects, suspect: Suspect) -> bool:
        return True

    Suspects.alone = at_once  # type: ignore[method-assign]


def judge() -> None:
    """A worker runs whatever message it is given, also one of a call that runs already."""
    claim = record.claim

    def run_all(entry: record.Entry | None, job: record.JobMessage, attempts: int) -> record.Claim:
        verdict = claim(entry, job, attempts)
        return record.Claim.TAKE_OVER if verdict in (record.Claim.DROP, record.Claim.FINISH) else verdict

    record.claim = run_all


def digest() -> None:
    """A bridge takes all requests of one id for the same."""
    admission._digest = lambda message: "00" * 16


def drain() -> None:
    """A worker that is told to stop ends at once, with what it holds."""

    async def leave(self: Worker, seconds: float) -> None:
        os._exit(0)

    Worker.drain = leave  # type: ignore[method-assign]


def give_back() -> None:
    """A worker that stops does not say that it was not lost over its jobs."""

    async def go(self: JobRun) -> bool:
        return True

    JobRun._give_back = go  # type: ignore[method-assign]


def held() -> None:
    """A bridge does not tell others that it reads a call."""
    Withdrawals._on_question = lambda self, subject, reply, data, headers: None  # type: ignore[method-assign]


def linger() -> None:
    """A bridge gives a call up as soon as its caller is gone, also one that is to linger."""

    async def at_once(self: Withdrawals, call: str, digest: bytes, shown: int, fault: Fault, seconds: float) -> None:
        await self.decide(call, digest, shown, fault)

    Withdrawals._linger = at_once  # type: ignore[method-assign]


def patience() -> None:
    """A worker gives a claim up when the log has not stored a frame for a moment, and not only after a vote."""
    init = Speaker.__init__

    def hasty(
        self: Speaker, bus: Bus, inbox: str, epoch: int, worker: str, shape: Any, settings: Settings, **options: Any
    ) -> None:
        quick = settings.model_copy(update={"patience_seconds": 0.5})
        init(self, bus, inbox, epoch, worker, shape, quick, **options)

    Speaker.__init__ = hasty  # type: ignore[method-assign]


def identity() -> None:
    """A bridge takes each request for a new call, whatever its id."""
    subjects.call_id = lambda user, method, request_id: secrets.token_hex(16)


GUARDS: dict[str, Callable[[], None]] = {
    "seam": seam,
    "resume": resume,
    "applied": applied,
    "cancel": cancel,
    "expiry": expiry,
    "resend": resend,
    "epochs": epochs,
    "fence": fence,
    "compare": compare,
    "windows": windows,
    "dismiss": dismiss,
    "holes": holes,
    "one-log": one_log,
    "presence": presence,
    "alone": alone,
    "identity": identity,
    "patience": patience,
    "held": held,
    "linger": linger,
    "drain": drain,
    "give-back": give_back,
    "judge": judge,
    "digest": digest,
}
"""By the name that `Control.guard` and FAULTS_WITHOUT have."""
