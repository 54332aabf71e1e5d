"""A database that is only spoken with in TLS: the Secrets of docs/operations.md reach it, and take nobody else for it."""

from __future__ import annotations

import asyncio
import ssl
import struct
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import trustme

from deploy.manifests import Document
from tests.deploy.kubectl import Cluster
from tests.deploy.kubelet import Node
from tests.deploy.running import DATABASE
from tests.deploy.test_operations import installed
from tests.optional import require_program
from tests.postgres import PostgresProcess

pytestmark = pytest.mark.once

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""What a client begins with that wants TLS (PostgreSQL, "SSL Session Encryption")."""

PASSWORD = "p" * 24

T = TypeVar("T")


class Encrypted:
    """Speaks TLS in the place of a PostgreSQL that cannot (the one of the wheel is built without).

    Args:
        port: of the server behind.
        authority: signs its certificate.
    """

    def __init__(self, port: int, authority: trustme.CA) -> None:
        self._behind = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._talks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Encrypted:
        self._thread.start()
        self._listener = self._run(asyncio.start_server(self._accept, "localhost", 0))
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _end(self) -> None:
        self._listener.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = self._loop.create_task(self._talk(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there: asyncio.StreamWriter | None = None
        try:
            assert await reader.readexactly(8) == SSL_REQUEST, "somebody speaks in the clear"
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._context)
            back, there = await asyncio.open_connection("127.0.0.1", self._behind)
            await asyncio.wait(
                [asyncio.create_task(_copy(reader, there)), asyncio.create_task(_copy(back, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that does not trust us goes away
        finally:
            writer.transport.abort()
            if there is not None:
                there.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def database(authority: trustme.CA) -> Iterator[Encrypted]:
    """With the owner of docs/operations.md, who migrates for the first time."""
    postgres = PostgresProcess()
    postgres.start()
    try:
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE ROLE qingyu_owner LOGIN CREATEROLE PASSWORD '{PASSWORD}'".encode())
            admin.execute(f"CREATE DATABASE {DATABASE} OWNER qingyu_owner".encode())
        with psycopg.connect(postgres.dsn(DATABASE), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
        with Encrypted(postgres.port, authority) as encrypted:
            yield encrypted
    finally:
        postgres.close()


def migrated(base: list[Document], folder: Path, database: Encrypted, authority: trustme.CA) -> tuple[int, str]:
    """Run the Job's first container on the Secrets that the page makes.

    Returns:
        Its exit status, and its log.
    """
    require_program("openssl")
    made: Cluster = installed(
        folder,
        authority.cert_pem.bytes(),
        WORKER_PASSWORD=PASSWORD,
        OWNER_PASSWORD=PASSWORD,
        DATABASE_HOST=f"localhost:{database.port}",
    )
    node = Node(base, made.secrets, folder)
    try:
        pod = node.start("setup", name="database")
        return pod.wait(), pod.log.read_text()
    finally:
        node.close()


def test_job_migrates_a_database_whose_authority_is_in_the_secret(
    base: list[Document], tmp_path: Path, database: Encrypted, authority: trustme.CA
) -> None:
    status, log = migrated(base, tmp_path, database, authority)
    assert status == 0, log


def test_database_of_another_authority_is_not_spoken_with(
    base: list[Document], tmp_path: Path, database: Encrypted
) -> None:
    status, log = migrated(base, tmp_path, database, trustme.CA())
    assert status != 0
    assert "certificate verify failed" in log
    assert PASSWORD not in log
