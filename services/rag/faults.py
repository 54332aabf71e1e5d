"""What the database did not do, as the caller may see it. Never its words: they name tables and hold what people wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
import structlog
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from qingyu_ai.bus.errors import Code, Expired, Fault, Invalid

log = structlog.get_logger(__name__)

FULL_SECONDS = 60.0
"""For a caller to wait while the database has no room: somebody has to make some."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_DOWN = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.TooManyConnections,
    errors.ReadOnlySqlTransaction,  # a former primary, before the address moves
    errors.IdleInTransactionSessionTimeout,
    PoolTimeout,
    PoolClosed,
    TooManyRequests,
)

_AGAIN = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable)


class DatabaseDown(Fault):
    """The store of documents cannot be reached, or is just starting."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "STORE_UNAVAILABLE",
            "The store of documents is not available; try again in a moment",
            "文档库暂时不可用，请稍后重试",
            retry_seconds=1.0,
        )


class DatabaseFull(Fault):
    """The store of documents has no room."""

    def __init__(self) -> None:
        super().__init__(
            Code.RESOURCE_EXHAUSTED,
            "STORE_FULL",
            "The store of documents has no room; nothing was changed, and searching goes on; try again later",
            "文档库空间已满，未作任何更改，检索不受影响，请稍后重试",
            retry_seconds=FULL_SECONDS,
        )


class Collided(Fault):
    """Others changed the same documents at the same moment, again and again."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "STORE_BUSY",
            "Others change the same documents at this moment; try again",
            "同一批文档正在被其他请求修改，请稍后重试",
            retry_seconds=0.5,
        )


@contextmanager
def translated() -> Iterator[None]:
    """Translate at the border. What is not in the table is a defect, and goes on as it is."""
    try:
        yield
    except psycopg.Error as e:
        fault = fault_of(e)
        if fault is None:
            raise
        log.warning("database", error=type(e).__name__, sqlstate=e.sqlstate, fault=fault.reason)
        raise fault from None


def fault_of(error: psycopg.Error) -> Fault | None:
    """The fault of an error; None: it is a defect of ours."""
    if isinstance(error, _AGAIN):
        return Collided()
    if isinstance(error, errors.QueryCanceled):
        return Expired()  # statement_timeout, which is what the caller has left
    if isinstance(error, errors.DiskFull | errors.OutOfMemory | errors.ConfigurationLimitExceeded):
        return DatabaseFull()
    if isinstance(error, _DOWN) or (error.sqlstate or "").startswith(("08", "57P", "58")):
        return DatabaseDown()
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return DatabaseDown()  # there is no connection, or it was lost: no server has spoken
    return None


def check_text(field: str, text: str, longest: int | None = None) -> list[tuple[str, str]]:
    """What keeps a text out of the store.

    Args:
        longest: characters; None: as long as it likes.
    """
    if longest is not None and len(text) > longest:
        return [(field, f"has {len(text)} characters; the limit is {longest}")]
    if "\0" in text:
        return [(field, f"has the character U+0000 at {text.index(chr(0))}, which cannot be stored")]
    if found := _SURROGATE.search(text):
        return [(field, f"has half a character (a lone surrogate) at {found.start()}")]
    return []


def check_pairs(field: str, pairs: Mapping[str, str], most_bytes: int) -> list[tuple[str, str]]:
    """What keeps names with values out of the store."""
    found = []
    for name, value in pairs.items():
        broken = check_text(field, name)
        found += broken or check_text(f"{field}[{name!r}]" if len(name) <= 64 else field, value)
    if found:
        return found
    size = sum(len(name.encode()) + len(value.encode()) for name, value in pairs.items())
    return [(field, f"has {size} bytes; the limit is {most_bytes}")] if size > most_bytes else []


def refuse(violations: list[tuple[str, str]]) -> None:
    """Raise Invalid if there are any."""
    if violations:
        raise Invalid(*violations)
