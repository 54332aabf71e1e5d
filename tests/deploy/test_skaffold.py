"""skaffold.yaml names files, images, ports and workloads that there are."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from deploy.manifests import ROOT, Document, documents, of_kind, rendered
from tests.deploy.containers import IMAGE, containers
from tests.optional import require_tool

SKAFFOLD: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text(encoding="utf-8"))
[ARTIFACT] = SKAFFOLD["build"]["artifacts"]
WORKLOADS = {"deployment": "Deployment", "statefulset": "StatefulSet", "service": "Service"}


@pytest.fixture(scope="module")
def dev() -> list[Document]:
    require_tool("kustomize")
    [path] = SKAFFOLD["manifests"]["kustomize"]["paths"]
    return documents(rendered(ROOT / path))


def test_image_is_that_of_the_manifests(dev: list[Document]) -> None:
    assert ARTIFACT["image"] == IMAGE
    assert (ROOT / ARTIFACT["context"] / ARTIFACT["docker"]["dockerfile"]).is_file()
    assert sum(container.ours for container in containers(dev)) > 6


def test_profiles_deploy_folders_that_there_are() -> None:
    for profile in SKAFFOLD["profiles"]:
        for path in profile["manifests"]["kustomize"]["paths"]:
            assert (ROOT / path / "kustomization.yaml").is_file()


def test_changed_files_go_where_the_processes_take_them_from(dev: list[Document]) -> None:
    rules = ARTIFACT["sync"]["manual"]
    for rule in rules:
        assert list(ROOT.glob(rule["src"])), rule["src"]
    packages = {
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if path.parent.name in ("bridge", "qingyu_ai", "services")
    }
    assert {rule["src"].partition("/")[0] for rule in rules} == packages
    [folder] = {rule["dest"] for rule in rules}
    for container in containers(dev):
        if container.workload["kind"] == "Deployment" and container.ours and not container.first:
            assert container.environment({})["PYTHONPATH"] == folder
            assert folder in {mount["mountPath"] for mount in container.described["volumeMounts"]}


def test_ports_that_are_forwarded_are_there(dev: list[Document]) -> None:
    ports = {c.kind: set(c.ports.values()) for c in containers(dev) if not c.first}
    for forward in SKAFFOLD["portForward"]:
        kind, name = WORKLOADS[forward["resourceType"]], forward["resourceName"]
        [found] = [document for document in of_kind(dev, kind) if document["metadata"]["name"] == name]
        assert found["metadata"]["namespace"] == forward["namespace"]
        served = {p["port"] for p in found["spec"]["ports"]} if kind == "Service" else ports[name]
        assert forward["port"] in served
    local = [forward["localPort"] for forward in SKAFFOLD["portForward"]]
    assert len(set(local)) == len(local)
