"""No container has more than it needs."""

from __future__ import annotations

import re

import yaml

from deploy.manifests import ROOT, Document, of_kind
from tests.deploy.containers import WORKLOADS, containers


def test_nobody_is_root_and_nobody_writes_into_the_image(applied: list[Document]) -> None:
    for container in containers(applied):
        pod, own = container.pod["securityContext"], container.described["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] >= 999
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["readOnlyRootFilesystem"] is True, container
        assert own["allowPrivilegeEscalation"] is False, container
        assert own["capabilities"] == {"drop": ["ALL"]}, container


def test_no_pod_has_a_token_for_kubernetes_or_variables_of_its_services(applied: list[Document]) -> None:
    for workload in (w for kind in WORKLOADS for w in of_kind(applied, kind)):
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False


def test_memory_is_bounded_and_requested(base: list[Document], prod: list[Document]) -> None:
    for container in containers([*base, *prod]):
        resources = container.described["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}, container
        assert set(resources["limits"]) == {"memory"}, container  # a limit of CPU only makes a busy process slow


def test_every_kind_has_a_disruption_budget_and_is_spread(base: list[Document]) -> None:
    budgets = {b["metadata"]["name"]: b["spec"] for b in of_kind(base, "PodDisruptionBudget")}
    workloads = [*of_kind(base, "Deployment"), *of_kind(base, "StatefulSet")]
    assert set(budgets) == {workload["metadata"]["name"] for workload in workloads}
    for workload in workloads:
        spec = workload["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert budgets[workload["metadata"]["name"]]["selector"]["matchLabels"].items() <= labels.items()
        assert budgets[workload["metadata"]["name"]]["maxUnavailable"] == 1 < spec["replicas"]
        spread = spec["template"]["spec"]["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        assert all(one["labelSelector"]["matchLabels"].items() <= labels.items() for one in spread)


def test_network_policies_name_pods_and_ports_that_there_are(prod: list[Document]) -> None:
    ports = {c.kind: c.ports for c in containers(prod) if not c.first}
    kinds = set(ports)
    numbers = {number for of_one in ports.values() for number in of_one.values()} | {53, 443, 4317, 5432}
    for policy in of_kind(prod, "NetworkPolicy"):
        spec = policy["spec"]
        selected = _kinds(spec["podSelector"], kinds)
        assert selected <= kinds, policy["metadata"]["name"]
        for rule in spec.get("ingress", ()):
            assert {port["port"] for port in rule["ports"]} <= {n for kind in selected for n in ports[kind]}
        for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
            for peer in (*rule.get("from", ()), *rule.get("to", ())):
                if "namespaceSelector" not in peer:
                    assert _kinds(peer["podSelector"], kinds) <= kinds
        for rule in spec.get("egress", ()):
            assert {port["port"] for port in rule["ports"]} <= numbers


def _kinds(selector: Document, every: set[str]) -> set[str]:
    labels = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", ())
    if expressions:
        return set(expressions[0]["values"])
    return {labels["app.kubernetes.io/component"]} if "app.kubernetes.io/component" in labels else set(every)


def test_every_connection_that_the_system_makes_is_let_through(prod: list[Document]) -> None:
    """On both sides, where both are ours."""
    made = {
        ("bridge", "nats", 4222), ("chat", "nats", 4222), ("agent", "nats", 4222), ("rag", "nats", 4222),
        ("tool", "nats", 4222), ("setup", "nats", 4222), ("nats", "nats", 6222), ("proxy", "bridge", 50051),
    }  # fmt: skip
    ports = {c.kind: c.ports for c in containers(prod) if not c.first}
    kinds = set(ports)
    out, into = set(), set()
    for policy in of_kind(prod, "NetworkPolicy"):
        spec = policy["spec"]
        for kind in _kinds(spec["podSelector"], kinds):
            for rule in spec.get("egress", ()):
                for peer in (p for p in rule.get("to", ()) if "namespaceSelector" not in p):
                    out |= {(kind, to, p["port"]) for to in _kinds(peer["podSelector"], kinds) for p in rule["ports"]}
            for rule in spec.get("ingress", ()):
                for peer in (p for p in rule.get("from", ()) if "namespaceSelector" not in p):
                    named = ports[kind]
                    into |= {
                        (one, kind, named[p["port"]])
                        for one in _kinds(peer["podSelector"], kinds)
                        for p in rule["ports"]
                    }
    assert out == into == made


def test_what_the_system_needs_from_elsewhere_is_let_through(prod: list[Document]) -> None:
    """Model servers, keys that verify tokens, the database, a collector of traces; a tool needs nothing."""
    kinds = {c.kind for c in containers(prod) if not c.first}
    anywhere: set[tuple[str, int]] = set()
    labelled: set[tuple[str, str, int]] = set()
    for policy in of_kind(prod, "NetworkPolicy"):
        for kind in _kinds(policy["spec"]["podSelector"], kinds):
            for rule in policy["spec"].get("egress", ()):
                if "to" not in rule:
                    anywhere |= {(kind, port["port"]) for port in rule["ports"]}
                for peer in rule.get("to", ()):
                    for label in peer.get("namespaceSelector", {}).get("matchLabels", ()):
                        labelled |= {(kind, label, port["port"]) for port in rule["ports"]}
    assert anywhere == {
        *((kind, 443) for kind in ("bridge", "proxy")),
        *((kind, 443) for kind in ("chat", "agent", "rag")),
        *((kind, 5432) for kind in ("rag", "setup")),
    }
    assert labelled == {
        (kind, "qingyu/collects-traces", 4317) for kind in ("bridge", "chat", "agent", "rag", "tool", "proxy")
    }


def test_labels_that_open_a_door_are_what_the_page_tells_to_set(prod: list[Document]) -> None:
    asked = set(re.findall(r"qingyu/[a-z-]+", yaml.safe_dump(of_kind(prod, "NetworkPolicy"))))
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"kubectl label namespace \S+ (qingyu/[a-z-]+)=true", page)) == asked
