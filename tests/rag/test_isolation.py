"""A user sees only their own documents, whatever is asked, also when a statement forgets to say whose."""

from __future__ import annotations

import itertools

import psycopg
import pytest

from qingyu_ai.bus.errors import Invalid
from qingyu_ai.events.documents import Note
from services.rag.database import Database
from services.rag.searching import Reader, Scope
from services.rag.store import Store
from services.rag.stored import hash_of
from tests.rag.conftest import Address
from tests.rag.texts import MODEL, at, found, put, soon, texts

CANARY = "金丝雀的暗号是北斗七星。"
OWN = "今天的暗号是南山松柏。"
TABLES = ("submissions", "tenants", "documents", "pieces", "postings", "vectors", "untold")

NAMES = (
    "",
    "victim",
    "%",
    "_",
    "victim' OR '1'='1",
    "' UNION SELECT content FROM rag.pieces --",
    "\\' OR 1=1 --",
    "$1",
    "%(user)s",
    '{"$ne": ""}',
    "null",
    "*",
    "ｖｉｃｔｉｍ",
    "VICTIM",
    "victim ",
)


@pytest.fixture
async def planted(store: Store) -> None:
    """Two tenants with the same ids for everything."""
    facts = {"secret": "yes", "name": "' OR '1'='1"}
    note = Note("document_indexed", CANARY.encode())
    await put(store, "victim", "shared", CANARY, at(1), project="p", kind="chapter", metadata=facts, note=note)
    await put(store, "victim", "canary", CANARY, at(2), project="", kind="", metadata={})
    await put(store, "mallory", "shared", OWN, at(3), project="p", kind="chapter", metadata=facts, note=note)


@pytest.mark.usefixtures("planted")
async def test_no_combination_of_scope_reaches_another_users_canary(reader: Reader) -> None:
    scopes = [Scope()]
    scopes += [Scope(project_id=name) for name in NAMES]
    scopes += [Scope(content_types=(name,)) for name in NAMES if name]
    scopes += [Scope(filters={name: value}) for name, value in itertools.product(NAMES, ("", "yes", "' OR true --"))]
    scopes += [
        Scope("p", ("chapter", "' OR '1'='1"), {"secret": "yes"}),
        Scope("p", ("chapter",), {"user_id": "victim"}),
    ]
    seen = set()
    for scope in scopes:
        seen |= {one.text for one in await found(reader, "mallory", CANARY, scope)}
    assert seen == {OWN}  # and it does find what is one's own


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("user", [name for name in NAMES if name not in ("", "victim")])
async def test_no_spelling_of_a_user_is_another_user(reader: Reader, user: str) -> None:
    assert await found(reader, user, CANARY) == []


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("user", ["", "\0", "victim\0"])
async def test_empty_user_is_refused_rather_than_all_users(reader: Reader, user: str) -> None:
    with pytest.raises(Invalid):
        await found(reader, user, CANARY)


@pytest.mark.usefixtures("planted")
async def test_keys_of_another_users_pieces_show_nothing(reader: Reader) -> None:
    keys = [one.key for one in await found(reader, "victim", CANARY)]
    assert len(keys) == 2
    async with reader.view("mallory", Scope(), soon()) as view:
        assert await view.show(keys) == []


@pytest.mark.usefixtures("planted")
async def test_another_users_document_can_be_neither_replaced_nor_deleted(store: Store, reader: Reader) -> None:
    assert not (await store.delete("mallory", "canary", at(10), soon())).found
    await put(store, "mallory", "canary", OWN, at(11))
    await store.delete("mallory", "shared", at(12), soon())
    assert await texts(reader, "victim") == [CANARY, CANARY]


@pytest.mark.usefixtures("planted")
async def test_the_vectors_of_another_user_are_not_reused(store: Store) -> None:
    assert await store.known("mallory", MODEL, [hash_of(CANARY)], soon()) == {}


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("table", TABLES)
async def test_statement_without_a_where_sees_its_own_tenant_only(database: Database, table: str) -> None:
    """The second wall: row-level security holds when the first, the WHERE, is missing."""
    async with database.tenant("mallory", soon()) as connection:
        rows = await (await connection.execute(f"SELECT DISTINCT user_id FROM rag.{table}".encode())).fetchall()
    assert rows == [("mallory",)]
    async with database.nobody(soon()) as connection:
        assert await (await connection.execute(f"SELECT 1 FROM rag.{table}".encode())).fetchall() == []


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("table", TABLES)
async def test_statement_that_names_another_user_changes_nothing(
    database: Database, table: str, address: Address
) -> None:
    with psycopg.connect(address.owner) as owner:
        before = owner.execute(f"SELECT count(*) FROM rag.{table} WHERE user_id = 'victim'".encode()).fetchone()
    async with database.tenant("mallory", soon()) as connection:
        gone = await connection.execute(f"DELETE FROM rag.{table} WHERE user_id = 'victim'".encode())
        changed = await connection.execute(
            f"UPDATE rag.{table} SET user_id = user_id WHERE user_id = 'victim'".encode()
        )
        assert (gone.rowcount, changed.rowcount) == (0, 0)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with database.tenant("mallory", soon()) as connection:
            await connection.execute("INSERT INTO rag.tenants (user_id, model, dimension) VALUES ('victim2', 'm', 1)")
    with psycopg.connect(address.owner) as owner:
        after = owner.execute(f"SELECT count(*) FROM rag.{table} WHERE user_id = 'victim'".encode()).fetchone()
    assert before == after != (0,)


@pytest.mark.usefixtures("planted")
async def test_connection_that_is_used_again_has_forgotten_its_tenant(database: Database) -> None:
    for user in ("victim", "mallory", "victim"):
        async with database.tenant(user, soon()) as connection:
            rows = await (await connection.execute("SELECT DISTINCT user_id FROM rag.documents")).fetchall()
        assert rows == [(user,)]
    async with database._pool.connection() as connection:
        assert await (await connection.execute("SELECT 1 FROM rag.documents")).fetchall() == []


@pytest.mark.usefixtures("planted")
def test_wall_is_the_roles_and_not_the_tests(address: Address) -> None:
    """The negative control: the owner, whom the wall does not bind here, sees both tenants with the same statement."""
    with psycopg.connect(address.owner) as owner:
        rows = owner.execute("SELECT DISTINCT user_id FROM rag.documents ORDER BY 1").fetchall()
    assert rows == [("mallory",), ("victim",)]


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE postgres",
        "SET row_security = off; SELECT count(*) FROM rag.documents",
        "ALTER TABLE rag.documents DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own ON rag.documents",
        "CREATE TABLE rag.copy (a int)",
        "COPY rag.documents TO PROGRAM 'cat'",
        "UPDATE rag.migrations SET version = 2",
        "TRUNCATE rag.documents",
    ],
)
async def test_worker_cannot_take_the_wall_down(database: Database, statement: str) -> None:
    async def attempt() -> None:
        async with database.tenant("mallory", soon()) as connection:
            await connection.execute(statement.encode())

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await attempt()


async def test_extension_with_another_licence_is_not_there(database: Database) -> None:
    async with database.nobody(soon()) as connection:
        rows = await (await connection.execute("SELECT extname FROM pg_extension ORDER BY 1")).fetchall()
    assert [row[0] for row in rows] == ["plpgsql", "vector"]
