"""What the manifests say to the processes is what these understand."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.manifests import K8S, Document, of_kind
from qingyu_ai.cli.programs import KINDS
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import Settings, load
from tests.deploy.containers import Container, containers

pytestmark = pytest.mark.usefixtures("nothing_is_set")

OUTSIDE: Mapping[str, Mapping[str, str]] = {
    "qingyu-database": {"QINGYU_RAG__DSN": "postgresql://qingyu_rag:secret@database/qingyu"},
    "qingyu-database-owner": {"QINGYU_RAG__OWNER_DSN": "postgresql://owner:secret@database/qingyu"},
    "qingyu-bridge": {
        "QINGYU_BRIDGE__TOKEN_KEYS_URL": "https://login.example.com/jwks.json",
        "QINGYU_BRIDGE__TOKEN_ISSUER": "https://login.example.com",
        "QINGYU_BRIDGE__TOKEN_AUDIENCE": "qingyu-ai",
        "QINGYU_BRIDGE__TRUSTED_ROLES": '["ai-proxy"]',
    },
    "qingyu-proxy": {
        "QINGYU_PROXY__TICKET_KEY": "t" * 32,
        "QINGYU_PROXY__BACKEND_KEY": "b" * 32,
        "QINGYU_AI__PROXY__TOKEN": "a.b.c",
    },
    "qingyu-proofs": {"bridge.pem": "…", "agent.pem": "…", "callers.pem": "…"},
    "nats-users": {name: f"p-{name}-{'x' * 20}" for name in NAMES},
    "qingyu-models": {"QINGYU_LLM__BASE_URL": "https://api.example.com/v1", "QINGYU_LLM__API_KEY": "secret"},
}
"""What an operator makes (docs/operations.md)."""


STAYS = ["python", "-m", "qingyu_ai.streams", "--stay"]
"""What makes streams again, where processes may not (components/nats-permissions). It serves nobody."""


def settings_of(container: Container, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What its process reads. Unknown names, values out of range and files that are not mounted are errors there."""
    with tempfile.TemporaryDirectory() as root, monkeypatch.context() as patched:
        for path in container.files:
            (Path(root) / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (Path(root) / path.lstrip("/")).touch()
        for name, value in container.environment(OUTSIDE).items():
            patched.setenv(name, f"{root}{value}" if value.startswith("/etc/") else value)
        return load()


def ours(found: list[Document]) -> list[Container]:
    """The containers that run a program of this project; another one copies files (overlays/dev)."""
    return [container for container in containers(found) if container.ours and container.command[1] == "-m"]


def test_every_variable_is_a_setting_and_every_value_holds(
    applied: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    for container in ours(applied):
        settings = settings_of(container, monkeypatch)
        assert settings.nats.url
        unknown = {n for n in container.environment(OUTSIDE) if not n.startswith("QINGYU_")}
        assert unknown <= {"NATS_URL", "PYTHONPATH"}, container


def test_there_is_a_deployment_for_each_kind_of_process(applied: list[Document]) -> None:
    modules = {c.kind: c.command for c in ours(applied) if c.workload["kind"] == "Deployment" and not c.first}
    assert modules.pop("streams", STAYS) == STAYS
    assert modules == {kind.name: ["python", "-m", kind.module] for kind in KINDS}


def test_commands_are_programs_that_there_are(applied: list[Document]) -> None:
    for container in ours(applied):
        python, flag, module, *rest = container.command
        assert python == "python"
        assert rest in ([], ["--stay"])
        if flag == "-m":
            found = importlib.util.find_spec(module)
            assert found is not None, f"{container}: there is no module {module}"
            package = importlib.util.find_spec(f"{module}.__main__") if found.submodule_search_locations else found
            assert package is not None, f"{container}: {module} is no program"


def test_ports_are_those_that_the_processes_listen_on(applied: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    for container in ours(applied):
        if container.workload["kind"] != "Deployment" or container.first or container.kind == "streams":
            continue
        settings = settings_of(container, monkeypatch)
        own = getattr(settings, container.kind)
        listens = {own.metrics_port} | ({own.port} if container.kind in ("bridge", "proxy") else set())
        assert set(container.ports.values()) == listens, container
        assert container.ports["metrics"] == own.metrics_port
        assert own.metrics_host == "0.0.0.0"


def test_probes_name_ports_that_the_container_has(applied: list[Document]) -> None:
    for container in containers(applied):
        if container.workload["kind"] == "Job" or container.first or container.kind in ("postgres", "streams"):
            continue
        for name in ("startup", "readiness", "liveness"):
            probe = container.probe(name)
            assert probe, f"{container} has no {name} probe"
            port = probe["httpGet"]["port"] if "httpGet" in probe else probe["grpc"]["port"]
            assert port in container.ports or port in container.ports.values(), f"{container}: {port}"


def test_services_lead_to_ports_and_pods_that_there_are(applied: list[Document]) -> None:
    workloads = {w["metadata"]["name"]: w for kind in ("Deployment", "StatefulSet") for w in of_kind(applied, kind)}
    ports = {c.kind: c.ports for c in containers(applied) if not c.first}
    for service in of_kind(applied, "Service"):
        name = service["metadata"]["name"]
        labels = workloads[name]["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports[name], f"{name}: {port}"


def test_addresses_in_the_settings_are_services(applied: list[Document], monkeypatch: pytest.MonkeyPatch) -> None:
    services = {s["metadata"]["name"]: s for s in of_kind(applied, "Service")}
    [nats] = of_kind(applied, "StatefulSet")
    pods = [f"nats-{n}.nats:4222" for n in range(nats["spec"]["replicas"])]
    for container in ours(applied):
        settings = settings_of(container, monkeypatch)
        scheme = "tls" if settings.nats.ca_file else "nats"
        assert settings.nats.servers == [f"{scheme}://{pod}" for pod in pods]
        assert settings.bus.replicas == len(pods)
        assert settings.ai.proxy.python_addr == f"dns:///bridge:{services['bridge']['spec']['ports'][0]['port']}"
    assert services["bridge"]["spec"]["clusterIP"] == "None"
    assert services["nats"]["spec"]["clusterIP"] == "None"


def test_callers_of_the_bridge_are_spread_and_find_new_bridges(
    base: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By names that are looked up again when a connection ends, which it does by its age."""
    [bridge] = [c for c in ours(base) if c.kind == "bridge"]
    assert 0 < settings_of(bridge, monkeypatch).bridge.connection_age_seconds <= 600


def test_each_process_has_only_the_secrets_that_it_needs(base: list[Document]) -> None:
    secrets = {(c.kind, c.described["name"]): c.secrets for c in ours(base) if c.secrets}
    assert secrets == {
        ("bridge", "main"): {"qingyu-bridge", "qingyu-proofs: bridge.pem"},
        ("agent", "main"): {"qingyu-proofs: agent.pem"},
        ("tool", "main"): {"qingyu-proofs: callers.pem"},
        ("rag", "main"): {"qingyu-database"},
        ("proxy", "main"): {"qingyu-proxy"},
        ("setup", "database"): {"qingyu-database", "qingyu-database-owner"},
    }


def test_each_process_of_a_deployment_has_its_own_password_for_nats(prod: list[Document]) -> None:
    """The servers have all; who migrates the database, and the proxy, have none."""
    variables = {}
    for container in containers(prod):
        if container.described["name"] == "renewal":
            continue
        keys = [
            v["valueFrom"]["secretKeyRef"]["key"]
            for v in container.described.get("env", ())
            if "secretKeyRef" in v.get("valueFrom", {}) and not v["valueFrom"]["secretKeyRef"].get("optional")
        ]
        variables[container.kind, container.described["name"]] = keys
    nats = variables.pop(("nats", "nats"))
    assert nats == list(NAMES)
    assert variables == {
        **{(kind, "main"): [kind] for kind in ("bridge", "chat", "agent", "rag", "tool")},
        ("setup", "main"): ["setup"],
        ("streams", "main"): ["setup"],
        ("setup", "database"): [],
        ("proxy", "main"): [],
    }


def test_no_manifest_of_a_deployment_holds_a_secret(prod: list[Document]) -> None:
    assert of_kind(prod, "Secret") == []
    for config in of_kind(prod, "ConfigMap"):
        named = [name for name in config["data"] if name.lower().endswith(("password", "_key", "dsn"))]
        assert named == []


def test_settings_of_the_base_are_read_as_they_are() -> None:
    """kustomize reads `settings.env` by rules of its own: nothing there may need quoting."""
    for line in (K8S / "base" / "settings.env").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            assert name.isupper()
            assert value == value.strip()
            assert not set(value) & set("\"'#"), line
