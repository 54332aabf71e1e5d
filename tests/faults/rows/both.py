"""A bridge and a worker are killed in the same instant, and callers go on at the other bridge."""

from __future__ import annotations

import functools

from tests.faults.report import Control, Row

from . import bridge_streams

ROW = Row(
    "both",
    "kill -9 of a bridge and a worker in one instant: read on at another bridge, each text is whole",
    full=50,
    short=10,
    run=functools.partial(bridge_streams.run, worker_too=True),
    controls=(Control("resume", "repeat", dose=5), Control("seam", "repeat", dose=5)),
)
