"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.nats_cluster import ON_CLUSTER, AnyNats, session_cluster
from tests.nats_process import NatsProcess


@pytest.fixture(scope="session")
def nats_process() -> Iterator[AnyNats]:
    """A real nats-server, or a cluster of them, one for each test process."""
    if ON_CLUSTER:
        yield session_cluster()
        return
    process = NatsProcess()
    process.start()
    yield process
    process.close()


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Log lines of the code under test belong to the test that caused them, not to the terminal."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def frequent_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge in the test's own process sees a worker as soon as it is there, and not at its next question."""
    monkeypatch.setattr("qingyu_ai.bus.discovery.PING_EVERY", 0.03)
