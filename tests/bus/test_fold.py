"""The fold is pure: each rule has its case, and a property says what they amount to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qingyu_ai.bus.errors import Cancelled
from qingyu_ai.bus.fold import Position, Verdict, fold
from qingyu_ai.contract.bus_pb2 import Beat, Data, End, Fence, Frame


def data(epoch: int, seq: int, *chunks: bytes, base: int | None = None, span: list[int] | None = None) -> Frame:
    return Frame(epoch=epoch, seq=seq, base=base, data=Data(chunk=chunks, span=span or []))


def end(epoch: int, count: int, *, base: int | None = None, status: bytes = b"") -> Frame:
    return Frame(epoch=epoch, seq=count, base=base, end=End(count=count, status=status))


def test_first_frame_is_shown() -> None:
    assert fold(Position(), data(7, 0, b"a", base=0)) == (Position(7, 1), Verdict.SHOW)


def test_merged_frame_moves_on_by_all_the_deltas_it_covers() -> None:
    assert fold(Position(7, 1), data(7, 1, b"abc", b"d", span=[3, 1])) == (Position(7, 5), Verdict.SHOW)


def test_lower_epoch_is_ignored_whatever_it_says() -> None:
    at = Position(9, 2)
    for frame in (data(7, 2, b"x"), end(7, 2), Frame(epoch=7, beat=Beat()), Frame(epoch=7, fence=Fence())):
        assert fold(at, frame) == (at, Verdict.IGNORE)


def test_fence_of_a_higher_epoch_silences_the_lower_one() -> None:
    at, verdict = fold(Position(7, 2), Frame(epoch=9, seq=2, fence=Fence()))
    assert (at, verdict) == (Position(9, 2, awaits_base=True), Verdict.HEAR)
    assert fold(at, data(7, 2, b"late")) == (at, Verdict.IGNORE)


def test_repeat_is_heard_and_not_shown() -> None:
    assert fold(Position(7, 3), data(7, 1, b"a", b"b")) == (Position(7, 3), Verdict.HEAR)


def test_repeat_of_an_epochs_first_frame_is_a_repeat() -> None:
    at, _ = fold(Position(), data(7, 0, b"a", base=0))
    at, _ = fold(at, data(7, 1, b"b"))
    assert fold(at, data(7, 0, b"a", base=0)) == (at, Verdict.HEAR)


def test_hole_leaves_the_reader_where_it_stands() -> None:
    assert fold(Position(7, 1), data(7, 2, b"c")) == (Position(7, 1), Verdict.HOLE)


def test_frame_that_overlaps_what_was_shown_is_a_loss() -> None:
    assert fold(Position(7, 2), data(7, 1, b"b", b"c")) == (Position(7, 2), Verdict.LOST)


def test_new_epoch_that_goes_on_further_ahead_is_a_hole_and_further_back_a_loss() -> None:
    assert fold(Position(7, 2), data(9, 3, b"d", base=3))[1] is Verdict.HOLE
    assert fold(Position(7, 2), data(9, 1, b"b", base=1))[1] is Verdict.LOST
    assert fold(Position(7, 2), end(9, 3, base=3))[1] is Verdict.HOLE


def test_end_counts_what_was_said() -> None:
    assert fold(Position(7, 2), end(7, 2)) == (Position(7, 2), Verdict.END)
    assert fold(Position(7, 2), end(7, 3)) == (Position(7, 2), Verdict.HOLE)
    assert fold(Position(7, 2), end(7, 1)) == (Position(7, 2), Verdict.LOST)


def test_end_that_is_not_ok_ends_the_call_wherever_the_reader_stands() -> None:
    assert fold(Position(7, 2), end(9, 5, base=5, status=Cancelled().status))[1] is Verdict.END


def test_beat_is_heard() -> None:
    assert fold(Position(7, 2), Frame(epoch=7, beat=Beat())) == (Position(7, 2), Verdict.HEAR)


@st.composite
def told(draw: st.DrawFn) -> tuple[list[Frame], int]:
    """What one worker says of a call, with frames sent again, in the order of the log."""
    frames: list[Frame] = []
    seq = 0
    for size in draw(st.lists(st.integers(1, 5), max_size=12)):
        frame = data(7, seq, *(b"%d" % i for i in range(seq, seq + size)), base=0 if not seq else None)
        frames.append(frame)
        if draw(st.booleans()):
            frames.append(frame)
        seq += size
    frames.append(end(7, seq, base=0 if not seq else None))
    return frames, seq


@given(told())
def test_reader_of_a_whole_log_shows_each_delta_once_and_ends(story: tuple[list[Frame], int]) -> None:
    frames, count = story
    at, shown, verdicts = Position(), list[bytes](), list[Verdict]()
    for frame in frames:
        at, verdict = fold(at, frame)
        verdicts.append(verdict)
        if verdict is Verdict.SHOW:
            shown += frame.data.chunk
    assert shown == [b"%d" % i for i in range(count)]
    assert verdicts[-1] is Verdict.END


@given(told(), st.data())
def test_reader_of_a_log_with_one_frame_missing_never_ends_well_with_a_gap(
    story: tuple[list[Frame], int], choose: st.DataObject
) -> None:
    frames, count = story
    missing = choose.draw(st.integers(0, len(frames) - 1))
    at, shown, ended = Position(), list[bytes](), False
    for i, frame in enumerate(frames):
        if i == missing:
            continue
        at, verdict = fold(at, frame)
        if verdict is Verdict.SHOW:
            shown += frame.data.chunk
        ended = ended or verdict is Verdict.END
    assert shown == [b"%d" % i for i in range(len(shown))]
    if ended:
        assert len(shown) == count


def test_failure_that_was_reopened_is_no_end() -> None:
    """Its text stays, and the claim after the reopening goes on with it."""
    at = Position(7, 2, reopened=9)
    for epoch in (7, 9):  # said by the worker, and said again by whoever found the decision
        assert fold(at, end(epoch, 2, status=Cancelled().status)) == (at, Verdict.IGNORE)
    at, verdict = fold(at, data(11, 2, b"c", base=2))
    assert (at, verdict) == (Position(11, 3, reopened=9), Verdict.SHOW)
    assert fold(at, end(11, 3, status=Cancelled().status))[1] is Verdict.END


def test_epoch_that_goes_on_elsewhere_than_the_reader_stands_is_lost_also_behind_its_fence() -> None:
    """Its worker found another text in the log, or none: a log that was lost. The numbers alone would fit together."""
    at, _ = fold(Position(7, 2), Frame(epoch=9, fence=Fence()))
    assert fold(at, data(9, 0, b"x", b"y", b"z", base=0))[1] is Verdict.LOST
    assert fold(at, data(9, 3, b"x", base=3))[1] is Verdict.HOLE
    at, verdict = fold(at, data(9, 2, b"x", base=2))
    assert (at, verdict) == (Position(9, 3), Verdict.SHOW)
    assert fold(at, data(9, 2, b"x", base=2)) == (at, Verdict.HEAR)
