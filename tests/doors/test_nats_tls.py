"""TLS and mutual TLS with NATS, with certificates made on the fly: who is let in, what is said when nobody is, rotation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from os import kill
from pathlib import Path
from typing import Any

import pytest
import trustme
from nats.errors import NoServersError

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.transport_errors import Disconnected
from qingyu_ai.doors.login import Login
from qingyu_ai.settings import Nats, Settings
from tests.certificates import Folder
from tests.nats_guarded import GuardedNats
from tests.nats_process import NatsProcess
from tests.waiting import eventually


def tls_block(own: Folder, *, mutual: bool) -> str:
    """As docs/security-nats.md has it."""
    ca = f'ca_file: "{own.ca}", verify: true' if mutual else ""
    return f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}", timeout: 5, {ca} }}'


class Ends:
    """A server's and a process's files, and the authority of both."""

    def __init__(self, path: Path) -> None:
        self.authority = trustme.CA()
        self.server = Folder(path / "server").trust(self.authority).show(self.authority)
        self.ours = Folder(path / "ours").trust(self.authority).show(self.authority, "chat")


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
def mutual(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def server(ends: Ends, mutual: bool) -> Iterator[GuardedNats]:
    """It has no streams: these tests are about connections."""
    process = GuardedNats([tls_block(ends.server, mutual=mutual)], scheme="tls", streams=False)
    process.start()
    yield process
    process.close()


def settings(server: NatsProcess, ours: Folder, *, shows: bool = True, password: str = "") -> Nats:
    passwords = getattr(server, "passwords", {})
    return Nats(
        url=server.url,
        password=password or passwords.get("chat", ""),  # type: ignore[arg-type]
        ca_file=ours.ca,
        **certificate(ours, shows),
    )


def certificate(ours: Folder, shows: bool) -> dict[str, Any]:
    return {"cert_file": ours.cert, "key_file": ours.key} if shows else {}


async def connect(nats: Nats) -> NatsBus:
    return await NatsBus.open(nats.servers, "chat", on_closed=lambda: None, login=Login.of("chat", nats))


async def refusal(nats: Nats) -> str:
    with pytest.raises(Disconnected) as raised:
        await connect(nats)
    return str(raised.value)


async def test_connection_is_encrypted_and_carries_messages(server: GuardedNats, ends: Ends, mutual: bool) -> None:
    bus = await connect(settings(server, ends.ours, shows=mutual))
    assert bus._nc._transport is not None
    assert bus._nc._transport._io_writer.get_extra_info("cipher")[1] in ("TLSv1.2", "TLSv1.3")  # type: ignore[attr-defined]
    await bus.subscribe(f"{bus.inbox}.x.*", lambda *_: None)  # waits for an echo
    await bus.close()


async def test_authority_that_we_do_not_have_is_named_with_the_setting(server: GuardedNats, ends: Ends) -> None:
    ends.ours.trust(trustme.CA())
    said = await refusal(settings(server, ends.ours))
    assert "the server's certificate is of an authority that QINGYU_NATS__CA_FILE does not have" in said


@pytest.mark.parametrize("mutual", [False], indirect=True)
async def test_server_whose_certificate_has_expired_is_told_apart(server: GuardedNats, ends: Ends) -> None:
    ends.server.show(ends.authority, until=datetime.now(UTC) - timedelta(hours=1))
    kill(server.pid, signal.SIGHUP)
    await eventually(lambda: "Reloaded" in server.said)
    assert "the server's certificate has expired" in await refusal(settings(server, ends.ours))


@pytest.mark.parametrize("mutual", [False], indirect=True)
async def test_certificate_for_another_name_is_told_apart(server: GuardedNats, ends: Ends) -> None:
    ends.server.show(ends.authority, "nats.example.com")
    kill(server.pid, signal.SIGHUP)
    await eventually(lambda: "Reloaded" in server.said)
    said = await refusal(settings(server, ends.ours))
    assert "the server's certificate is for another name" in said


@pytest.mark.parametrize("mutual", [True], indirect=True)
async def test_server_that_wants_a_certificate_says_which_settings_are_missing(server: GuardedNats, ends: Ends) -> None:
    said = await refusal(settings(server, ends.ours, shows=False))
    assert "set QINGYU_NATS__CERT_FILE and QINGYU_NATS__KEY_FILE" in said


@pytest.mark.parametrize("mutual", [True], indirect=True)
async def test_certificate_of_ours_that_the_server_does_not_trust_is_named(server: GuardedNats, ends: Ends) -> None:
    ends.ours.show(trustme.CA(), "chat")
    assert "does not take our certificate (QINGYU_NATS__CERT_FILE)" in await refusal(settings(server, ends.ours))


@pytest.mark.parametrize(("shows", "says"), [(False, "set QINGYU_NATS__CERT_FILE"), (True, "take our certificate")])
def test_connections_that_end_once_they_are_encrypted_are_most_likely_about_certificates(
    ends: Ends, shows: bool, says: str
) -> None:
    """The server's alert may be lost with the connection, each time."""
    login = Login.of("chat", Nats(url="tls://127.0.0.1:4222", ca_file=ends.ours.ca, **certificate(ends.ours, shows)))
    lost = [ConnectionResetError("Connection lost"), NoServersError()]
    assert says in login.explain(lost)
    assert login.explain([NoServersError()]) == str(NoServersError())
    assert Login.of("chat", Nats(url="nats://127.0.0.1:4222")).explain(lost) == str(NoServersError())


async def test_wrong_password_is_named_and_not_shown(server: GuardedNats, ends: Ends) -> None:
    wrong = "wrong-password-of-chat"
    said = await refusal(settings(server, ends.ours, password=wrong))
    assert "QINGYU_NATS__PASSWORD or QINGYU_NATS__PASSWORDS__CHAT is not what the server has" in said
    assert wrong not in said


async def test_rotation_of_all_certificates_needs_no_restart_of_a_process(
    server: GuardedNats, ends: Ends, mutual: bool
) -> None:
    """Both ends get certificates of a new authority; the server is told, the process finds them when it connects again."""
    bus = await connect(settings(server, ends.ours))
    new = trustme.CA()
    ends.server.trust(new).show(new)
    kill(server.pid, signal.SIGHUP)
    await eventually(lambda: "Reloaded" in server.said)
    # The connection goes on: certificates are looked at when one begins.
    await bus.subscribe(f"{bus.inbox}.x.*", lambda *_: None)
    ends.ours.trust(new).show(new, "chat")
    server.restart()
    await eventually(lambda: bus.connections == 2 and bus.connected, timeout=20)
    await bus.subscribe(f"{bus.inbox}.y.*", lambda *_: None)
    assert bus._nc._login.context is not None
    assert bus._nc._login.context.rotations == 1
    await bus.close()


async def test_process_that_has_no_new_authority_yet_connects_once_it_is_there(
    server: GuardedNats, ends: Ends, mutual: bool
) -> None:
    bus = await connect(settings(server, ends.ours))
    new = trustme.CA()
    ends.server.trust(new, ends.authority).show(new)
    server.restart()
    await eventually(lambda: "TLS handshake error" in server.said, timeout=20)
    assert bus.connections == 1
    ends.ours.trust(new, ends.authority)
    await eventually(lambda: bus.connections == 2 and bus.connected, timeout=20)
    await bus.close()


async def test_password_is_never_said_on_a_connection_that_was_to_be_encrypted_and_is_not() -> None:
    """Somebody on the way answers in the server's place, and says that it has no TLS."""
    heard = bytearray()
    talks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "headers": True, "max_payload": 1048576, "auth_required": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(4096):
                heard.extend(chunk)
        writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.get_running_loop().create_task(answer(reader, writer)))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    secret = "p0123456789abcdefghijkl"
    nats = Nats(url=f"tls://127.0.0.1:{port}", password=secret)  # type: ignore[arg-type]
    said = await refusal(nats)
    await eventually(lambda: talks and all(talk.done() for talk in talks))
    listener.close()
    assert "the server offers no TLS" in said
    assert bytes(heard) == b""


async def test_server_without_tls_is_refused_where_the_address_says_tls(nats_process: NatsProcess) -> None:
    assert "the server offers no TLS" in await refusal(Nats(url=nats_process.servers[0].replace("nats://", "tls://")))


def test_login_shows_no_secret() -> None:
    login = Login.of("chat", Settings(nats={"password": "p0123456789abcdefghijkl"}).nats)  # type: ignore[arg-type]
    assert "0123456789" not in repr(login)
