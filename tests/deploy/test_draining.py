"""Scale-in and rollouts end no call: by the times in the manifests, and by what a process does with them."""

from __future__ import annotations

import pytest

from deploy.manifests import Document, of_kind
from qingyu_ai.cli.programs import STOP_MARGIN_SECONDS
from tests.deploy.containers import containers
from tests.deploy.test_settings import ours, settings_of

AFTER_SECONDS = 20.0
"""For what a worker does when the answer is there: session, events, acknowledgement, each with the broker's patience."""


def test_a_process_drains_for_longer_than_any_call_may_take(
    prod: list[Document], base: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    for container in ours([*base]) + ours(prod):
        if container.workload["kind"] != "Deployment" or container.kind == "streams":
            continue
        settings = settings_of(container, monkeypatch)
        longest = settings.bus.longest_deadline_seconds
        if container.kind in ("bridge", "proxy"):
            longest += settings.bridge.longest_linger_seconds  # callers that are lost, and may come back
        else:
            longest += AFTER_SECONDS
        drain = getattr(settings, container.kind).drain_seconds
        assert drain >= longest, container


def test_a_pod_is_given_more_time_than_its_process_takes(
    applied: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    for container in ours(applied):
        if container.workload["kind"] == "Deployment" and not container.first and container.kind != "streams":
            drain = getattr(settings_of(container, monkeypatch), container.kind).drain_seconds
            hook = container.described.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            assert container.pod["terminationGracePeriodSeconds"] > drain + hook + STOP_MARGIN_SECONDS, container


def test_a_server_is_given_more_time_than_lame_duck_takes(applied: list[Document]) -> None:
    """nats.conf: 5 s of grace and 30 s to send clients away, and the server says that 35 is the least."""
    [nats] = [c for c in containers(applied) if c.kind == "nats" and not c.first]
    assert nats.pod["terminationGracePeriodSeconds"] > 35


def test_rollouts_add_before_they_remove(base: list[Document]) -> None:
    for deployment in of_kind(base, "Deployment"):
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
