"""A new password for a user of NATS: no process is shut out, before, between and after, and the old one ends with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.transport_errors import Disconnected
from qingyu_ai.doors.login import Login
from qingyu_ai.doors.rendering import password_variable
from qingyu_ai.settings import Nats
from tests.nats_guarded import GuardedNats
from tests.waiting import eventually

OLD, NEW = "p-old-password-of-chat", "p-new-password-of-chat"


class Server(GuardedNats):
    """A server that knows one password of the user `chat`, in its configuration, and so can be told another one as it runs."""

    def __init__(self) -> None:
        super().__init__(streams=False)
        self._template = self._config.read_text(encoding="utf-8")
        self.knows(OLD)

    def knows(self, password: str) -> None:
        """From its next start, or when it is told."""
        text = self._template.replace(f"${password_variable('chat')}", f'"{password}"')
        self._config.write_text(text, encoding="utf-8")

    def reload(self) -> None:
        """Have it read its configuration again."""
        os.kill(self.pid, signal.SIGHUP)


@pytest.fixture
def server() -> Iterator[Server]:
    process = Server()
    process.start()
    yield process
    process.close()


async def connect(server: Server, password: str, previous: str = "") -> NatsBus:
    nats = Nats(
        url=server.url,
        passwords={"chat": password},  # type: ignore[arg-type]
        previous_passwords={"chat": previous},  # type: ignore[arg-type]
    )
    return await NatsBus.open(nats.servers, "chat", on_closed=lambda: None, login=Login.of("chat", nats))


async def works(bus: NatsBus) -> bool:
    """Whether it hears what it says."""
    interest = await bus.subscribe(f"{bus.inbox}.x.*", lambda *_: None)  # waits for an echo
    await interest.stop()
    return bus.connected


async def test_process_of_both_passwords_comes_in_wherever_the_server_knows_one(server: Server) -> None:
    before = await connect(server, OLD)
    between = await connect(server, NEW, OLD)
    assert await works(before)
    assert await works(between)
    server.knows(NEW)
    server.restart()
    await eventually(lambda: between.connections == 2 and between.connected, timeout=20)
    after = await connect(server, NEW)
    for bus in (between, after):
        assert await works(bus)
    assert not before.connected
    with pytest.raises(Disconnected, match="is not what the server has for that user"):
        await connect(server, OLD)
    for bus in (before, between, after):
        await bus.close()


async def test_servers_that_know_different_passwords_each_get_their_own(server: Server) -> None:
    """In the middle of a change. nats-py asks them in an order of chance; passwords by turns may never meet their server."""
    other = Server()
    other.knows(NEW)
    other.start()
    both = Nats(
        url=f"{server.url},{other.url}",
        passwords={"chat": NEW},  # type: ignore[arg-type]
        previous_passwords={"chat": OLD},  # type: ignore[arg-type]
    )
    try:
        for _ in range(8):
            bus = await NatsBus.open(both.servers, "chat", on_closed=lambda: None, login=Login.of("chat", both))
            assert await works(bus)
            await bus.close()
    finally:
        other.close()


async def test_process_that_a_server_shuts_out_as_it_runs_comes_back_with_the_other_password(server: Server) -> None:
    """A server that reads its users again ends the connections of those whose password is another one now."""
    before, between = await connect(server, OLD), await connect(server, NEW, OLD)
    server.knows(NEW)
    server.reload()
    await eventually(lambda: between.connections == 2 and between.connected, timeout=20)
    assert await works(between)
    await eventually(lambda: not before.connected)
    server.knows(OLD)  # somebody thinks better of it
    server.reload()
    for bus in (before, between):
        await eventually(lambda bus=bus: bus.connected, timeout=20)  # type: ignore[misc]
        assert await works(bus)
        await bus.close()


def test_no_password_is_shown() -> None:
    nats = Nats(passwords={"chat": NEW}, previous_passwords={"chat": OLD})  # type: ignore[arg-type]
    shown = f"{nats!r} {Login.of('chat', nats)!r}"
    assert OLD not in shown
    assert NEW not in shown
