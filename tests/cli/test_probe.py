from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from qingyu_ai.cli.preflight import hold
from qingyu_ai.cli.probe import accepts, alive, bracketed, http_ready, jetstream, reachable
from qingyu_ai.settings import without_password
from tests.ports import free_ports


class Operations(BaseHTTPRequestHandler):
    """Answers as the bridge's operations endpoint does."""

    answer = (200, b"")

    def do_GET(self) -> None:
        status, body = self.answer if self.path == "/readyz" else (404, b"")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def operations() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Operations) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, b"ok"), ""),
        ((503, b"no chat worker answers\nsecond line"), "no chat worker answers"),
        ((503, b""), "HTTP 503"),
        ((204, b""), "HTTP 204"),
    ],
)
async def test_readyz_is_ready_with_200_and_otherwise_gives_its_reason(
    operations: int, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, bytes], reason: str
) -> None:
    monkeypatch.setattr(Operations, "answer", answer)
    assert await http_ready("127.0.0.1", operations)() == reason


async def test_a_proxy_of_the_environment_is_not_asked(operations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(Operations, "answer", (200, b""))
    assert await http_ready("0.0.0.0", operations)() == ""


async def test_an_endpoint_that_is_not_there_yet_is_a_reason() -> None:
    [port] = free_ports(1)
    assert await http_ready("127.0.0.1", port)() == (
        f"http://127.0.0.1:{port}/readyz does not answer yet: connection refused"
    )


async def test_a_port_is_ready_when_it_accepts() -> None:
    with hold("127.0.0.1", 0) as server:
        port = server.getsockname()[1]
        assert await accepts("127.0.0.1", port)() == ""
    assert await accepts("127.0.0.1", port)() == f"port {port} does not accept connections yet"


async def test_a_broker_that_is_not_there_yet_is_a_reason_without_its_password() -> None:
    [port] = free_ports(1)
    reason = await jetstream([f"nats://user:secret@127.0.0.1:{port}"])()
    assert reason == f"no connection to nats://127.0.0.1:{port}: connection refused"


async def test_a_process_without_an_endpoint_is_ready_when_it_runs() -> None:
    assert await alive() == ""


def test_addresses_are_written_as_they_can_be_used() -> None:
    assert [reachable(host) for host in ("0.0.0.0", "::", "10.0.0.7")] == ["127.0.0.1", "::1", "10.0.0.7"]
    assert [bracketed(host) for host in ("::1", "localhost")] == ["[::1]", "localhost"]
    assert without_password("tls://me:secret@host:4222") == "tls://host:4222"
    assert without_password("host:4222") == "nats://host:4222"
    assert without_password("nats://me:se/c@ret@host:4222") == "nats://host:4222"
