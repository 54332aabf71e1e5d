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
    base_is_checked_behind_the_fence: bool = True
    """Off: the fold looks at `base` only in the first frame that it hears of an epoch, which may be a fence."""
    base_is_demanded: bool = True
    """Off: the fold takes the first data or end of an epoch that it hears, though the frame with `base` is missing."""
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
    every_claim_fences: bool = True
    """Off: the first claim of a reopened call begins without a fence and without a fold."""
    text_is_of_one_log: bool = True
    """Off: a reader goes on in a log that was made anew, though the fences of its call were lost with the one before."""
    epoch_is_compared: bool = True
    """Off: who ends OK by the record looks at the count only, not at whose text it counts."""
    restart_needs_a_base: bool = True
    """Off: of a text that was begun anew, the reader need not have heard where the last claim goes on."""
    no_text_is_anybodys: bool = True
    """Off: also of a call without deltas, the reader must have heard whose it is."""
    read_log_is_asked_for: bool = True
    """Off: a reader that has read the log itself does not ask, before it ends OK, whether it was the one that it takes it for."""
    logs_are_compared: bool = True
    """Off: who is to be answered from the log does not look whether the record's claim was made in the log that is there."""
    restart_is_told: bool = True
    """Off: who has text of a log that was lost does not look whether the text was begun anew."""
    end_checks_the_rest: bool = True
    """Off: a caller that resumes is told OK, if there is no word that it does not have, without a look at the record."""
    begun_is_checked_before_reopening: bool = True
    """Off: a failure is reopened also for a caller who then cannot be given the rest."""
    nothing_is_no_text: bool = True
    """Off: a call of no deltas ends a reader whose log was lost, whatever it has shown."""
    lost_queue_is_told_astray: bool = True
    """Off: a reader whose log was lost waits for the next claim though the job is lost with its queue."""
    log_is_asked_after_the_fold: bool = True
    """Off: a worker believes that its fence went to the log that it knew when it was given the job."""
    one_inbox: bool = True
    """Off: a claim speaks, and folds, in the inbox that its own job message names, not in the one in the record."""
    later_turn_replaces: bool = True
    """Off: the turn that is stored first stays, though the call was reopened and decided again."""
    earlier_turn_does_not: bool = True
    """Off: the turn that is stored last stays, whichever decision it belongs to."""
    last_claim_leaves_the_turn: bool = True
    """Off: any worker that finds its call decided stores what its own handler left."""
    note_is_compared: bool = True
    """Off: what a claim writes into its record while it runs is written whatever the record holds by now."""
    epoch_outlives_notes: bool = True
    """Off: a note gives the claim a new epoch, as it gives the record a new revision."""
    take_over_is_not_moved: bool = True
    """Off: a claim that has not read yet what was said before it counts as one that has said nothing, and is said to be of a
    log that was made anew."""
    count_is_of_what_is_stored: bool = True
    """Off: the end of a worker that the log does not answer any more counts what the log may never store."""
    adopted_is_not_claimed: bool = True
    """Off: a delivery that comes to the worker that runs its job already is taken for one whose worker is lost."""
    adopted_is_the_same_message: bool = True
    """Off: a run takes in any message of its call."""
    joined_are_told: bool = True
    """Off: only who stored a job is told that its queue refused it, not who joined at the same bridge."""

    def without(self, rule: str) -> Rules:
        """The protocol without one rule, named as on the command line (`fence-then-fold`)."""
        return replace(self, **{rule.replace("-", "_"): False})


NAMES = tuple(field.name.replace("_", "-") for field in fields(Rules))
"""Of all rules, as on the command line."""
