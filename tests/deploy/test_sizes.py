"""The streams of a deployment have room on its servers, and its servers in their pods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.manifests import Document, of_kind
from tests.deploy.kubelet import Node
from tests.deploy.running import run_setup, start_servers
from tests.deploy.test_closed import secrets

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def in_bytes(quantity: str) -> int:
    """A quantity of Kubernetes, or of Go's runtime (`MiB`)."""
    number = quantity.removesuffix("B")
    return int(number[:-2]) * UNITS[number[-2:]]


def test_the_job_makes_all_streams_on_three_servers(prod: list[Document], tmp_path: Path) -> None:
    """Streams reserve what they may have: one that has no room is refused."""
    node = Node(prod, secrets(), tmp_path)
    try:
        servers = start_servers(node)
        run_setup(node, "main")
        [pod] = of_kind(prod, "StatefulSet")
        [container] = pod["spec"]["template"]["spec"]["containers"]
        [claim] = pod["spec"]["volumeClaimTemplates"]
        memory = in_bytes(container["resources"]["limits"]["memory"])
        [collects] = [v["value"] for v in container["env"] if v["name"] == "GOMEMLIMIT"]
        for server in servers:
            node.wait_for(server, "readiness")
            has = json.loads(server.get("monitor", "/varz")[1])["jetstream"]
            config, stats = has["config"], has["stats"]
            assert stats["reserved_memory"] <= config["max_memory"] < in_bytes(collects) < memory
            assert stats["reserved_memory"] > 4 * 2**30, "these are the sizes of a deployment"
            assert stats["reserved_storage"] <= config["max_storage"]
            assert config["max_storage"] < in_bytes(claim["spec"]["resources"]["requests"]["storage"])
    finally:
        node.close()
