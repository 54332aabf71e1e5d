"""The database that `up` starts."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from qingyu_ai.cli import postgres
from qingyu_ai.cli.preflight import hold
from tests.cli.command import Run, gone, with_retrieval
from tests.cli.dummy_process import FAULT
from tests.ports import free_port, free_ports
from tests.postgres import HOST, PostgresProcess, programs_folder
from tests.waiting import eventually_sync


@pytest.fixture
def server() -> Iterator[PostgresProcess]:
    process = PostgresProcess()
    process.start()
    yield process
    process.close()


def launched(folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    program = postgres.server(programs_folder(), folder, HOST, port)
    return subprocess.run(program.argv, capture_output=True, text=True, timeout=50)


def test_a_database_is_made_once_kept_over_a_stop_and_a_crash_and_stopped_fast(server: PostgresProcess) -> None:
    with psycopg.connect(server.dsn("postgres")) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('灯')")
    with psycopg.connect(server.dsn("postgres")):  # a client that stays does not hold the server up
        assert server.stop() == 0
    server.start()
    server.crash()
    server.start()
    with psycopg.connect(server.dsn("postgres")) as connection:
        assert connection.execute("SELECT word FROM kept").fetchall() == [("灯",)]


def test_nobody_comes_in_without_the_password_or_from_elsewhere(server: PostgresProcess) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:wrong@{HOST}:{server.port}/postgres")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@{HOST}:{server.port}/postgres")
    for path in server.folder.rglob("*.password"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    with socket.socket() as other:  # the port is taken on this address only
        other.bind(("127.0.0.2", server.port))


def test_a_database_that_was_half_made_is_made_again() -> None:
    process = PostgresProcess()
    half = process.folder / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("9")
    try:
        process.start()
        with psycopg.connect(process.dsn("postgres")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not half.exists()
    finally:
        process.close()


def test_files_of_another_postgresql_are_left_alone_and_named(server: PostgresProcess) -> None:
    server.stop()
    version = server.folder / "data" / "PG_VERSION"
    version.write_text("9\n")
    refused = launched(server.folder, server.port)
    assert refused.returncode == 2
    assert "was made by PostgreSQL 9" in refused.stderr
    assert "QINGYU_RAG__DSN" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_where_there_is_no_namespace_of_its_own_root_becomes_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    process = PostgresProcess()
    process.folder.parent.chmod(0o711)
    process.folder.mkdir()
    os.chown(process.folder, nobody.pw_uid, nobody.pw_gid)  # as a start without a namespace leaves it
    try:
        process.start()
        with psycopg.connect(process.dsn("postgres")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert (process.folder / "data").stat().st_uid == nobody.pw_uid
    finally:
        process.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_nobody_cannot_reach_is_named() -> None:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as closed:  # 0700, and root's
        folder = Path(closed) / "postgres"
        folder.mkdir()
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        refused = launched(folder, free_port())
    assert refused.returncode == 2
    assert "nobody cannot reach" in refused.stderr


async def test_probe_tells_a_server_that_is_not_there(server: PostgresProcess) -> None:
    ready = postgres.answers(programs_folder(), HOST, server.port)
    assert await ready() == ""
    server.stop(signal.SIGINT)
    assert "does not answer" in await ready()


def test_up_gives_retrieval_workers_a_database_and_stops_it_last_and_leaves_nothing_running(run: Run) -> None:
    programs_folder()
    metrics = free_ports(2)[0]
    up = run("up", **with_retrieval(QINGYU_RAG__PROCESSES="2", QINGYU_RAG__METRICS_PORT=str(metrics)))
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=50)
    assert up.output.count("rag has its database  answers=true") == 2
    children = up.children()
    up.process.send_signal(signal.SIGINT)
    assert up.finish(40) == 0
    assert up.output.rindex("rag has drained") < up.output.index("postgres │ ● stopping")
    assert gone(children)()


def test_up_without_the_wheel_says_so_in_one_line_and_starts_all_but_retrieval(run: Run) -> None:
    up = run("up", **with_retrieval(**{FAULT: "no wheel"}))
    eventually_sync(up.says("Stop      Ctrl-C"), timeout=20)
    assert up.output.splitlines()[0] == postgres.LEFT_OUT
    assert up.output.count("PostgreSQL") == 1
    assert "bridge misses nothing of chat, tool, agent" in up.output
    assert len(up.children()) == 5
    up.process.terminate()
    assert up.finish() == 0


def test_supervisor_that_is_killed_takes_the_database_with_it_and_the_next_one_recovers_it(
    run: Run, tmp_path: Path
) -> None:
    programs_folder()
    where = with_retrieval(QINGYU_DATA_DIR=str(tmp_path / "kept"))
    for _ in range(2):
        up = run("up", **where)
        eventually_sync(up.says("Stop      Ctrl-C"), timeout=50)
        children = up.children()
        up.process.kill()
        eventually_sync(gone(children), timeout=20)


def test_port_of_the_database_that_is_taken_is_named_with_its_setting(run: Run) -> None:
    port = free_port()
    with hold("127.0.0.1", port):
        up = run("up", **with_retrieval(QINGYU_RAG__PORT=str(port)))
        assert up.finish() == 2
    assert f"port {port} is taken: set QINGYU_RAG__PORT to a free one" in up.output
