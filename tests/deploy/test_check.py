"""`python -m deploy.check` notices what would fail in a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deploy import check
from deploy.manifests import COMPONENTS, K8S, OVERLAYS, Document, RenderError, of_kind, rendered, targets
from tests.optional import require_tool

Spoil = Callable[[Document], None]


def spoiled(found: list[Document], kind: str, spoil: Spoil) -> str:
    """All objects, the first of a kind changed."""
    copy: list[Document] = yaml.safe_load(yaml.safe_dump(found))
    spoil(of_kind(copy, kind)[0])
    return yaml.safe_dump_all(copy)


def test_everything_that_can_be_applied_holds(schemas: Path) -> None:
    require_tool("kustomize")
    require_tool("promtool")
    assert {"dev", "prod"} <= set(OVERLAYS)
    assert {"keda", "networkpolicies", "monitoring"} <= set(COMPONENTS)
    assert len(targets()) == 1 + len(OVERLAYS) + len(COMPONENTS)
    assert check.main() == 0


def pod(workload: Document) -> Document:
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    ("kind", "spoil", "named"),
    [
        ("Deployment", lambda d: pod(d)["containers"][0].update(readinesProbe={}), "readinesProbe"),
        ("Deployment", lambda d: pod(d).update(terminationGracePeriodSeconds="long"), "terminationGracePeriodSeconds"),
        ("Deployment", lambda d: d["spec"].pop("selector"), "selector"),
        ("StatefulSet", lambda d: pod(d)["containers"][0]["securityContext"].update(readOnly=True), "readOnly"),
        ("Service", lambda d: d["spec"].update(clusterIp="None"), "clusterIp"),
        ("Job", lambda d: d["spec"].update(retries=3), "retries"),
        ("ScaledObject", lambda d: d["spec"].update(minReplicas=2), "minReplicas"),
        ("ScaledObject", lambda d: d["spec"]["triggers"][0].pop("type"), "type"),
        ("NetworkPolicy", lambda d: d["spec"].update(from_=[]), "from_"),
        ("PodMonitor", lambda d: d["spec"]["podMetricsEndpoints"][0].update(every="10s"), "every"),
        ("PodMonitor", lambda d: d["spec"]["podMetricsEndpoints"][0].update(interval="often"), "interval"),
        ("PrometheusRule", lambda d: d["spec"]["groups"][0].pop("name"), "name"),
    ],
)
def test_field_that_nobody_knows_or_misses_is_named(
    prod: list[Document], schemas: Path, kind: str, spoil: Spoil, named: str
) -> None:
    assert named in check.invalid(spoiled(prod, kind, spoil))


def test_kind_without_a_schema_is_an_error(schemas: Path) -> None:
    unknown = yaml.safe_dump({"apiVersion": "example.com/v1", "kind": "Surprise", "metadata": {"name": "it"}})
    assert "Surprise" in check.invalid(unknown)


def test_rule_that_prometheus_does_not_take_is_named(prod: list[Document]) -> None:
    require_tool("promtool")

    def spoil(rule: Document) -> None:
        rule["spec"]["groups"][0]["rules"][0]["expr"] = "sum(rate(qingyu_bridge_calls_total[5m])"

    assert "unclosed left parenthesis" in check.wrong_rules(spoiled(prod, "PrometheusRule", spoil))


def test_copy_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(K8S, tmp_path / "deploy" / "k8s")
    original = (K8S.parents[1] / "nats.conf").read_text(encoding="utf-8")
    (tmp_path / "nats.conf").write_text(original + "# another line\n", encoding="utf-8")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "K8S", tmp_path / "deploy" / "k8s")
    assert check.copies() == [
        "deploy/k8s/base/nats.conf is not nats.conf: run `cp nats.conf deploy/k8s/base/nats.conf`"
    ]


def test_folder_that_kustomize_does_not_render_is_an_error(tmp_path: Path) -> None:
    require_tool("kustomize")
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(RenderError, match=r"missing\.yaml"):
        rendered(tmp_path)


def test_missing_tools_are_named_on_a_laptop_and_an_error_in_ci(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "tool", lambda name: None if name == "kubeconform" else f"/bin/{name}")
    monkeypatch.setenv("CI", "false")
    assert check.main() == 0
    assert "no kubeconform" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert check.main() == 1
    assert "kubeconform must be there" in capsys.readouterr().err
