"""The rules of the protocol that can be switched off, one by one, to see what they are for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """All on: the protocol. The docstring of a rule says what happens without it."""

    one_order: bool = True
    """Off: live readers hear a frame when it is sent, not in the order of the log."""
    said_when_stored: bool = True
    """Off: a worker sends a frame and goes on, commits and ends, without waiting for its acknowledgement."""
    compare_and_set: bool = True
    """Off: workers write the record whatever it holds by now."""
    epoch_is_revision: bool = True
    """Off: the epoch is the delivery count, which starts anew with each message."""
    fence: bool = True
    """Off: a take-over folds the log and goes on, without a fence."""
    fence_then_fold: bool = True
    """Off: a take-over folds the log first and then stores its fence."""
    base_is_checked: bool = True
    """Off: the fold does not look where an epoch goes on (`base`), whatever the reader has."""
    epoch_opens_with_its_base: bool = True
    """Off: the fold looks at `base` only in the first frame that it hears of an epoch, which may be a fence."""
    commit_then_end: bool = True
    """Off: the end is said before the record is decided."""
    follow_up_then_acknowledge: bool = True
    """Off: the job is acknowledged before the follow-up."""
    record_is_the_judge: bool = True
    """Off: a worker runs whatever message it is given."""
    effects_under_call_id: bool = True
    """Off: an effect is known by the claim that applied it, not by the call."""
    reopening_voids_the_failure: bool = True
    """Off: who joins a reopened call does not know that the failure in its log is no end any more."""
    text_is_of_one_log: bool = True
    """Off: a reader goes on in a log that was made anew, though the fences of its call were lost with the one before."""
    restart_is_told: bool = True
    """Off: who has text of a log that was lost does not look whether the text was begun anew."""
    log_is_asked_after_the_fold: bool = True
    """Off: a worker believes that its fence went to the log that it knew when it was given the job."""
    hole_reads_the_whole_call: bool = True
    """Off: a reader with a hole reads only the inbox of its own request again."""
    one_inbox: bool = True
    """Off: a claim speaks, and folds, in the inbox that its own job message names, not in that of the first claim."""
    failure_leaves_no_turn: bool = True
    """Off: a failure that may be reopened stores what was said as the session's turn."""
    last_claim_leaves_the_turn: bool = True
    """Off: any worker that finds its call cancelled stores what its own handler left."""

    def without(self, rule: str) -> Rules:
        """The protocol without one rule, named as on the command line (`fence-then-fold`)."""
        return replace(self, **{rule.replace("-", "_"): False})


NAMES = tuple(field.name.replace("_", "-") for field in fields(Rules))
"""Of all rules, as on the command line."""
