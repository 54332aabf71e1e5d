"""The NATS server that leads the log, the queue or the records is killed under load, on a cluster of three.

The load and the kills are those of the cluster's end-to-end tests, which are the short form of this row; the text that each call
must have is the counting worker's.
"""

from __future__ import annotations

from qingyu_ai.bus import topology
from tests.e2e.callers import COUNTING
from tests.e2e.cluster_doses import kill_leaders, never_accepted
from tests.faults.patched import PROCESS, WITHOUT
from tests.faults.report import Control, Outcome, Row, Run
from tests.faults.rig import PATCHED
from tests.nats_cluster import NatsCluster
from tests.running import System, Worker

LED = {"log": topology.LOG, "queue": "AI_CHAT", "records": topology.CALLS}

STALL_SECONDS = 20.0
"""Two votes of nine seconds, and what surrounds them."""


def run(run: Run, outcome: Outcome) -> None:
    """Kill each leader as often as the dose."""
    worker = COUNTING
    if run.without:
        worker = Worker(PATCHED, COUNTING.kind, {PROCESS: "counting", WITHOUT: run.without})
    with System(worker, worker, bridges=2, nats=NatsCluster()) as system:
        for name, stream in LED.items():
            tolls = kill_leaders(system, stream, kills=run.dose)
            outcome.counts[f"{name} killed"] = len(tolls)
            stalls = [max(toll.longest_silence, *toll.took) for toll in tolls]
            outcome.time(f"{name} stall", stalls, at_most=STALL_SECONDS)
            for toll in tolls:
                refused = never_accepted(system, toll)
                outcome.wrong += [f"{name}: broken: {call!r}" for call in toll.broken]
                lost = [call for call in toll.failed if call not in refused and call not in toll.broken]
                outcome.wrong += [f"{name}: accepted and failed: {call!r}" for call in lost]
                for what, count in (("calls", len(toll.calls)), ("refused", len(refused))):
                    outcome.counts[what] = outcome.counts.get(what, 0) + count
        system.wait_ready()


ROW = Row(
    "leaders",
    "kill -9 of the NATS server that leads log, queue or records, on three: no accepted call is lost, no stream breaks",
    full=5,
    short=0,
    run=run,
    controls=(Control("patience", "broken", dose=1),),
)
