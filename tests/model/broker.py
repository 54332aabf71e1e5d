"""What the queue, the log and the network may do."""

from __future__ import annotations

from collections.abc import Iterator

from .state import GIVEN, IDLE, Job, Scene, State, Step, Worker


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what the broker may do."""
    yield from _deliver(s)
    yield from _store(s, scene)
    if s.budget.log_losses and s.log:
        readers = tuple(reader._replace(passed=0, wide=0) for reader in s.readers)
        lost = s._replace(log=(), generation=s.generation + 1, readers=readers, budget=s.spend("log_losses"))
        yield Step(("the log is lost and made anew",), lost, due=False)
    if s.budget.queue_losses:
        lost = s._replace(jobs=(), queue=s.queue + 1, stored=0, budget=s.spend("queue_losses"))
        yield Step(("the queue is lost and made anew",), lost, due=False)


def _deliver(s: State) -> Iterator[Step]:
    """Give a job to an idle worker. If its holder is only slow, this is a redelivery too many."""
    idle = next((i for i, w in enumerate(s.workers) if w.at == IDLE), None)
    if idle is None:
        return
    for k, job in enumerate(s.jobs):
        held = _held(s, job)
        if held and not s.budget.redeliveries:
            continue
        given = job._replace(delivery=job.delivery + 1)
        jobs = (*s.jobs[:k], given, *s.jobs[k + 1 :])
        budget = s.spend("redeliveries") if held else s.budget
        told = ("job {}, {} is given to a worker as {}", job.sequence, _why(job, held), given)
        yield Step(told, s.put(idle, Worker(GIVEN, given, s.generation), jobs=jobs, budget=budget), due=not held)


def _held(s: State, job: Job) -> bool:
    """Whether the worker that was given it last has it still."""
    return any(w.job == job for w in s.workers)


def _why(job: Job, held: bool) -> str:
    if not job.delivery:
        return "new,"
    return "though its holder only pauses," if held else "which nobody holds,"


def _store(s: State, scene: Scene) -> Iterator[Step]:
    """A frame that was sent before arrives: a copy that seemed lost, or, without `said_when_stored`, any frame."""
    voices = set()
    for k, frame in enumerate(s.network):
        if frame.voice in voices:
            continue  # one connection keeps its order
        voices.add(frame.voice)
        network = (*s.network[:k], *s.network[k + 1 :])
        due = not scene.rules.said_when_stored
        yield Step(("{} arrives and is stored", frame), s._replace(network=network, log=(*s.log, frame)), due=due)
