"""What there is: one call with its record, log and queue, some workers, some readers. All of it small, frozen, without time.

Numbers from 1 stand for what the product names by text: a log generation, a queue, an inbox. 0 is the empty name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from qingyu_ai.bus.fold import Position

from .bounds import Bounds, Budget

OK = ""
UNAVAILABLE = "UNAVAILABLE"
"""A failure that may be tried again."""
INTERNAL = "INTERNAL"
"""A job that was the end of several workers."""
DATA_LOSS = "DATA_LOSS"
GONE = "GONE"
"""Of a reader whose bridge died: its caller resumes at another one."""

Word = tuple[int, int]
"""One delta: (revision of the claim that said it, its number). Two workers never say the same word."""
Text = tuple[Word, ...]


class Frame(NamedTuple):
    """`bus_pb2.Frame`, and who really said it."""

    inbox: int
    voice: int
    """The revision of the claim, or of the decision, that speaks: the epoch, unless that rule is off."""
    epoch: int
    seq: int
    said: str
    """data, end, fence or elsewhere. A beat would change no state here."""
    span: int = 0
    """How many deltas a data frame covers."""
    base: int | None = None
    status: str = OK
    total: int = 0
    """`count`, of an end."""
    meant: Text = ()
    """The text that the speaker goes on with. Nobody reads it: it tells whether a reader understood."""

    @property
    def words(self) -> Text:
        """Of a data frame."""
        return tuple((self.voice, n) for n in range(self.seq, self.seq + self.span))

    def __str__(self) -> str:
        base = "" if self.base is None else f", base {self.base}"
        if self.said == "data":
            return (
                f"data {self.seq}{f'..{self.seq + self.span - 1}' if self.span > 1 else ''} of epoch {self.epoch}{base}"
            )
        if self.said == "end":
            return f"end {self.status or 'OK'} of epoch {self.epoch}, count {self.total}{base}"
        return f"fence of epoch {self.epoch}" if self.said == "fence" else self.said


class Record(NamedTuple):
    """`bus_pb2.Record` without times, digest and story."""

    state: int
    job_seq: int = 0
    delivery: int = 0
    log: int = 0
    queue: int = 0
    status: str = OK
    total: int = 0
    """`end.count`"""
    follow_up: Text = ()
    deaths: int = 0
    given_back: bool = False
    reopened: int = 0
    reopenings: int = 0
    restarted: bool = False
    inbox: int = 0
    alone: bool = False
    said: int = 0
    """How many deltas the decision that was reopened last counted."""
    epoch: int = 0
    """Of the claim that wrote it; 0: nobody's, or it is the revision."""


class Entry(NamedTuple):
    """A record and its revision."""

    revision: int
    record: Record


class Job(NamedTuple):
    """A job message; in the queue with the latest delivery count, at a worker with its own."""

    sequence: int
    inbox: int
    queue: int = 1
    reopens: int = 0
    delivery: int = 0

    def __str__(self) -> str:
        return f"{self.sequence}.{self.delivery}"


(
    IDLE,
    GIVEN,
    CLAIMING,
    FENCING,
    FOLDING,
    SPEAKING,
    COMMITTING,
    LOSING,
    GIVING_BACK,
    ENDING,
    FOLLOWING,
    ACKING,
) = (
    "idle",
    "given",
    "claiming",
    "fencing",
    "folding",
    "speaking",
    "committing",
    "losing",
    "giving back",
    "ending",
    "following",
    "acking",
)
"""What a worker does next. Between any two steps it may pause for as long as it likes."""


class Worker(NamedTuple):
    """One worker and its run of the call (`bus/job.py`). A worker that dies begins again as an idle one."""

    at: str = IDLE
    job: Job | None = None
    adopted: Job | None = None
    """A later delivery of the same message, which it will acknowledge in place of its own."""
    log: int = 0
    """The generation of the log that it knew when it was given the job."""
    seen: Entry | None = None
    """The record as it was read; from the claim on, what this claim wrote last."""
    voice: int = 0
    """The revision of its claim."""
    buried: bool = False
    """Too many workers were lost over it: it is to be put aside, not run."""
    epoch: int = 0
    inbox: int = 0
    """Where it speaks."""
    text: Text = ()
    """What the call has said, as this worker knows it: the fold, and then its own words."""
    based: bool = False
    frame: Frame | None = None
    """Sent, not acknowledged; or the end that is to be said."""
    aired: bool = False
    """Without `one_order`: live readers have heard `frame`, the log has not stored it."""
    fence: int = 0
    """How many frames the log held before the fence."""
    failed: str = OK
    mute: bool = False
    """The log does not answer it."""
    unheard: int = 0
    """Deltas that it counts and the log may never store."""
    left: Text = ()
    """For the follow-up."""
    order: int = 0
    """The revision of the decision that `left` belongs to."""

    @property
    def held(self) -> Job | None:
        """The delivery that it holds."""
        return self.adopted or self.job

    def on(self, at: str, **changes: Any) -> Worker:
        """The same run of the same delivery, of which nothing else is left."""
        return Worker(at, self.job, self.adopted, **changes)


AWAY, STORING, READING, ENDED = "away", "storing", "reading", "ended"


class Reader(NamedTuple):
    """A bridge's view of the call, for one caller (`bus/reading.py`)."""

    at: str = AWAY
    inbox: int = 0
    bridge: int = 0
    apart: bool = False
    """It has a consumer of its own, which reads the call's frames in all inboxes."""
    passed: int = 0
    """How much of the log it has passed."""
    behind: int = 0
    """It reads the log itself, without its consumer, until it has passed so much less 1; 0: it does not."""
    unsure: bool = False
    """It has taken frames so, and has not asked since whether that was the log that it takes it for."""
    seeks_end: bool = False
    """It goes on so until the log has no more: the call has ended, and it has not heard that."""
    wide: bool = False
    """When it reads the log itself, then in all inboxes."""
    fold: Position = Position()
    text: Text = ()
    """What its caller was shown."""
    log: int = 1
    """The log that its text is in."""
    there: int = 1
    """The log that is there now, as its consumer has told it."""
    queue: int = 0
    """In which queue its bridge stored the job; 0: another bridge did."""
    stores: bool = False
    """Its own request stored the job."""
    mended: bool = False
    replay: Record | None = None
    """The call is decided: this is how it ended, once the log has no more."""
    has: Text = ()
    """What its caller had been shown elsewhere before."""
    reopens: int = 0
    """The decision that was reopened when it joined."""
    end: str = OK

    @property
    def astray(self) -> bool:
        """Whether the log was made anew: it takes nothing before the record has been asked."""
        return self.log != self.there


class State(NamedTuple):
    """Everything at one moment."""

    workers: tuple[Worker, ...]
    readers: tuple[Reader, ...]
    budget: Budget
    jobs: tuple[Job, ...]
    queue: int = 1
    stored: int = 1
    """Job messages so far."""
    record: Entry | None = None
    log: tuple[Frame, ...] = ()
    generation: int = 1
    lost: tuple[Frame, ...] = ()
    """The frames of the log before: some are on their way to readers that have not heard of the loss."""
    network: tuple[Frame, ...] = ()
    """Frames on their way to the log."""
    heard: tuple[Frame, ...] = ()
    """Without `one_order`: what live readers hear."""
    effects: tuple[int, ...] = ()
    """Under which keys the effect was applied; 0 is the call's own."""
    turn: Text | None = None
    """What the session keeps of this call."""
    order: int = 0
    """Of the decision that `turn` was stored for."""
    final: Text | None = None
    """What was said when the call was decided OK."""

    @property
    def revision(self) -> int:
        """Of the latest write."""
        return self.record.revision if self.record else 0

    def spend(self, what: str) -> Budget:
        """The budget after something went wrong."""
        return self.budget._replace(**{what: getattr(self.budget, what) - 1})

    def put(self, i: int, worker: Worker, **changes: Any) -> State:
        """Change a worker, and more. Which worker is which does not matter, so their order is made one."""
        workers = sorted((*self.workers[:i], worker, *self.workers[i + 1 :]), key=hash)
        return self._replace(workers=tuple(workers), **changes)

    def show(self, i: int, reader: Reader, **changes: Any) -> State:
        """Change a reader, and more. A lost log is forgotten once none of its frames is on its way any more."""
        readers = (*self.readers[:i], reader, *self.readers[i + 1 :])
        if self.lost and all(r.there == self.generation for r in readers if r.at == READING):
            changes["lost"] = ()
        return self._replace(readers=readers, **changes)


def beginning(bounds: Bounds) -> State:
    """The first bridge has stored the job and listens; or it is about to, if its job may be refused."""
    others = [Reader(AWAY, n, 1 if bounds.one_bridge else n) for n in range(2, bounds.readers + 1)]
    first = Reader(READING, 1, 1, queue=1, stores=True)
    if bounds.refusals:
        readers = (first._replace(at=STORING), *others)
        return State((Worker(),) * bounds.workers, readers, bounds.budget, (), stored=0)
    return State((Worker(),) * bounds.workers, (first, *others), bounds.budget, (Job(1, 1),))


class Step(NamedTuple):
    """Something that may happen."""

    told: tuple[Any, ...]
    """A format and its arguments: only a trace makes it a sentence."""
    after: State
    due: bool = True
    """Whether it happens in the end if nothing else does. What goes wrong is never due."""

    def __str__(self) -> str:
        form, *arguments = self.told
        return str(form).format(*arguments)
