"""What the queue, the log and the network may do."""

from __future__ import annotations

from collections.abc import Iterator

from .bounds import Scene
from .state import GIVEN, IDLE, Job, State, Step, Worker


def steps(s: State, scene: Scene) -> Iterator[Step]:
    """Yield what the broker may do."""
    yield from _deliver(s, scene)
    yield from _store(s, scene)
    if s.budget.log_losses and s.log:
        lost = s._replace(log=(), lost=s.log, generation=s.generation + 1, budget=s.spend("log_losses"))
        yield Step(("the log is lost and made anew",), lost, due=False)
    if s.budget.queue_losses:
        lost = s._replace(jobs=(), queue=s.queue + 1, stored=0, budget=s.spend("queue_losses"))
        yield Step(("the queue is lost and made anew",), lost, due=False)


def _deliver(s: State, scene: Scene) -> Iterator[Step]:
    """Give a job to an idle worker, or to the one that runs it. If its holder is only slow, this is a redelivery too many."""
    idle = next((i for i, w in enumerate(s.workers) if w.at == IDLE), None)
    for k, job in enumerate(s.jobs):
        held = _held(s, job)
        given = job._replace(delivery=job.delivery + 1)
        jobs = (*s.jobs[:k], given, *s.jobs[k + 1 :])
        if s.budget.adoptions:
            yield from _adopt(s, given, jobs, scene)
        if idle is None or (held and not s.budget.redeliveries):
            continue
        at_most = s._replace(budget=s.spend("redeliveries")) if held else s
        told = ("job {}, {} is given to a worker as {}", job.sequence, _why(job, held), given)
        worker = Worker(GIVEN, given, log=s.generation)
        yield Step(told, at_most.put(idle, worker, jobs=jobs), due=not held)
        if s.generation > 1 and s.budget.unaware:
            told = ("job {}, {} is given as {} to a worker that knows the old log only", *told[1:])
            budget = at_most.spend("unaware")
            unaware = at_most.put(idle, worker._replace(log=s.generation - 1), jobs=jobs, budget=budget)
            yield Step(told, unaware, due=False)


def _adopt(s: State, given: Job, jobs: tuple[Job, ...], scene: Scene) -> Iterator[Step]:
    """`JobRun.adopt`: the delivery comes to a worker that runs this message already, from an earlier one."""
    rules = scene.rules
    for i, w in enumerate(s.workers):
        if w.job is None or w in s.workers[:i] or given.delivery <= w.job.delivery:
            continue
        if given.sequence != w.job.sequence and rules.adopted_is_the_same_message:
            continue
        run = w._replace(adopted=given) if rules.adopted_is_not_claimed else Worker(GIVEN, given, log=s.generation)
        told = ("job {} comes as {} to worker {}, which runs it already", given.sequence, given, w.job)
        yield Step(told, s.put(i, run, jobs=jobs, budget=s.spend("adoptions")), due=False)


def _held(s: State, job: Job) -> bool:
    """Whether the worker that was given it last has it still."""
    return any(w.held == job for w in s.workers)


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
