"""How every process of the system runs: settings, logs, event loop, signals, exit status."""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TextIO

import structlog
import uvloop
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from .bus.connection import NatsBus
from .bus.transport_errors import TransportError, Unfit
from .bus.worker import Worker
from .events.kinds import KINDS
from .events.publishing import Publisher
from .settings import Settings, SettingsError, load
from .settings import Worker as WorkerSettings
from .telemetry import Operations, configure_logging
from .tracing.starting import traced
from .watchdog import Watchdog

log = structlog.get_logger(__name__)

CALL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Seconds; a chat may take milliseconds, a chapter minutes."""

EXIT_SETTINGS = 2
"""The settings do not hold, or an address cannot be had: starting again changes nothing."""

EXIT_LOST = 1
"""Something that the process needs is not there; a supervisor may try again."""


class AddressTaken(Exception):
    """A port that the process must listen on is taken. The message names the setting."""


Main = Callable[[Settings, asyncio.Event], Awaitable[None]]
"""Runs until the event is set, by a signal or because the broker is lost for good."""


def run(name: str, main: Main, *, logs: TextIO | None = None) -> None:
    """Run a process to its end and exit.

    Args:
        name: of the process, for its log lines.
        main: starts everything, waits for the event, stops everything.
        logs: where log lines go; None: to standard output.
    """
    try:
        settings = load()
    except SettingsError as e:
        sys.stderr.write(f"{name}: {e}\n")
        sys.exit(EXIT_SETTINGS)
    configure_logging(settings.log, name, logs)
    try:
        with traced(settings.trace, name):
            status = uvloop.run(_supervised(main, settings))
    except SettingsError as e:
        log.error("settings_do_not_hold", error=str(e))
        status = EXIT_SETTINGS
    sys.exit(status)


async def _supervised(main: Main, settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop.set)
    watchdog = Watchdog(settings.bus.watchdog_seconds)
    try:
        await main(settings, stop)
    except AddressTaken as e:
        log.error("address_taken", error=str(e))
        return EXIT_SETTINGS
    except SettingsError as e:
        log.error("settings_do_not_hold", error=str(e))
        return EXIT_SETTINGS
    except Unfit as e:
        log.error("broker_unfit", error=str(e))
        return EXIT_SETTINGS
    except TransportError as e:
        log.error("bus_not_available", error=str(e))
        return EXIT_LOST
    finally:
        watchdog.stop()
    return 0


def open_operations(name: str, host: str, port: int, unready: Callable[[], str]) -> Operations:
    """Open the process's endpoint for operators.

    Raises:
        AddressTaken: the address cannot be had.
    """
    try:
        operations = Operations(host, port, unready)
    except OSError as e:
        setting = f"QINGYU_{name.upper()}__METRICS_PORT"
        raise AddressTaken(f"cannot listen on {host}:{port} ({e.strerror}); set {setting}") from None
    operations.start()
    return operations


async def worker_process(
    kind: str,
    settings: Settings,
    own: WorkerSettings,
    stop: asyncio.Event,
    serve: Callable[[NatsBus, Worker], None],
    *,
    metadata: dict[str, str] | None = None,
    publishes: Callable[[Publisher], None] | None = None,
) -> None:
    """Run a worker process: connect, register, serve, drain.

    Args:
        own: the settings that every kind of worker has.
        serve: registers the rows.
        metadata: what the worker says of itself when asked who is there.
        publishes: is given what publishes the process's events, before `serve`.

    Raises:
        TransportError: there is no broker, or not the one that the settings want.
        AddressTaken: the metrics port cannot be had.
    """
    bus = await NatsBus.open(settings.nats.servers, kind, on_closed=stop.set)
    await bus.ensure_topology(settings.bus)
    bus.on_reconnect(lambda: bus.ensure_topology(settings.bus))
    publisher = Publisher(bus, settings.bus)
    watch_events(publisher)
    if publishes is not None:
        publishes(publisher)
    worker = Worker(bus, kind, settings.bus, slots=own.slots, metadata=metadata, observer=publisher)
    serve(bus, worker)
    observe(worker)

    serving = False

    def unready() -> str:
        if worker.draining:
            return "draining"
        if not bus.connected:
            return "no connection to NATS"
        return "" if serving else "starting"

    operations = open_operations(kind, own.metrics_host, own.metrics_port, unready) if own.metrics_port else None
    await worker.start()
    serving = True
    await stop.wait()
    await worker.drain(own.drain_seconds)
    if operations is not None:
        operations.stop()
    await bus.close()


def watch_events(publisher: Publisher, registry: CollectorRegistry = REGISTRY) -> None:
    """Count the events that a process publishes."""
    sent = Gauge("qingyu_events_sent", "Events published by this process", ["event"], registry=registry)
    shed = Gauge(
        "qingyu_events_shed", "Events not published: too many, or no broker takes them", ["event"], registry=registry
    )
    for kind in KINDS:
        sent.labels(kind.name).set_function(functools.partial(publisher.sent.__getitem__, kind.name))
        shed.labels(kind.name).set_function(functools.partial(publisher.shed.__getitem__, kind.name))
    waiting = Gauge("qingyu_events_waiting", "Events that must not be shed and are not stored yet", registry=registry)
    waiting.set_function(lambda: publisher.waiting)


def observe(worker: Worker, registry: CollectorRegistry = REGISTRY) -> None:
    """Count a worker's calls for Prometheus."""
    calls = Counter("qingyu_worker_calls", "Finished calls by method", ["method"], registry=registry)
    seconds = Histogram(
        "qingyu_worker_call_seconds", "Duration of calls", ["method"], buckets=CALL_BUCKETS, registry=registry
    )
    running = Gauge("qingyu_worker_running", "Calls that run now", registry=registry)
    running.set_function(lambda: worker.running)
    for name, what, value in (
        ("slots", "Jobs that may run at once", lambda: worker.slots),
        (
            "suspects",
            "Jobs that run alone, or wait to, because workers were lost over them",
            lambda: len(worker.jobs.suspects),
        ),
        (
            "put_back",
            "How often a job was put back because its user has enough slots here",
            lambda: worker.jobs.shares.put_back,
        ),
        ("waiting_deltas", "Deltas that wait for the log or for their reader", lambda: worker.jobs.waiting_deltas),
        ("bus_requests", "Requests to NATS without a reply yet", lambda: worker.bus.waiting),
        ("dead_letters", "Jobs put aside by this process", lambda: worker.jobs.dead_letters.stored),
        ("dead_letters_lost", "Jobs put aside whose letter could not be stored", lambda: worker.jobs.dead_letters.lost),
    ):
        Gauge(f"qingyu_worker_{name}", what, registry=registry).set_function(value)

    def finished(method: str, duration: float) -> None:
        calls.labels(method).inc()
        seconds.labels(method).observe(duration)

    worker.observe(finished)
