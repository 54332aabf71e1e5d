"""A speaker says every frame until it is stored, one at a time, and keeps the time of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from qingyu_ai.bus.chunks import AGENT, CHAT
from qingyu_ai.bus.errors import BusDown, TooLarge
from qingyu_ai.bus.speaker import MAX_CHUNK, Speaker
from qingyu_ai.bus.transport import OnReply
from qingyu_ai.bus.transport_errors import Disconnected
from qingyu_ai.contract.ai_agent_pb2 import AgentStreamChunk, ChatStreamChunk
from qingyu_ai.contract.bus_pb2 import End, Frame
from tests.bus.conftest import FAST

LOG = "ai.stream.chat.b." + "a" * 32


class Line:
    """A broker as a speaker sees it, whose acknowledgements the test gives by hand."""

    max_payload = 8 * 1024 * 1024

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.answers: list[OnReply] = []
        self.down = False
        self.forgotten: list[int] = []

    def request(self, subject: str, data: bytes, on_reply: OnReply, *, headers: bytes = b"") -> int:
        if self.down:
            raise Disconnected("down")
        assert subject == LOG
        self.frames.append(Frame.FromString(data))
        self.answers.append(on_reply)
        return len(self.answers) - 1

    def forget(self, token: int) -> None:
        self.forgotten.append(token)

    def ack(self, which: int = -1, sequence: int = 7) -> None:
        self.answers[which](b'{"stream":"AI_LOG","seq":%d}' % sequence, None)

    def refuse(self, which: int = -1) -> None:
        self.answers[which](b'{"error":{"code":400,"err_code":10077,"description":"maximum bytes exceeded"}}', None)


def speaker(line: Line, **more: object) -> Speaker:
    return Speaker(line, LOG, 5, "w1", CHAT, FAST.model_copy(update=more))  # type: ignore[arg-type]


def chunk(text: str = "字") -> ChatStreamChunk:
    return ChatStreamChunk(delta=text)


def kind(frame: Frame) -> str:
    return str(frame.WhichOneof("said"))


def test_first_frame_goes_out_at_once_and_names_its_epoch_base_and_worker() -> None:
    line = Line()
    speaker(line).say(chunk())
    (frame,) = line.frames
    assert (frame.epoch, frame.seq, frame.base, frame.worker, kind(frame)) == (5, 0, 0, "w1", "data")
    assert frame.HasField("base")


def test_only_one_frame_is_unacknowledged_and_what_waits_goes_together() -> None:
    line = Line()
    voice = speaker(line)
    for text in "红楼梦":
        voice.say(chunk(text))
    assert len(line.frames) == 1
    line.ack()
    assert len(line.frames) == 2
    second = line.frames[1]
    assert (second.seq, list(second.data.span), second.HasField("base")) == (1, [2], False)
    assert ChatStreamChunk.FromString(second.data.chunk[0]).delta == "楼梦"


def test_frame_without_an_acknowledgement_is_said_again_with_the_same_numbers() -> None:
    line = Line()
    voice = speaker(line)
    voice.say(chunk())
    now = voice._last_sent
    voice.tick(now + FAST.frame_ack_seconds * 0.9)
    assert len(line.frames) == 1
    voice.tick(now + FAST.frame_ack_seconds * 1.1)
    assert len(line.frames) == 2
    assert line.frames[0] == line.frames[1]


def test_late_acknowledgement_of_an_earlier_sending_counts_and_a_second_one_does_not() -> None:
    line = Line()
    voice = speaker(line)
    voice.say(chunk("一"))
    voice.tick(voice._last_sent + 0.5)
    voice.say(chunk("二"))
    line.ack(0)
    assert [f.seq for f in line.frames] == [0, 0, 1]
    line.ack(1)  # of the second sending of the first frame, while the next frame is in flight
    voice.say(chunk("三"))
    assert [f.seq for f in line.frames] == [0, 0, 1]
    line.ack(2)
    assert [f.seq for f in line.frames] == [0, 0, 1, 2]


def test_refused_frame_is_said_again_and_the_order_stays() -> None:
    line = Line()
    voice = speaker(line)
    voice.say(chunk("一"))
    voice.say(chunk("二"))
    line.refuse()
    assert len(line.frames) == 1
    voice.tick(voice._last_sent + 0.5)
    line.ack()
    assert [f.seq for f in line.frames] == [0, 0, 1]


def test_frame_said_while_there_is_no_connection_goes_out_later() -> None:
    line = Line()
    line.down = True
    voice = speaker(line)
    voice.say(chunk())
    line.down = False
    voice.tick(voice._last_sent + 0.5)
    assert [kind(f) for f in line.frames] == ["data"]


def test_silence_is_filled_with_beats_that_name_the_worker() -> None:
    line = Line()
    voice = speaker(line)
    voice.say(chunk())
    line.ack()
    voice.tick(voice._last_sent + FAST.beat_seconds * 0.9)
    assert len(line.frames) == 1
    voice.tick(voice._last_sent + FAST.beat_seconds * 1.1)
    beat = line.frames[1]
    assert (kind(beat), beat.seq, beat.worker, beat.epoch) == ("beat", 1, "w1", 5)


async def test_log_that_stores_nothing_for_long_ends_the_call_but_not_before_another_try() -> None:
    """A process that was frozen has not read yet what was answered meanwhile."""
    line = Line()
    voice = speaker(line)
    voice.say(chunk())
    waiting = asyncio.ensure_future(voice.flush())
    await asyncio.sleep(0)
    long_after = voice._first_sent + FAST.patience_seconds * 1.1
    voice.tick(long_after)
    assert len(line.frames) == 2
    voice.say(chunk())
    voice.tick(long_after)
    with pytest.raises(BusDown):
        await waiting
    with pytest.raises(BusDown):
        voice.say(chunk())


async def test_flush_waits_for_the_last_acknowledgement() -> None:
    line = Line()
    voice = speaker(line)
    voice.say(chunk("一"))
    voice.say(chunk("二"))
    waiting = asyncio.ensure_future(voice.flush())
    line.ack()
    await asyncio.sleep(0)
    assert not waiting.done()
    line.ack()
    await waiting


async def test_end_comes_after_everything_and_fence_gives_its_sequence() -> None:
    line = Line()
    voice = Speaker(line, LOG, 9, "w2", CHAT, FAST)  # type: ignore[arg-type]
    fencing = asyncio.ensure_future(voice.fence())
    await asyncio.sleep(0)
    line.ack(sequence=41)
    assert await fencing == 41
    voice.start_at(3)
    voice.say(chunk())
    ending = asyncio.ensure_future(voice.end(End(count=4)))
    await asyncio.sleep(0)
    line.ack()
    await asyncio.sleep(0)
    line.ack()
    await ending
    assert [(kind(f), f.seq) for f in line.frames] == [("fence", 0), ("data", 3), ("end", 4)]
    assert line.frames[1].base == 3


def test_agent_chunks_are_numbered() -> None:
    line = Line()
    voice = Speaker(line, LOG, 5, "w1", AGENT, FAST)  # type: ignore[arg-type]
    for text in "一二三":
        voice.say(AgentStreamChunk(delta=text, chunk_type="text"))
    line.ack()
    numbers = [AgentStreamChunk.FromString(f.data.chunk[0]).metadata["seq"] for f in line.frames]
    assert numbers == ["0", "2"]


def test_merging_can_be_switched_off() -> None:
    line = Line()
    voice = speaker(line, merge=False)
    for text in "红楼梦":
        voice.say(chunk(text))
    line.ack()
    assert [len(f.data.chunk) for f in line.frames] == [1, 2]
    assert not line.frames[1].data.span


def full(said: Callable[[], bool], most: int) -> int:
    for i in range(most):
        if not said():
            return i + 1
    return most


def test_room_is_bounded_by_deltas_and_by_bytes() -> None:
    voice = speaker(Line(), window_frames=8)
    assert full(lambda: voice.say(chunk()), 100) == 8
    wide = speaker(Line(), window_bytes=10_000)
    assert full(lambda: wide.say(chunk("x" * 1000)), 100) < 15


async def test_credit_opens_the_room_again_and_only_the_largest_counts() -> None:
    line = Line()
    voice = speaker(line, window_frames=8)
    full(lambda: voice.say(chunk()), 100)
    line.ack()
    line.ack()
    waiting = asyncio.ensure_future(voice.room())
    await asyncio.sleep(0)
    voice.grant(4)
    await asyncio.sleep(0)
    assert not waiting.done()
    voice.grant(16)
    await waiting


def test_chunk_that_no_caller_could_receive_is_refused() -> None:
    with pytest.raises(TooLarge):
        speaker(Line()).say(chunk("x" * (MAX_CHUNK + 1)))


def test_call_has_a_limited_room_in_the_log() -> None:
    voice = speaker(Line(), call_log_bytes=5_000)
    with pytest.raises(TooLarge, match="5015 bytes; the limit is 5000"):
        full(lambda: voice.say(chunk("x" * 1000)) or True, 10)
    goes_on = speaker(Line(), call_log_bytes=5_000)
    goes_on.start_at(4, 4_500)
    with pytest.raises(TooLarge):
        goes_on.say(chunk("x" * 1000))


def test_what_is_stored_is_what_was_acknowledged() -> None:
    line = Line()
    voice = speaker(line)
    for text in "红楼梦":
        voice.say(chunk(text))
    assert (voice.next, voice.stored) == (3, 0)
    line.ack()
    assert voice.stored == 1
    voice.close()
    assert (voice.next, voice.stored) == (3, 1)
