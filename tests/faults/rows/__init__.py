"""The rows of the fault suite, in the order in which they are run. A new one is a file here and a line in `ROWS`."""

from __future__ import annotations

from tests.faults.report import Row

from . import (
    both,
    bridge_streams,
    cancel,
    deadline,
    frames,
    freeze,
    last_token,
    leaders,
    linger,
    log_lost,
    log_renewed,
    no_nats,
    poison,
    rolling_nats,
    rollout,
    same_request,
    slow_readers,
    soak,
    worker_jobs,
    worker_streams,
)

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        worker_streams.ROW,
        bridge_streams.ROW,
        both.ROW,
        last_token.ROW,
        worker_jobs.ROW,
        poison.ROW,
        cancel.ROW,
        linger.ROW,
        deadline.ROW,
        frames.ROW,
        freeze.ROW,
        slow_readers.ROW,
        log_lost.ROW,
        log_renewed.ROW,
        same_request.ROW,
        rollout.ROW,
        no_nats.ROW,
        leaders.ROW,
        rolling_nats.ROW,
        soak.ROW,
    )
}  # fmt: skip
