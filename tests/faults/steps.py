"""The steps of a job's completion, as places where a worker can be stopped or held up. Installed in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType
from typing import Any, Final

from google.protobuf.message import Message

from qingyu_ai.bus import handling, job, topology
from qingyu_ai.bus.claiming import Claimed
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.errors import Fault
from qingyu_ai.bus.handler import Call, Served
from qingyu_ai.bus.job import JobRun
from qingyu_ai.bus.record import DONE
from qingyu_ai.bus.speaker import Speaker
from qingyu_ai.contract import bus_pb2

CLAIM_ACK: Final = "claim-ack"
"""The claim is stored, and this worker does not know it yet."""

LAST_FRAME_ACK: Final = "last-frame-ack"
"""The handler's last frame is sent, and not known to be stored."""

COMMIT: Final = "commit"
"""All frames are stored; next comes the commit."""

COMMIT_ACK: Final = "commit-ack"
"""The commit is stored, and this worker does not know it yet."""

END: Final = "end"
"""Next comes the end frame."""

FOLLOW_UP: Final = "follow-up"
"""Next comes the session's turn."""

ACK: Final = "ack"
"""The turn is stored; next comes the acknowledgement of the job."""

STEPS: Final = (CLAIM_ACK, LAST_FRAME_ACK, COMMIT, COMMIT_ACK, END, FOLLOW_UP, ACK)

ARM: Final = signal.SIGUSR1
"""Has a process stop itself at its step, once."""


def install(stop_at: str, stretch: float) -> None:
    """Change this process.

    Args:
        stop_at: the step at which it stops itself once it is armed (by the signal ARM), when the next job is there; empty: none.
        stretch: seconds that each step takes longer, so that what ends the process at random ends it there often.
    """
    armed = False

    def arm(number: int, frame: FrameType | None) -> None:
        nonlocal armed
        armed = True

    signal.signal(ARM, arm)

    async def reach(step: str) -> None:
        nonlocal armed
        if stretch:
            await asyncio.sleep(stretch)
        if step == stop_at and armed:
            armed = False
            os.kill(os.getpid(), signal.SIGSTOP)

    store, handle, commit = NatsBus.store, handling.handle, JobRun._commit
    say_end, follow_up = Speaker.end, JobRun._follow_up

    async def store_then_wait(self: NatsBus, subject: str, data: bytes, **options: Any) -> int:
        stored = asyncio.ensure_future(store(self, subject, data, **options))
        if subject.startswith(topology.call_key("")):
            # Once around the loop to be published, once more to be written.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            done = bus_pb2.Record.FromString(data).state == DONE
            await reach(COMMIT_ACK if done else CLAIM_ACK)
        return await stored

    async def handle_then_wait(served: Served, call: Call, body: bytes, speaker: Speaker) -> Message | None:
        answer = await handle(served, call, body, speaker)
        if speaker._flying is not None:
            await asyncio.sleep(0)
            await reach(LAST_FRAME_ACK)
        return answer

    async def wait_then_commit(
        self: JobRun, speaker: Speaker, claim: Claimed, answer: Message | None, fault: Fault | None
    ) -> Fault | None:
        await reach(COMMIT)
        return await commit(self, speaker, claim, answer, fault)

    async def wait_then_end(self: Speaker, end: bus_pb2.End) -> None:
        await reach(END)
        await say_end(self, end)

    async def follow_up_between_waits(self: JobRun, left: bytes, order: int) -> None:
        await reach(FOLLOW_UP)
        await follow_up(self, left, order)
        await reach(ACK)

    NatsBus.store = store_then_wait  # type: ignore[method-assign]
    job.handle = handle_then_wait  # type: ignore[attr-defined]
    JobRun._commit = wait_then_commit  # type: ignore[method-assign]
    Speaker.end = wait_then_end  # type: ignore[method-assign]
    JobRun._follow_up = follow_up_between_waits  # type: ignore[method-assign]
