"""The schema is brought up to date by one command, and a worker starts on no other."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from qingyu_ai.settings import SettingsError
from services.rag.database import WORKER_ROLE
from services.rag.migrate import Migration, WrongSchema, check, migrate, shipped
from tests.rag.conftest import Address

NEXT = len(shipped()) + 1


def later(version: int, *, needs: int, text: str = "CREATE TABLE rag.later (user_id text)") -> Migration:
    return Migration(version, f"{version:04d}_later.sql", text, needs)


def test_steps_are_numbered_without_a_gap_and_need_what_they_are_or_less() -> None:
    steps = shipped()
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    assert all(1 <= step.needs <= step.version for step in steps)


def test_empty_database_is_prepared_once(empty: Address) -> None:
    names = [step.name for step in shipped()]
    assert migrate(empty.owner, empty.worker) == names
    assert migrate(empty.owner, empty.worker) == []
    check(empty.worker)


async def test_many_that_prepare_one_database_at_once_do_it_once(empty: Address) -> None:
    applied = await asyncio.gather(*(asyncio.to_thread(migrate, empty.owner, empty.worker) for _ in range(6)))
    assert sorted(map(len, applied)) == [0] * 5 + [len(shipped())]


def test_worker_on_a_database_that_is_behind_is_told_what_to_run(empty: Address, address: Address) -> None:
    with pytest.raises(WrongSchema, match=r"not prepared.*python -m services\.rag\.migrate"):
        check(empty.worker)
    with pytest.raises(WrongSchema, match=rf"has version {NEXT - 1}, and this release needs {NEXT}"):
        check(address.worker, [*shipped(), later(NEXT, needs=1)])


def test_worker_of_the_release_before_goes_on_after_a_step_that_it_does_not_notice(address: Address) -> None:
    migrate(address.owner, address.worker, [*shipped(), later(NEXT, needs=1)])
    check(address.worker)


def test_worker_too_old_for_the_database_is_told(address: Address) -> None:
    migrate(address.owner, address.worker, [*shipped(), later(NEXT, needs=NEXT)])
    with pytest.raises(WrongSchema, match="deploy the release that migrated it"):
        check(address.worker)
    with pytest.raises(WrongSchema, match="use a later release"):
        migrate(address.owner, address.worker)


def test_step_that_fails_changes_nothing_and_is_made_good_by_the_next_run(address: Address) -> None:
    broken = later(NEXT, needs=1, text="CREATE TABLE rag.half (a int); SELECT 1/0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(address.owner, address.worker, [*shipped(), broken])
    check(address.worker)
    assert migrate(
        address.owner, address.worker, [*shipped(), later(NEXT, needs=1, text="CREATE TABLE rag.half (a int)")]
    )


def test_step_that_was_changed_after_it_was_applied_is_noticed(address: Address) -> None:
    steps = shipped()
    changed = [*steps[:-1], later(steps[-1].version, needs=1)]
    with pytest.raises(WrongSchema, match="is not what was applied"):
        migrate(address.owner, address.worker, changed)


def test_worker_does_not_start_as_owner_or_superuser(address: Address) -> None:
    with pytest.raises(SettingsError, match="superuser"):
        check(address.owner)
    with pytest.raises(SettingsError, match="superuser"):
        migrate(address.owner, address.owner)


def test_worker_does_not_start_as_a_role_that_bypasses_the_wall_or_belongs_to_the_owner(address: Address) -> None:
    password = address.server.password("worker")
    with psycopg.connect(address.owner, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE mighty LOGIN BYPASSRLS PASSWORD '{password}'".encode())
        owner.execute(
            f"CREATE ROLE chief LOGIN PASSWORD '{password}'; CREATE ROLE clerk LOGIN PASSWORD '{password}'".encode()
        )
        owner.execute("GRANT chief TO clerk; ALTER SCHEMA rag OWNER TO chief")
        try:
            for role in ("mighty", "chief", "clerk"):
                with pytest.raises(SettingsError, match="owns the tables"):
                    check(address.server.dsn(address.name, "worker", role))
        finally:
            owner.execute("ALTER SCHEMA rag OWNER TO postgres; DROP ROLE mighty, chief, clerk")


def test_owner_without_the_rights_is_told_where_it_is_written_what_is_needed(empty: Address) -> None:
    with psycopg.connect(empty.owner, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE poor LOGIN PASSWORD '{empty.server.password('worker')}'".encode())
    with pytest.raises(SettingsError, match=r"docs/rag-store\.md"):
        migrate(empty.server.dsn(empty.name, "worker", "poor"), empty.worker)


@contextmanager
def environment(address: Address, tmp_path: Path, **more: str) -> Iterator[dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QINGYU_")}
    own = {"QINGYU_RAG__DSN": address.worker, "QINGYU_RAG__OWNER_DSN": address.owner, "QINGYU_DATA_DIR": str(tmp_path)}
    yield {**kept, **own, **more}


def command(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.rag.migrate"], env=env, capture_output=True, text=True, timeout=50
    )


def test_command_says_what_it_did(empty: Address, tmp_path: Path) -> None:
    with environment(empty, tmp_path) as env:
        first, second = command(env), command(env)
    assert (first.returncode, first.stdout) == (0, f"applied: {', '.join(step.name for step in shipped())}\n")
    assert (second.returncode, second.stdout) == (0, "the database is up to date\n")


def test_command_that_cannot_do_it_says_why_and_shows_no_password(address: Address, tmp_path: Path) -> None:
    with environment(address, tmp_path, QINGYU_RAG__OWNER_DSN="") as env:
        refused = command(env)
    assert (refused.returncode, "QINGYU_RAG__OWNER_DSN" in refused.stderr) == (2, True)
    gone = f"postgresql://{WORKER_ROLE}:geheim@127.0.0.1:1/x"
    with environment(address, tmp_path, QINGYU_RAG__DSN=gone, QINGYU_RAG__OWNER_DSN=gone) as env:
        down = command(env)
    assert down.returncode == 1
    assert "cannot be reached" in down.stderr
    assert "geheim" not in down.stderr
    assert "Traceback" not in down.stderr
