"""TLS, and HTTP/2 where it is offered: a real server by hypercorn, certificates made on the fly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from services.llm.curl import Curls
from services.llm.faults import Upstream as Kind
from services.llm.faults import UpstreamFault
from services.llm.model import NEVER
from services.llm.remote import RemoteModel
from services.llm.server import Budget
from tests.waiting import eventually

from .conftest import Answer, Lab, ask


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, and `server.pem` for this machine."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "server.pem")
    )
    return folder


@contextmanager
def serving(certificates: Path, protocols: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.llm.http2_server", str(certificates / "server.pem"), protocols]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"https://127.0.0.1:{process.stdout.readline().strip()}/v1"
        process.kill()


@pytest.fixture(scope="module")
def http2(certificates: Path) -> Iterator[str]:
    with serving(certificates, "h2,http/1.1") as url:
        yield url


@pytest.fixture(scope="module")
def http1(certificates: Path) -> Iterator[str]:
    with serving(certificates, "http/1.1") as url:
        yield url


def remote(lab: Lab, url: str, certificates: Path, model: str = "m", **more: Any) -> RemoteModel:
    return lab.remote(model, base_url=url, ca_file=certificates / "ca.pem", **more)


def over(answer: Answer) -> tuple[str, str]:
    """Protocol and connection of an answer."""
    version, _, connection = answer.text.rstrip("雨").partition(" ")
    return version, connection


async def test_certificate_that_nobody_trusts_is_refused(lab: Lab, http2: str) -> None:
    with pytest.raises(UpstreamFault) as fault:
        await ask(lab.remote("m", base_url=http2))
    assert fault.value.kind is Kind.TLS_FAILED
    assert "self" in fault.value.detail or "certificate" in fault.value.detail


async def test_certificate_of_another_name_is_refused(lab: Lab, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("example.org").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    with serving(tmp_path, "http/1.1") as url:
        with pytest.raises(UpstreamFault) as fault:
            await ask(remote(lab, url, tmp_path))
        assert fault.value.kind is Kind.TLS_FAILED


async def test_http2_is_used_where_it_is_offered_and_streams_share_a_connection(
    lab: Lab, http2: str, certificates: Path
) -> None:
    model = remote(lab, http2, certificates)
    await ask(model)
    answers = await asyncio.gather(*(ask(model) for _ in range(10)))
    assert {over(answer)[0] for answer in answers} == {"2"}
    assert len({over(answer)[1] for answer in answers}) == 1


async def test_http1_is_used_where_nothing_else_is_offered_or_wanted(
    lab: Lab, http1: str, http2: str, certificates: Path
) -> None:
    assert over(await ask(remote(lab, http1, certificates)))[0] == "1.1"
    assert over(await ask(remote(lab, http2, certificates, http2=False)))[0] == "1.1"


async def test_cancel_of_one_stream_leaves_the_others_on_its_connection_alone(
    lab: Lab, http2: str, certificates: Path
) -> None:
    said = Answer()
    before = await callers_who_left(lab, http2, certificates)
    leaving = asyncio.create_task(ask(remote(lab, http2, certificates, "endless"), into=said))
    await eventually(lambda: said.text)
    staying = [asyncio.create_task(ask(remote(lab, http2, certificates))) for _ in range(5)]
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    answers = await asyncio.gather(*staying)
    assert {over(answer) for answer in answers} == {over(said)}

    async def noticed() -> bool:
        return await callers_who_left(lab, http2, certificates) == before + 1

    await eventually(noticed)


async def callers_who_left(lab: Lab, url: str, certificates: Path) -> int:
    server = remote(lab, url, certificates).server
    budget = Budget.start(server.settings, NEVER)
    async with server.asked("/left", None, budget) as transfer:
        return int(json.loads(await server.whole(transfer, budget)))


async def test_closing_the_client_ends_what_is_under_way(lab: Lab, http2: str, certificates: Path) -> None:
    curls = Curls()
    own = Lab(lab.upstream, curls)
    said = Answer()
    task = asyncio.create_task(ask(remote(own, http2, certificates, "endless"), into=said))
    await eventually(lambda: said.text)
    curls.close()
    with pytest.raises(UpstreamFault) as fault:
        await task
    assert fault.value.kind is Kind.STREAM_CUT


async def test_cancel_in_the_middle_of_the_handshake_closes_the_socket(lab: Lab) -> None:
    """Within 50 ms, as in every other phase (test_remote_time)."""
    closed_at = asyncio.get_running_loop().create_future()
    hello = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        hello.set()
        while await reader.read(4096):
            pass
        closed_at.set_result(time.monotonic())
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    task = asyncio.create_task(ask(lab.remote("m", base_url=f"https://127.0.0.1:{port}/v1")))
    await hello.wait()
    cancelled_at = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(closed_at, 5) - cancelled_at < 0.05
    server.close()
