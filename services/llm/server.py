"""One model server: its address and key, its bounded connections, its breaker. Whoever asks it for anything asks here."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import structlog

from qingyu_ai import __version__
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired, Fault
from qingyu_ai.settings import DEFAULT_ALIAS, Endpoint, SettingsError

from .breaker import Breaker
from .curl import Curls
from .faults import Upstream, UpstreamFault
from .refusal import MAX_BODY_BYTES, UNREADABLE, kind_of, retry_after, text_of
from .transfer import Failure, Transfer, TransferError

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of an answer in one piece: a thousand vectors of 3,072 numbers in JSON are 40 MiB."""

EARLY = 0.005
"""Seconds by which a timer may be early."""

REFUSAL_SECONDS = 2.0
"""How long the body of an error may take; what has come by then must do."""

_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_KEY_LIKE = re.compile(r"\b(?:sk|key|Bearer)[-_ ][A-Za-z0-9._\-]{8,}")

_FAILURES = {
    Failure.CONNECT: Upstream.UNREACHABLE,
    Failure.CONNECT_TIMEOUT: Upstream.CONNECT_TIMEOUT,
    Failure.TLS: Upstream.TLS_FAILED,
    Failure.CUT: Upstream.STREAM_CUT,
    Failure.OTHER: Upstream.ANSWER_BROKEN,
}


class Budget(NamedTuple):
    """The time of one request, never more than what the caller has left."""

    first: Deadline
    total: Deadline
    caller: Deadline

    @classmethod
    def start(cls, settings: Endpoint, caller: Deadline) -> Budget:
        """Begin now."""
        total = min(Deadline.after(settings.total_seconds), caller)
        return cls(
            min(Deadline.after(settings.first_token_seconds), total),
            total,
            caller,
        )


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Server:
    """See the module.

    Args:
        alias: what this deployment calls it, in errors and logs.
        settings: address, key and limits.
        curls: the process's transfers.
        beside: another alias of the same server, with the same key: connections and breaker are shared with it.

    Raises:
        SettingsError: the key's variable is not set, or the key is not a header's text.
    """

    def __init__(self, alias: str, settings: Endpoint, curls: Curls, beside: Server | None = None) -> None:
        self.alias = alias
        self.settings = settings
        self._curls = curls
        self._base = settings.base_url.rstrip("/")
        self._key = _key_of(alias, settings)
        self._slots: asyncio.Semaphore = beside._slots if beside else asyncio.Semaphore(settings.connections)
        self._model = settings.model
        self._ca_file = str(settings.ca_file or "")
        own = Breaker(self._base, settings.breaker_failures, settings.breaker_seconds)
        self.breaker: Breaker = beside.breaker if beside else own

    @property
    def identity(self) -> tuple[str, str]:
        """Address and key: aliases that have both in common are one server."""
        return self._base, self._key

    def __repr__(self) -> str:
        return f"<Server {self.alias} at {self._base}, {self.breaker.state}>"

    @property
    def label(self) -> str:
        """What an answer calls its model: the alias, or the server's own name for it where nobody chose one."""
        chosen_here = self.alias != DEFAULT_ALIAS or self.settings.model
        return self.alias if chosen_here or not self._model else self._model

    def fault(self, kind: Upstream, detail: str = "", retry_seconds: float | None = None) -> UpstreamFault:
        """Make a fault of this server's, and log the story behind it, without keys."""
        shown = self.without_key(detail)[:500]
        log.warning("model_failed", model=self.alias, server=self._base, reason=kind.name, detail=shown)
        return UpstreamFault(kind, self.alias, retry_seconds=retry_seconds, detail=shown)

    def without_key(self, text: str) -> str:
        """A text of the server's that may be logged: some servers say a key back that they refuse."""
        if self._key:
            text = text.replace(self._key, "***")
        return _KEY_LIKE.sub("***", text)

    async def model_name(self, budget: Budget) -> str:
        """The server's name for its model: the configured one, else the first that it lists."""
        if not self._model:
            async with self.asked("/models", None, budget) as transfer:
                answer = await self.whole(transfer, budget)
            try:
                listed = msgspec.json.decode(answer, type=_Models)
                self._model = listed.data[0].id
            except (*UNREADABLE, LookupError):
                raise self.fault(Upstream.NOT_AVAILABLE, "its /models lists none; name one in the settings") from None
            log.info("model_chosen", model=self._model, server=self._base)
        return self._model

    @asynccontextmanager
    async def asked(
        self, path: str, body: bytes | None, budget: Budget, traceparent: str = ""
    ) -> AsyncIterator[Transfer]:
        """Ask, and hold the connection while the answer is read. Leaving early closes it.

        Args:
            traceparent: of the span that this request has, sent if the settings say so.

        Raises:
            UpstreamFault: there is no answer, or its status is not 200.
            Expired: the caller's time is over.
        """
        try:
            async with asyncio.timeout(budget.first.remaining):
                await self._slots.acquire()
        except TimeoutError:
            raise self.late(Upstream.FULL, budget, f"all {self.settings.connections} are in use") from None
        transfer: Transfer | None = None
        try:
            transfer = self._curls.start(
                self._base + path,
                self._headers(body is not None, traceparent),
                body,
                connect_seconds=max(0.001, min(self.settings.connect_seconds, budget.first.remaining)),
                http2=self.settings.http2,
                ca_file=self._ca_file,
            )
            try:
                await transfer.head(budget.first.at)
            except TimeoutError:
                raise self.late(Upstream.FIRST_TOKEN_TIMEOUT, budget) from None
            except TransferError as e:
                raise self.lost(e, budget) from None
            if transfer.status != 200:
                raise await self._refused(transfer, budget)
            yield transfer
        finally:
            self._slots.release()
            if transfer is not None:
                transfer.close()

    def _headers(self, posts: bool, traceparent: str) -> dict[str, str]:
        headers = {"User-Agent": f"qingyu-ai/{__version__}", "Accept": "text/event-stream, application/json"}
        if posts:
            headers |= {"Content-Type": "application/json", "Expect": ""}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        if traceparent and self.settings.send_traceparent:
            headers["traceparent"] = traceparent
        return headers

    async def _refused(self, transfer: Transfer, budget: Budget) -> Fault:
        body = b""
        until = min(Deadline.after(REFUSAL_SECONDS), budget.total).at
        try:
            while len(body) < MAX_BODY_BYTES and (piece := await transfer.read(until)):
                body += piece
        except (TimeoutError, TransferError):
            if budget.caller.remaining <= EARLY:
                return Expired()  # otherwise what there is of it must do
        text = text_of(body)
        kind = kind_of(transfer.status, text)
        story = f"status {transfer.status}: {text}"
        if transfer.status == 404 and not body.lstrip().startswith(b"{"):
            story = f"no such path; does base_url end with its version, as in /v1? {story}"
        return self.fault(kind, story, retry_after(transfer.headers))

    async def whole(self, transfer: Transfer, budget: Budget, limit: int = MAX_ANSWER_BYTES) -> bytes:
        """Read an answer in one piece.

        Raises:
            UpstreamFault: it does not come whole.
            Expired: the caller's time is over.
        """
        pieces, size = [], 0
        try:
            while piece := await transfer.read(budget.total.at):
                pieces.append(piece)
                size += len(piece)
                if size > limit or budget.total.passed:
                    break
        except TimeoutError:
            raise self.late(Upstream.TOTAL_TIMEOUT, budget) from None
        except TransferError as e:
            raise self.lost(e, budget) from None
        if size > limit:
            raise self.fault(Upstream.ANSWER_TOO_LARGE, f"more than {limit} bytes")
        if piece:
            raise self.late(Upstream.TOTAL_TIMEOUT, budget)
        return b"".join(pieces)

    def late(self, kind: Upstream, budget: Budget, detail: str = "") -> Fault:
        """What it means that a time is over: the caller's own, if that is what ran out."""
        return Expired() if budget.caller.remaining <= EARLY else self.fault(kind, detail)

    def lost(self, error: TransferError, budget: Budget) -> Fault:
        """What it means that a transfer failed."""
        if error.failure is Failure.CONNECT_TIMEOUT:
            return self.late(Upstream.CONNECT_TIMEOUT, budget, str(error))
        return self.fault(_FAILURES[error.failure], str(error))


def _key_of(alias: str, settings: Endpoint) -> str:
    key = settings.api_key.get_secret_value().strip()
    if settings.api_key_env and not _VARIABLE.fullmatch(settings.api_key_env):
        raise SettingsError(f"model {alias}: api_key_env must be the name of an environment variable, and is none")
    if settings.api_key_env:
        key = os.environ.get(settings.api_key_env, "").strip()
        if not key:
            raise SettingsError(f"model {alias}: api_key_env names {settings.api_key_env}, which is not set")
    if not key.isascii() or not key.isprintable():
        raise SettingsError(f"model {alias}: its key has characters that a header cannot carry")
    return key
