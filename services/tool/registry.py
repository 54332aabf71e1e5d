"""Which tools there are: each tool worker says so, again and again, in a bucket whose entries nobody believes for long.

A tool that is announced is on every list within milliseconds; one whose worker is gone leaves it within the lease. Workers that
serve one name must agree on its schema: a model that was told one would call the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from qingyu_ai.bus import topology
from qingyu_ai.bus.record import now_ms
from qingyu_ai.bus.transport import Bus, Subscription
from qingyu_ai.bus.transport_errors import TransportError

log = structlog.get_logger(__name__)

STORE_SECONDS = 2.0

BEATS = 3
"""How often a tool is announced in one lease: two announcements may be lost."""


class Parameter(BaseModel):
    """One parameter, as the contract describes it."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str
    description: str = ""
    required: bool = False
    default_value: str = ""


class Listing(BaseModel):
    """A tool, as its worker announces it."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    category: str
    parameters: tuple[Parameter, ...] = ()
    json_schema: dict[str, Any] = {}
    """Of all parameters, for a model."""
    requires_auth: bool = False
    repeatable: bool = True
    """Whether it may be called again when it is not known what became of a call."""
    seconds: float = 5.0
    """How long it may take."""
    digest: str
    """Of name and schema."""


class Announced(BaseModel):
    """An entry of the bucket."""

    listing: Listing
    worker: str
    at_ms: int
    """When it was announced, unix milliseconds."""


class Registry:
    """A live view of the bucket.

    Args:
        lease_seconds: how long an announcement counts.
    """

    def __init__(self, bus: Bus, lease_seconds: float) -> None:
        self._bus = bus
        self._lease_seconds = lease_seconds
        self._entries: dict[tuple[str, str], tuple[Listing, float]] = {}
        """By tool and worker: what was announced, and until when it counts, `time.monotonic()`."""
        self._view: Subscription | None = None

    def __repr__(self) -> str:
        return f"<Registry {[listing.name for listing in self.list()]}>"

    async def start(self) -> None:
        """Begin to watch.

        Raises:
            TransportError: the bucket cannot be read.
        """
        self._view = await self._bus.follow(
            topology.TOOLS, topology.tool_key("*", "*"), self._on_entry, lambda generation: None, from_start=True
        )

    async def stop(self) -> None:
        """Watch no more."""
        if self._view is not None:
            await self._view.stop()

    def _on_entry(self, subject: str, sequence: int, data: bytes) -> None:
        *_, tool, worker = subject.split(".")
        if not data:
            self._entries.pop((tool, worker), None)
            return
        announced = read(data)
        if announced is None:
            return
        # What was stored before this view began may be old. Clocks that differ make it younger or older by as much.
        age = min(max(now_ms() - announced.at_ms, 0) / 1000, self._lease_seconds)
        self._entries[tool, worker] = announced.listing, time.monotonic() + self._lease_seconds - age

    def _forget_the_old(self) -> None:
        now = time.monotonic()
        self._entries = {key: entry for key, entry in self._entries.items() if entry[1] > now}

    def list(self, category: str = "") -> list[Listing]:
        """The tools that there are now, by name.

        Args:
            category: only these; empty: all.
        """
        self._forget_the_old()
        by_name = {listing.name: listing for listing, _ in self._entries.values()}
        return [by_name[name] for name in sorted(by_name) if category in ("", by_name[name].category)]

    def find(self, name: str) -> Listing | None:
        """A tool that there is now."""
        self._forget_the_old()
        return next((listing for (tool, _), (listing, _) in self._entries.items() if tool == name), None)


def read(data: bytes) -> Announced | None:
    """Read an entry; None: it is of a release that writes other ones."""
    try:
        return Announced.model_validate_json(data)
    except ValidationError as e:
        log.warning("tool_entry_unreadable", error=str(e))
        return None


class OtherSchema(Exception):
    """Another worker serves a tool of this name with other parameters. The message names both and says what to do."""

    def __init__(self, tool: str, worker: str) -> None:
        super().__init__(
            f"tool {tool!r} is served by worker {worker} with other parameters; "
            "stop that one first, or give this tool another name"
        )


class Announcer:
    """Says which tools a worker has, until it stops.

    Args:
        worker: its token.
        lease_seconds: how long it is believed.
    """

    def __init__(self, bus: Bus, worker: str, lease_seconds: float, listings: Iterable[Listing]) -> None:
        self._bus = bus
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._listings = {listing.name: listing for listing in listings}
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Announcer {self._worker}: {sorted(self._listings)}>"

    async def start(self) -> None:
        """Announce the tools, and see that nobody serves others by their names.

        Of two workers that start at the same moment with different schemas, one at least is told.

        Raises:
            OtherSchema: somebody does. Nothing is announced any more.
            TransportError: the bucket does not answer.
        """
        await self._announce()  # before looking at the others: who comes later sees it
        for listing in list(self._listings.values()):
            other = await self._other_schema(listing)
            if other is not None:
                await self._withdraw()
                raise OtherSchema(listing.name, other)
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Take the tools off the lists."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(TransportError):  # then they leave the lists at the lease
            await self._withdraw()

    async def add(self, listing: Listing) -> None:
        """Announce one more tool, in place of the one that had its name.

        Raises:
            OtherSchema: somebody serves another one by its name. It is not announced any more.
            TransportError: the bucket does not answer.
        """
        self._listings[listing.name] = listing
        await self._announce_one(listing)
        other = await self._other_schema(listing)
        if other is not None:
            await self.remove(listing.name)
            raise OtherSchema(listing.name, other)

    async def remove(self, name: str) -> None:
        """Take one tool off the lists.

        Raises:
            TransportError: the bucket does not answer; the tool leaves the lists at the lease.
        """
        if self._listings.pop(name, None) is not None:
            await self._store(name, b"")

    async def _other_schema(self, listing: Listing) -> str | None:
        """The worker that serves a tool of this name with another schema."""
        sequence = 1
        key = topology.tool_key(listing.name, "*")
        while stored := await self._bus.next(topology.TOOLS, key, sequence, timeout=STORE_SECONDS):
            sequence = stored.sequence + 1
            announced = read(stored.data) if stored.data else None
            if announced is None or announced.worker == self._worker:
                continue
            alive = now_ms() - announced.at_ms < self._lease_seconds * 1000
            if alive and announced.listing.digest != listing.digest:
                return announced.worker
        return None

    async def _announce(self) -> None:
        for listing in list(self._listings.values()):
            if self._listings.get(listing.name) is listing:  # it may have gone while others were announced
                await self._announce_one(listing)

    async def _announce_one(self, listing: Listing) -> None:
        entry = Announced(listing=listing, worker=self._worker, at_ms=now_ms())
        await self._store(listing.name, entry.model_dump_json().encode())

    async def _withdraw(self) -> None:
        for name in list(self._listings):
            await self._store(name, b"")

    async def _store(self, name: str, data: bytes) -> None:
        await self._bus.store(topology.tool_key(name, self._worker), data, timeout=STORE_SECONDS)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / BEATS)
            try:
                await self._announce()
            except TransportError as e:
                log.warning("tools_not_announced", tools=sorted(self._listings), error=str(e))
