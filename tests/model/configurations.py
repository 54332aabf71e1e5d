"""How far each exploration goes, and where each rule is missed when it is off."""

from __future__ import annotations

from .bounds import CANCELLED, Bounds
from .rules import NAMES, Rules

SMALL = {
    "a worker pauses": Bounds(deltas=2, redeliveries=1),
    "a worker dies, a frame is sent twice": Bounds(deltas=2, widest=2, deaths=1, resends=1),
    "a worker stops, one dies, short answers": Bounds(deltas=2, brief=True, drains=1, deaths=1),
    "a job that ends its workers": Bounds(deltas=2, deaths=2, attempts=1),
    "two requests": Bounds(readers=2),
    "a failure is reopened": Bounds(readers=2, failures=1, retries=1),
    "a deadline is reopened": Bounds(readers=2, withdrawals=1, retries=1),
    "a caller cancels, a worker pauses": Bounds(withdrawals=1, withdrawn=CANCELLED, redeliveries=1),
    "a caller cancels, another joins": Bounds(readers=2, withdrawals=1, withdrawn=CANCELLED),
    "a caller resumes": Bounds(deltas=2, readers=2, resumes=1),
    "the log is lost, a worker dies": Bounds(deltas=2, log_losses=1, deaths=1),
    "the log is lost, short answers": Bounds(brief=True, log_losses=1, deaths=1),
    "the queue is lost": Bounds(queue_losses=1, deaths=1),
    "log and queue are lost, a worker dies": Bounds(log_losses=1, queue_losses=1, deaths=1),
    "a job comes back to its worker": Bounds(adoptions=1, deaths=1),
    "a job is refused, another request waits": Bounds(readers=2, refusals=1, one_bridge=True),
    "a suspect is alone, and is it no longer": Bounds(deaths=2, attempts=3),
    "the log does not answer": Bounds(readers=2, mutes=1, retries=1),
}
"""What `make test` explores, in seconds."""

LARGE = {
    "three workers, two pause": Bounds(workers=3, redeliveries=2),
    "a worker pauses, one dies": Bounds(redeliveries=1, deaths=1),
    "a worker pauses, a frame is sent twice": Bounds(redeliveries=1, resends=1),
    "a worker pauses, one stops, one fails": Bounds(redeliveries=1, drains=1, failures=1),
    "a worker pauses, a job comes back": Bounds(redeliveries=1, adoptions=1),
    "a job comes back, a failure is reopened": Bounds(readers=2, adoptions=1, failures=1, retries=1),
    "two requests, a worker dies": Bounds(readers=2, deaths=1),
    "two requests, a worker pauses": Bounds(readers=2, redeliveries=1),
    "a failure is reopened, a worker dies": Bounds(readers=2, failures=1, retries=1, deaths=1),
    "a deadline is reopened, a worker dies": Bounds(readers=2, withdrawals=1, retries=1, deaths=1),
    "a failure is reopened, its bridge dies": Bounds(readers=2, failures=1, retries=1, bridge_deaths=1),
    "two readers, one cancels, a worker dies": Bounds(readers=2, withdrawals=1, withdrawn=CANCELLED, deaths=1),
    "a caller resumes, a worker dies": Bounds(readers=2, resumes=1, deaths=1),
    "the log does not answer, a caller resumes": Bounds(deltas=2, readers=2, mutes=1, retries=1, resumes=1),
    "the log is lost, a worker pauses": Bounds(log_losses=1, redeliveries=1),
    "the log is lost, a worker pauses, two words": Bounds(deltas=2, log_losses=1, redeliveries=1, unaware=0),
    "the log is lost, one pauses, short answers": Bounds(brief=True, log_losses=1, redeliveries=1, unaware=0),
    "the log is lost, a caller resumes": Bounds(readers=2, log_losses=1, resumes=1),
    "the log is lost, one resumes, a worker dies": Bounds(
        workers=1, readers=2, log_losses=1, resumes=1, deaths=1, unaware=0
    ),
    "the log is lost, a failure is reopened": Bounds(
        workers=1, readers=2, log_losses=1, failures=1, retries=1, unaware=0
    ),
    "the queue is lost, the request comes again": Bounds(workers=1, readers=2, queue_losses=1, deaths=1),
}
"""What `make model` explores besides, in minutes."""

MISSED = {
    "one-order": Bounds(redeliveries=1),
    "said-when-stored": Bounds(),
    "compare-and-set": Bounds(redeliveries=1),
    "epoch-is-revision": Bounds(readers=2, withdrawals=1, retries=1),
    "fence": Bounds(redeliveries=1),
    "fence-then-fold": Bounds(redeliveries=1),
    "base-is-checked": Bounds(deltas=2, log_losses=1, redeliveries=1, drains=1),
    "base-is-checked-behind-the-fence": Bounds(deltas=2, log_losses=1, deaths=1),
    "base-is-demanded": Bounds(deltas=2, log_losses=1, redeliveries=1),
    "commit-then-end": Bounds(redeliveries=1),
    "follow-up-then-acknowledge": Bounds(deaths=1),
    "record-is-the-judge": Bounds(readers=2),
    "effects-under-call-id": Bounds(deaths=1),
    "reopening-voids-the-failure": Bounds(readers=2, failures=1, retries=1),
    "every-claim-fences": Bounds(readers=2, withdrawals=1, retries=1),
    "text-is-of-one-log": Bounds(deltas=2, log_losses=1, redeliveries=1),
    "epoch-is-compared": Bounds(deltas=2, log_losses=1, redeliveries=1),
    "restart-needs-a-base": Bounds(log_losses=1, deaths=1),
    "no-text-is-anybodys": Bounds(brief=True),
    "read-log-is-asked-for": Bounds(readers=2, log_losses=1, redeliveries=1, unaware=0),
    "logs-are-compared": Bounds(readers=2, log_losses=1, redeliveries=1, unaware=0),
    "restart-is-told": Bounds(workers=1, readers=2, log_losses=1, deaths=1, resumes=1, unaware=0),
    "log-is-asked-after-the-fold": Bounds(log_losses=1, deaths=1),
    "one-inbox": Bounds(readers=2, withdrawals=1, retries=1),
    "later-turn-replaces": Bounds(workers=1, deltas=2, readers=2, failures=1, retries=1),
    "earlier-turn-does-not": Bounds(deltas=2, readers=2, failures=1, retries=1),
    "last-claim-leaves-the-turn": Bounds(redeliveries=1, withdrawals=1, withdrawn=CANCELLED),
    "end-checks-the-rest": Bounds(workers=1, readers=2, log_losses=1, deaths=1, resumes=1, unaware=0),
    "begun-is-checked-before-reopening": Bounds(
        workers=1, readers=2, log_losses=1, deaths=1, failures=1, retries=1, resumes=1, unaware=0
    ),
    "nothing-is-no-text": Bounds(brief=True, log_losses=1, redeliveries=1),
    "lost-queue-is-told-astray": Bounds(log_losses=1, queue_losses=1, deaths=1),
    "note-is-compared": Bounds(redeliveries=1, drains=1),
    "epoch-outlives-notes": Bounds(deaths=2, attempts=3),
    "take-over-is-not-moved": Bounds(workers=1, readers=2, log_losses=1, deaths=1, resumes=1, unaware=0),
    "count-is-of-what-is-stored": Bounds(deltas=2, readers=2, mutes=1, retries=1, resumes=1),
    "adopted-is-not-claimed": Bounds(adoptions=1),
    "adopted-is-the-same-message": Bounds(readers=2, adoptions=1, failures=1, retries=1),
    "joined-are-told": Bounds(readers=2, refusals=1, one_bridge=True),
}
"""For each rule, where its absence shows."""


SLOW = (
    "base-is-checked",
    "base-is-demanded",
    "text-is-of-one-log",
    "epoch-is-compared",
    "read-log-is-asked-for",
    "logs-are-compared",
    "restart-is-told",
    "end-checks-the-rest",
    "begun-is-checked-before-reopening",
    "take-over-is-not-moved",
    "count-is-of-what-is-stored",
    "earlier-turn-does-not",
)
"""Of these, what a search takes seconds to find is kept as a story (`stories.py`)."""


def without(rule: str) -> Rules:
    """All rules but one."""
    return Rules().without(rule)


assert set(MISSED) == set(NAMES)
