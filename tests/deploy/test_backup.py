"""The commands for backups in docs/operations.md, on a real PostgreSQL and a real nats-server: they bring back what was there."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import psycopg
import pytest
import trustme
from nats.aio.client import Client

from deploy.manifests import ROOT, Document, of_kind
from qingyu_ai.cli import postgres
from qingyu_ai.doors.roles import STREAMS
from qingyu_ai.settings import Rag
from services.rag.database import WORKER_ROLE, Database
from services.rag.migrate import check, migrate
from services.rag.searching import Reader
from services.rag.store import Store
from tests.certificates import Folder
from tests.deploy.kubectl import Cluster, blocks
from tests.deploy.kubelet import Node
from tests.deploy.running import run_setup, start_servers
from tests.doors.test_nats_tls import tls_block
from tests.nats_guarded import GuardedNats
from tests.optional import require_program, require_tool
from tests.postgres import PostgresProcess
from tests.rag.texts import at, put, texts

pytestmark = pytest.mark.once

PASSWORD = "p" * 24
NAME, OWNER = "qingyu", "qingyu_owner"
TEXTS = {"u1": "灯灭了。沈砚没有动。", "u2": "灯又亮了。雨停了。"}


@contextmanager
def server_with_roles() -> Iterator[PostgresProcess]:
    """A server on which an administrator has made the roles."""
    process = PostgresProcess()
    process.start()
    try:
        with psycopg.connect(process.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER PASSWORD '{PASSWORD}'".encode())
            for statement in filter(lambda s: "ROLE" in s or "_worker TO" in s, administrators()):
                admin.execute(statement.replace("…", process.password("worker")).encode())
        yield process
    finally:
        process.close()


def administrators() -> list[str]:
    """What an administrator does once, as docs/rag-store.md has it."""
    page = (ROOT / "docs" / "rag-store.md").read_text(encoding="utf-8")
    sql = re.findall(r"^```sql\n(.*?)^```$", page[page.index("\n## Roles\n") :], re.M | re.S)[0]
    return [statement for statement in map(str.strip, sql.split(";")) if statement]


def owner(server: PostgresProcess) -> str:
    return f"postgresql://{OWNER}:{PASSWORD}@127.0.0.1:{server.port}/{NAME}"


def worker(server: PostgresProcess) -> str:
    return server.dsn(NAME, "worker", WORKER_ROLE)


def variables(server: PostgresProcess) -> dict[str, str]:
    """As whoever follows the page has them."""
    return {
        "ADMIN_DSN": server.dsn("postgres"),
        "OWNER_DSN": owner(server),
        "BACKUP_DSN": f"postgresql://qingyu_backup:{PASSWORD}@127.0.0.1:{server.port}/{NAME}",
        "BACKUP_PASSWORD": PASSWORD,
        "DAY": "2000-01-01",
    }


@pytest.mark.timeout(120)
async def test_documents_of_all_tenants_come_back_on_a_new_server(tmp_path: Path) -> None:
    backing, making, *_ = blocks("## Back up")
    backing, today = re.subn(r"^DAY=.*$", "", backing, flags=re.M)
    assert today == 1
    restoring = blocks("## Restore")[0]
    cluster = Cluster(tmp_path, postgres.programs_folder())
    with server_with_roles() as server, server_with_roles() as another:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {NAME}".encode())
        with psycopg.connect(server.dsn(NAME), autocommit=True) as admin:
            for statement in filter(lambda s: "EXTENSION" in s or "DATABASE" in s, administrators()):
                admin.execute(statement.encode())
            migrate(owner(server), worker(server))
            admin.execute(f"ALTER ROLE {OWNER} NOCREATEROLE".encode())
        database = Database(worker(server), Rag())
        await database.open()
        for user, text in TEXTS.items():
            await put(Store(database, Rag()), user, "d", text, at(1))
        await database.close()

        with pytest.raises(AssertionError, match="row-level security"):
            cluster.run(backing, **{**variables(server), "BACKUP_DSN": owner(server)})
        cluster.run(making, **variables(server))
        cluster.run(backing, **variables(server))

        with psycopg.connect(another.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"ALTER ROLE {OWNER} NOCREATEROLE".encode())
        cluster.run(restoring, **variables(another))
        assert migrate(owner(another), worker(another)) == [], "the Job finds it up to date, and lets the worker in"
        check(worker(another))
        database = Database(worker(another), Rag())
        await database.open()
        for user, text in TEXTS.items():
            assert "".join(await texts(Reader(database, Rag()), user)) == text
        assert await put(Store(database, Rag()), "u1", "d", "新的一版。", at(2)), "and goes on"
        await database.close()


class Server(GuardedNats):
    """As a deployment has it: users, TLS, and somebody who makes streams."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        own = Folder(folder / "server").trust(authority).show(authority)
        self.ca = own.ca
        super().__init__([tls_block(own, mutual=False)], "tls", own.settings("QINGYU_NATS", "ca"))

    async def connect(self, user: str) -> Client:
        """Connect as a user."""
        context = ssl.create_default_context(cafile=str(self.ca))
        return await nats.connect(
            self.url, user=user, password=self.passwords[user], inbox_prefix=f"_INBOX.{user}", tls=context
        )

    def nobody_makes_streams(self) -> None:
        """What `kubectl scale deployment streams --replicas=0` is."""
        assert self._streams is not None
        self._streams.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    process = Server(tmp_path)
    process.start()
    yield process
    process.close()


KEPT = {
    "KV_ai_sessions": ("chat", "$KV.ai_sessions.s1"),
    "KV_ai_calls": ("operator", "$KV.ai_calls.c1"),
    "AI_JOBS": ("operator", "ai.job.rag.index"),
    "AI_DEAD": ("chat", "ai.dead.chat.complete.c1"),
}
"""By stream: who puts something there, and where."""


@pytest.mark.timeout(120)
async def test_streams_come_back_as_the_operator_of_a_guarded_server(server: Server, tmp_path: Path) -> None:
    require_program("openssl")
    _, _, saving, backing = blocks("## Back up")
    _, _, restoring, *_ = blocks("## Restore")
    folder = tmp_path / "commands"
    folder.mkdir()
    cluster = Cluster(folder, Path(require_tool("nats")).parent)
    users = " ".join(f"--from-literal={user}={password}" for user, password in server.passwords.items())
    cluster.run(f"kubectl create secret generic nats-users {users}")
    cluster.run(f"kubectl create secret generic qingyu-nats-tls --from-file=ca.crt={server.ca}")
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "DAY": "2000-01-01"}

    for stream, (user, subject) in KEPT.items():
        client = await server.connect(user)
        assert b'"seq":1' in (await client.request(subject, stream.encode())).data.replace(b" ", b"")
        await client.close()
    assert "tls://nats-0.nats:4222" in saving
    cluster.run(saving.replace("tls://nats-0.nats:4222", server.url), **home)
    cluster.run(backing, **home)

    server.nobody_makes_streams()
    operator = await server.connect("operator")
    for stream in KEPT:
        await operator.jetstream().purge_stream(stream)
    cluster.run(restoring, **home)
    for stream, (_, subject) in KEPT.items():
        assert (await operator.jetstream().get_msg(stream, 1)).data == stream.encode()
        assert (await operator.jetstream().get_msg(stream, 1)).subject == subject
    for consumer in ("agent", "rag"):
        assert (await operator.jetstream().consumer_info("AI_JOBS", consumer)).name == consumer
    await operator.close()
    assert server.violations == []


def test_nobody_is_left_who_would_write_or_make_a_stream_while_they_are_restored(prod: list[Document]) -> None:
    stopping = blocks("## Restore")[1]
    [line] = [line for line in stopping.splitlines() if "--replicas=0" in line]
    stopped = line.partition("scale deployment ")[2].partition(" --")[0].split()
    deployments = {d["metadata"]["name"]: d for d in of_kind(prod, "Deployment")}
    assert set(stopped) == set(deployments)
    [waited] = re.findall(r"component in \(([\w,]+)\)", stopping)
    components = {
        d["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] for d in deployments.values()
    }
    assert set(waited.split(",")) == components
    assert os.linesep.join(blocks("## Restore")[3:]).count("scale deployment") == 2


@pytest.mark.timeout(120)
async def test_server_whose_disk_is_lost_has_everything_again_once_it_is_ready(
    base: list[Document], tmp_path: Path
) -> None:
    node = Node(base, {}, tmp_path)
    try:
        servers = start_servers(node)
        run_setup(node, "main")
        client = await nats.connect(f"nats://127.0.0.1:{servers[0].ports[4222]}")
        for number in range(20):
            await client.jetstream().publish(f"$KV.ai_sessions.s{number}", b"kept")
        await client.close()

        lost = servers[1]
        lost.kill()
        [mount] = [m for m in lost.container.described["volumeMounts"] if m["mountPath"] == "/data"]
        shutil.rmtree(node.mounted(lost, mount))
        node.mounted(lost, mount)
        lost.start()
        node.wait_for(lost, "startup", "readiness")
        held = json.loads(lost.get("monitor", "/jsz?streams=true&accounts=true")[1])
        [account] = held["account_details"]
        copies = {stream["name"]: stream["state"]["messages"] for stream in account["stream_detail"]}
        assert set(copies) == set(STREAMS)
        assert copies["KV_ai_sessions"] == 20
    finally:
        node.close()
