"""`python -m services.rag.migrate`: bring the database to what this release needs, and let its workers in.

A migration is a file `migrations/NNNN_name.sql`. Its first line, `-- needs N`, is the lowest version whose workers can work on
the database after it: N below NNNN for what the release before does not notice, so that its workers go on while new ones start.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from qingyu_ai.settings import Settings, SettingsError, load

from .database import addresses

GROUP = "qingyu_rag_worker"
"""The role that has the rights of a worker."""

LOCK = 0x7161_7261_6700
"""The advisory lock that lets one process migrate at a time."""

CONNECT_SECONDS = 10

_NAME = re.compile(r"(\d{4})_\w+\.sql")
_NEEDS = re.compile(r"-- needs (\d+)")


class WrongSchema(SettingsError):
    """The database is not what this release needs. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step."""

    version: int
    name: str
    text: str
    needs: int

    @property
    def digest(self) -> str:
        """Of the text, so that a step that was changed after it was applied is noticed."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The steps of this release, in order."""
    found = []
    for file in sorted(resources.files(__package__).joinpath("migrations").iterdir(), key=lambda f: f.name):
        named = _NAME.fullmatch(file.name)
        if named is None:
            continue
        text = file.read_text(encoding="utf-8")
        needs = _NEEDS.match(text)
        if needs is None:
            raise ValueError(f"{file.name} does not begin with `-- needs N`")
        found.append(Migration(int(named[1]), file.name, text, int(needs[1])))
    return found


def migrate(owner_dsn: str, worker_dsn: str, steps: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing, and give the worker's role its rights. Safe to run from many processes at once.

    Args:
        owner_dsn: the database as the role that is to own the tables.
        worker_dsn: as the worker's role, which is made, with the password in here, if it is missing.
        steps: instead of this release's.

    Returns:
        The names of the steps that were applied.

    Raises:
        WrongSchema: the database is of a later release, or was migrated with other files.
        SettingsError: the owner may not do it, or the worker's role has rights that a worker must not have.
        psycopg.OperationalError: it cannot be reached.
    """
    steps = shipped() if steps is None else steps
    with psycopg.connect(owner_dsn, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))  # goes with the connection
        try:
            applied = _apply(connection, steps)
            _let_in(connection, conninfo_to_dict(worker_dsn))
        except psycopg.errors.InsufficientPrivilege as e:
            raise SettingsError(
                "the role of QINGYU_RAG__OWNER_DSN may not prepare the database "
                f"({e.diag.message_primary}): docs/rag-store.md lists what an administrator does once"
            ) from None
    return applied


def _apply(connection: psycopg.Connection[Any], steps: Sequence[Migration]) -> list[str]:
    with connection.transaction():
        connection.execute("CREATE SCHEMA IF NOT EXISTS rag")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS rag.migrations (version integer PRIMARY KEY, name text NOT NULL, "
            "digest text NOT NULL, needs integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
    known = {row[0]: row[1] for row in connection.execute("SELECT version, digest FROM rag.migrations").fetchall()}
    if ahead := sorted(set(known) - {step.version for step in steps}):
        raise WrongSchema(
            f"the database has version {ahead[-1]}, which this release does not know: use a later release"
        )
    applied = []
    for step in steps:
        if step.version in known:
            if known[step.version] != step.digest:
                raise WrongSchema(
                    f"{step.name} is not what was applied to the database: changes belong into a new file"
                )
            continue
        with connection.transaction():
            connection.execute(step.text.encode())
            connection.execute(
                "INSERT INTO rag.migrations (version, name, digest, needs) VALUES (%s, %s, %s, %s)",
                (step.version, step.name, step.digest, step.needs),
            )
        applied.append(step.name)
    return applied


def _let_in(connection: psycopg.Connection[Any], worker: dict[str, Any]) -> None:
    """See that the worker's role is there and is a member of the group that has the rights."""
    role, password = str(worker.get("user", "")), worker.get("password")
    found = connection.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    if found is not None and found[0]:
        raise SettingsError(_too_mighty(role))
    if found is None:
        if not role or not password:
            raise SettingsError(
                f"QINGYU_RAG__DSN names the role {role!r}, which does not exist, without a password for it"
            )
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(password)
            )
        )
    member = connection.execute("SELECT pg_has_role(%s, %s, 'USAGE')", (role, GROUP)).fetchone()
    if member is None or not member[0]:
        connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(GROUP), sql.Identifier(role)))


def check(dsn: str, steps: Sequence[Migration] | None = None) -> None:
    """See that a worker of this release can work on the database, and that the second wall binds it.

    Raises:
        WrongSchema: it is behind or too far ahead.
        SettingsError: the role may see more than one tenant at once.
        psycopg.OperationalError: it cannot be reached.
    """
    steps = shipped() if steps is None else steps
    newest = steps[-1].version
    run = "run `python -m services.rag.migrate` of this release first"
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
        row = connection.execute(
            "SELECT rolsuper OR rolbypassrls OR pg_has_role(current_user, n.nspowner, 'MEMBER'), current_user "
            "FROM pg_roles LEFT JOIN pg_namespace n ON n.nspname = 'rag' WHERE rolname = current_user"
        ).fetchone()
        if row is not None and row[0]:
            raise SettingsError(_too_mighty(row[1]))
        try:
            version, needs = connection.execute("SELECT max(version), max(needs) FROM rag.migrations").fetchone() or (
                None,
                None,
            )
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege):
            raise WrongSchema(f"the database is not prepared for {row[1] if row else 'this role'}: {run}") from None
    if version is None or version < newest:
        raise WrongSchema(f"the database has version {version or 0}, and this release needs {newest}: {run}")
    if needs > newest:
        raise WrongSchema(
            f"the database has version {version}, for which workers of version {needs} are needed, and this release has "
            f"{newest}: deploy the release that migrated it"
        )


def _too_mighty(role: str) -> str:
    return (
        f"the role {role!r} of QINGYU_RAG__DSN is a superuser, bypasses row-level security or owns the tables: "
        "a worker needs a role of its own that does not (docs/rag-store.md)"
    )


def main(settings: Settings) -> int:
    """Do it, and say what was done."""
    worker, owner = addresses(settings)
    if not owner:
        raise SettingsError(
            "set QINGYU_RAG__OWNER_DSN to the database of QINGYU_RAG__DSN, as the role that owns the tables"
        )
    applied = migrate(owner, worker)
    check(worker)
    sys.stdout.write(f"applied: {', '.join(applied)}\n" if applied else "the database is up to date\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(load()))
    except SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(2)
    except psycopg.OperationalError as problem:
        sys.stderr.write(f"the database cannot be reached: {str(problem).strip().splitlines()[0]}\n")
        sys.exit(1)
