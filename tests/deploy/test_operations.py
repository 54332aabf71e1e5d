"""docs/operations.md: its commands make what the manifests want, and change keys so that nobody is shut out."""

from __future__ import annotations

import ssl
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
import yaml

from deploy.manifests import K8S, ROOT, Document, documents, of_kind, with_components
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.identity.claims import Refused
from qingyu_ai.identity.tool_tokens import Signer, ToolVerifier
from qingyu_ai.settings import Settings, load
from tests.deploy.containers import containers
from tests.deploy.kubectl import Cluster, Secret, blocks
from tests.deploy.test_settings import ours
from tests.optional import require_program

pytestmark = pytest.mark.usefixtures("nothing_is_set")

DSNS = {"WORKER_PASSWORD": "w" * 20, "OWNER_PASSWORD": "o" * 20, "DATABASE_HOST": "db.example.com"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A namespace in which somebody has made the Secrets as the page says. Others' tests change them: look at `versions`."""
    require_program("openssl")
    folder = tmp_path_factory.mktemp("cluster")
    return installed(folder, trustme.CA().cert_pem.bytes(), **DSNS)


def test_page_makes_what_certificates_of_clients_need(tmp_path: Path) -> None:
    [commands] = blocks("### Certificates of clients")
    cluster = Cluster(tmp_path)
    overlay = tmp_path / "deploy/k8s/overlays/prod/kustomization.yaml"
    overlay.parent.mkdir(parents=True)
    overlay.write_text((ROOT / overlay.relative_to(tmp_path)).read_text())
    cluster.run(commands, ISSUER="the-issuer")
    assert yaml.safe_load(overlay.read_text())["components"][-1] == "../../components/mutual-tls"
    found = documents(with_components(K8S / "base", ["mutual-tls"]))
    wanted = set().union(*(container.secrets for container in containers(found) if container.ours))
    assert wanted & set(cluster.secrets) == {"qingyu-client-tls"}


def installed(folder: Path, authority: bytes, **variables: str) -> Cluster:
    """Make the Secrets.

    Args:
        authority: who vouches for the database, PEM.
        variables: what the page leaves open.
    """
    (folder / "database.crt").write_bytes(authority)
    made = Cluster(folder)
    for block in blocks("## Install"):
        if "create secret" in block or "apply -f -" in block:
            made.run(
                block,
                DATABASE_CA=str(folder / "database.crt"),
                PROXY_TOKEN="a.b.c",
                MODEL_KEY="secret",
                ISSUER="the-issuer",
                **variables,
            )
    return made


def first(cluster: Cluster) -> dict[str, Secret]:
    return {name: cluster.versions(name)[0] for name in cluster.secrets}


def test_page_makes_every_secret_that_the_manifests_want_and_no_other(cluster: Cluster, prod: list[Document]) -> None:
    made = first(cluster)
    for wanted in set().union(*(container.secrets for container in containers(prod))):
        name, _, key = wanted.partition(": ")
        assert name in made, f"nobody makes the Secret {name}"
        assert not key or key in made[name], f"nobody puts {key} into the Secret {name}"
    manifests = str(prod)
    assert [name for name in made if f"'{name}'" not in manifests] == []


def test_values_that_the_page_puts_there_are_what_the_processes_take(
    cluster: Cluster, prod: list[Document], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = first(cluster)
    for container in ours(prod):
        with monkeypatch.context() as patched:
            for path, volume in container.mounts.items():
                for name, text in made.get(volume.get("secret", {}).get("secretName", ""), {}).items():
                    (tmp_path / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
                    (tmp_path / path.lstrip("/") / name).write_text(text)
            for name, value in container.environment(made).items():
                patched.setenv(name, f"{tmp_path}{value}" if value.startswith("/etc/") else value)
            settings = load()
            if container.kind == "rag":
                assert settings.rag.dsn.get_secret_value().endswith("sslrootcert=/etc/qingyu/database/ca.crt")
                assert "/etc/qingyu/database" in container.mounts


def test_certificates_that_the_page_asks_for_hold_for_every_name_that_is_called(
    cluster: Cluster, prod: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = first(cluster)
    [settings] = [d for d in of_kind(prod, "ConfigMap") if d["metadata"]["name"].startswith("qingyu-settings")]
    servers = Settings(nats={"url": settings["data"]["NATS_URL"]}).nats.servers  # type: ignore[arg-type]
    for server in servers:
        host = server.removeprefix("tls://").partition(":")[0]
        for name in (host, f"{host}.qingyu.svc.cluster.local"):
            assert handshake(made["qingyu-nats-tls"], name) == ""
    for name in ("bridge", "bridge.qingyu", "bridge.qingyu.svc.cluster.local"):
        assert handshake(made["qingyu-bridge-tls"], name) == ""
    assert "not valid for" in handshake(made["qingyu-bridge-tls"], "elsewhere")


def handshake(secret: Secret, name: str) -> str:
    """Connect in memory to who shows this certificate, by a name; what is wrong with it, empty: nothing."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cadata=secret["ca.crt"])
    folder = Path("tls")  # in the test's own
    folder.mkdir(exist_ok=True)
    for file in ("tls.crt", "tls.key"):
        (folder / file).write_text(secret[file])
    server.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as e:
                return str(e)
    return ""


# Rotations.


async def test_keys_of_proofs_change_without_a_call_that_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Who signs and who verifies may be one step apart, in either direction, and never two."""
    [script] = blocks("### Keys of proofs")
    cluster.run(script)
    versions = cluster.versions("qingyu-proofs")
    assert len(versions) == 4
    for before, after in pairwise(versions):
        for signer, verifier in ((before, after), (after, before), (after, after)):
            assert await is_taken(signer, verifier, tmp_path)
    assert not await is_taken(versions[0], versions[-1], tmp_path)
    log = cluster.log
    restart, gone = log.index("-n qingyu rollout restart deployment bridge agent"), waiting(log)
    puts = [i for i, did in enumerate(log) if did == "= qingyu-proofs"]
    assert puts[2] < restart < gone < puts[3], "the old keys are good until the last who signs with them has ended"


async def is_taken(signs: Secret, verifies: Secret, folder: Path) -> bool:
    """Whether what bridges and agents of one moment sign is good to tool workers of another."""
    callers = folder / "callers.pem"
    callers.write_text(verifies["callers.pem"])
    verifier = ToolVerifier.of(callers)
    await verifier.start()
    try:
        for who in ("bridge", "agent"):
            (folder / "key.pem").write_text(signs[f"{who}.pem"])
            token = Signer.of(folder / "key.pem").sign("c1", "u1", "mine")
            verifier.check(token, call="c1", user="u1", tool="mine")
    except Refused:
        return False
    finally:
        await verifier.stop()
    return True


def waiting(log: list[str]) -> int:
    """When those who were there before had gone."""
    [at] = [i for i, did in enumerate(log) if "wait --for=delete pod/one-of-before pod/another-of-before" in did][-1:]
    return at


def test_passwords_of_nats_change_without_a_process_that_is_shut_out(cluster: Cluster, prod: list[Document]) -> None:
    """What a process knows, by when it was started, and what a server has, by when it was: one is always the other's."""
    script = "\n".join(blocks("### Passwords of NATS"))
    cluster.run(script)
    old, both, new = cluster.versions("nats-users")
    assert set(old) == set(new) == set(NAMES)
    for user in NAMES:
        assert both[user] == new[user] != old[user] == both[f"{user}-previous"]
        Settings(nats={"passwords": {user: new[user]}})  # type: ignore[arg-type]
    log = cluster.log
    puts = [i for i, did in enumerate(log) if did == "= nats-users"]
    [processes] = [i for i, did in enumerate(log) if did.startswith("-n qingyu rollout restart deployment bridge chat")]
    servers = log.index("-n qingyu rollout restart statefulset nats")
    assert puts[1] < processes < waiting(log) < servers < puts[2]
    restarted = set(log[processes].rpartition("deployment ")[2].split())
    assert restarted == {c.kind for c in containers(prod) if "nats-users" in str(c.described) and c.ours} - {"setup"}


def test_change_of_passwords_that_is_begun_twice_keeps_those_that_the_servers_have(tmp_path: Path) -> None:
    require_program("openssl")
    cluster = installed(tmp_path, trustme.CA().cert_pem.bytes(), **DSNS)
    step = blocks("### Passwords of NATS")[0]
    cluster.run(step)
    cluster.run(step)
    old, both = cluster.versions("nats-users")
    assert all(both[f"{user}-previous"] == old[user] for user in NAMES)
