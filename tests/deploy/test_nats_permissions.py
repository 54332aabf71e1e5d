"""The component nats-permissions: users as the table has them, and to each process its own password only."""

from __future__ import annotations

import pytest
import yaml

from deploy.manifests import K8S, Document, documents, of_kind, with_components
from qingyu_ai.doors.rendering import password_variable, render
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import Settings
from tests.optional import require_tool

FOLDER = K8S / "components" / "nats-permissions"


@pytest.fixture(scope="module")
def applied() -> list[Document]:
    require_tool("kustomize")
    return documents(with_components(K8S / "base", ["nats-permissions"]))


def passwords(workload: Document) -> list[str]:
    """The users whose passwords its first container gets; a process gets the one before, too, while there is one."""
    variables = workload["spec"]["template"]["spec"]["containers"][0].get("env", [])
    found = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in variables if "PASSWORDS" in v["name"]}
    assert all(ref["name"] == "nats-users" for ref in found.values())
    own = [ref["key"] for name, ref in found.items() if password_variable(ref["key"]) == name]
    before = {name: ref for name, ref in found.items() if "PREVIOUS" in name}
    assert len(own) + len(before) == len(found)
    if workload["kind"] != "StatefulSet":  # a server has one
        assert before == {
            password_variable(user).replace("__PASSWORDS", "__PREVIOUS_PASSWORDS"): {
                "name": "nats-users",
                "key": f"{user}-previous",
                "optional": True,
            }
            for user in own
        }
    return own


def test_users_are_those_of_the_table() -> None:
    written = (FOLDER / "doors.conf").read_text(encoding="utf-8")
    assert written == render(Settings()), (
        "run: qingyu-ai nats-permissions > deploy/k8s/components/nats-permissions/doors.conf"
    )


def test_servers_read_them(applied: list[Document]) -> None:
    [config] = [one for one in of_kind(applied, "ConfigMap") if one["metadata"]["name"].startswith("qingyu-nats")]
    assert config["data"]["doors.conf"] == render(Settings())
    assert "include doors.conf" in config["data"]["server.conf"]
    [servers] = of_kind(applied, "StatefulSet")
    assert passwords(servers) == list(NAMES)


def test_each_process_has_its_own_password_and_no_other(applied: list[Document]) -> None:
    held = {one["metadata"]["name"]: passwords(one) for one in of_kind(applied, "Deployment")}
    users = ("bridge", "chat", "agent", "rag", "tool")
    assert held == {**{name: [name] for name in users}, "streams": ["setup"], "proxy": []}
    [job] = of_kind(applied, "Job")
    assert passwords(job) == ["setup"]


def test_only_those_who_set_up_make_streams(applied: list[Document]) -> None:
    [settings] = [one for one in of_kind(applied, "ConfigMap") if one["metadata"]["name"].startswith("qingyu-settings")]
    assert settings["data"]["QINGYU_BUS__MAKE_STREAMS"] == "false"


def test_words_above_name_every_user() -> None:
    head = (FOLDER / "kustomization.yaml").read_text(encoding="utf-8").partition("apiVersion")[0]
    [line] = [line for line in head.splitlines() if "for user in" in line]
    assert line.partition("for user in ")[2].partition(";")[0].split() == list(NAMES)
    assert yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))["kind"] == "Component"
