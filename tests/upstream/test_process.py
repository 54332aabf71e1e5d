"""The upstream as a process: it keeps its port, outlives nobody, and speaks TLS."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.optional import require_tool
from tests.upstream.process import ROOT, Upstream
from tests.upstream.raw_client import RawClient, request
from tests.upstream.replies import chat, opening
from tests.upstream.script import Cut, Pause

TEXT = "雨停了，👨‍👩‍👧 回家。"


def test_the_upstream_keeps_its_port_when_it_starts_again() -> None:
    with Upstream() as up:
        port = up.port
        up.stop()
        with pytest.raises(ConnectionRefusedError):
            RawClient(port)
        up.start()
        assert up.port == port
        RawClient(port).close()


def test_the_upstream_ends_with_its_standard_input() -> None:
    command = [sys.executable, "-m", "tests.upstream.server"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"] > 0
        process.stdin.close()
        assert process.wait(10) == 0


def test_the_upstream_ends_when_its_parent_is_killed() -> None:
    starts = (
        "import os; from tests.upstream.process import Upstream; up = Upstream(); up.start(); print(up.pid, flush=True)"
    )
    parent = f"{starts}; os.read(0, 1)"
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.kill()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_the_upstream_speaks_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [require_tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-batch"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", cert, "-keyout", key], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(cert))
    with Upstream(cert=cert, key=key) as up:
        up.script("m", [chat(TEXT).but(close=True), opening("雨", Pause(0.05), Cut("rst"))])
        assert up.base_url.startswith("https://")
        for ends in (b"0\r\n\r\n", b""):
            plain = socket.create_connection(("127.0.0.1", up.port), 10)
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
                client.sendall(request())
                got = b""
                try:
                    while data := client.recv(65536):
                        got += data
                except ConnectionResetError:
                    assert not ends
                assert got.endswith(ends)
        assert [seen.ended for seen in up.seen()] == ["complete", "server_cut"]
