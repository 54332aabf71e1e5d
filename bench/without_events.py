"""A bridge or the echo worker that publishes nothing: what events cost is the difference. `BENCH_PROCESS` says which."""

from __future__ import annotations

import os

import bridge.__main__
from bench import echo_worker
from qingyu_ai.bus.observing import Nobody
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.process import run

MAINS = {"bridge": bridge.__main__.main, "chat": echo_worker.main}

if __name__ == "__main__":
    for name in ("accepted", "started", "first_token", "asked", "decided"):
        setattr(Publisher, name, getattr(Nobody, name))
    kind = os.environ["BENCH_PROCESS"]
    run(kind, MAINS[kind])
