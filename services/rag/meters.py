"""What a retrieval worker shows of its database, for Prometheus."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from .database import Database


def show(database: Database, registry: CollectorRegistry = REGISTRY) -> None:
    """Show how much of the pool is in use, and who waits for it."""
    for name, what, value in (
        ("connections_used", "Calls that have a connection to the database", lambda: database.room.used),
        ("connections_waiting", "Calls that wait for one", lambda: database.room.waiting),
        ("writers_used", "Of the calls that have one: those that store documents", lambda: database.writers.used),
        ("writers_waiting", "Documents that wait to be stored", lambda: database.writers.waiting),
    ):
        Gauge(f"qingyu_rag_{name}", what, registry=registry).set_function(value)
