"""What a tool worker says of its tools, and how it comes to have their names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

import structlog

from qingyu_ai.bus import topology
from qingyu_ai.bus.record import now_ms
from qingyu_ai.bus.transport import Bus
from qingyu_ai.bus.transport_errors import ReplyTimeout, TransportError

from .registry import Announced, Listing, read

log = structlog.get_logger(__name__)

STORE_SECONDS = 2.0

BEATS = 3
"""How often a tool is announced in one lease: two announcements may be lost."""

LOOKS = 40
"""At a bucket whose copy is behind, in `STORE_SECONDS`."""


class OtherTool(Exception):
    """Another worker serves another tool by this name. The message names both, says what differs and what to do."""

    def __init__(self, tool: str, worker: str, differs: Sequence[str]) -> None:
        super().__init__(
            f"tool {tool!r} is served by worker {worker} with other {' and '.join(differs)}; "
            "stop that one first, or give this tool another name"
        )


def differences(one: Listing, other: Listing) -> list[str]:
    """What two tools of one name must have in common and have not: else a caller, who cannot choose, is promised what only one
    of them keeps."""
    return [
        word
        for word, differs in (
            ("parameters", one.digest != other.digest),
            ("requires_auth", one.requires_auth != other.requires_auth),
            ("repeatable", one.repeatable != other.repeatable),
        )
        if differs
    ]


def described_otherwise(one: Listing, other: Listing) -> list[str]:
    """What two workers may say otherwise of one tool while one takes the other's place: words, and its time limit."""
    return [field for field in ("description", "category", "seconds") if getattr(one, field) != getattr(other, field)]


class Announcer:
    """Says which tools a worker has, until it stops.

    Args:
        worker: its token.
        lease_seconds: how long it is believed.
        listings: what `start` announces; `add` announces more.
    """

    def __init__(self, bus: Bus, worker: str, lease_seconds: float, listings: Iterable[Listing]) -> None:
        self._bus = bus
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._listings = {listing.name: listing for listing in listings}
        self._first: dict[str, int] = {}
        """By tool, the bucket's sequence of the first entry: what is claimed."""
        self._told: set[tuple[str, str]] = set()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Announcer {self._worker}: {sorted(self._listings)}>"

    async def claim(self, more: Iterable[Listing] = ()) -> None:
        """Take the names of all tools, before anything is listed or served; see that nobody serves others by them.

        A name is the worker's whose entry is first in the bucket; all claim in the order of the names. So of two that start at
        the same moment exactly one is told, and that one has been neither listed nor called.

        Args:
            more: that will be added.

        Raises:
            OtherTool: somebody has one of the names. Nothing is claimed any more.
            TransportError: the bucket does not answer.
        """
        wanted = {listing.name: listing for listing in (*more, *self._listings.values())}
        try:
            for name in sorted(wanted):
                await self._claim(wanted[name])
        except OtherTool:
            await self._withdraw()
            raise

    async def start(self) -> None:
        """Announce the tools.

        Raises:
            OtherTool: as `claim`, which it does if nobody has.
            TransportError: the bucket does not answer.
        """
        if not self._listings.keys() <= self._first.keys():
            await self.claim()
        await self._announce()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Take the tools off the lists."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(TransportError):  # then they leave the lists at the lease
            await self._withdraw()

    async def check(self, listing: Listing) -> None:
        """Take the name of one more tool, before it is served; of one that changes, see that it may.

        Raises:
            OtherTool: somebody serves another one by its name. It is not announced any more.
            TransportError: the bucket does not answer.
        """
        try:
            await self._claim(listing)
        except OtherTool:
            await self.remove(listing.name)
            raise

    async def add(self, listing: Listing) -> None:
        """Announce one more tool, in place of the one that had its name.

        Raises:
            OtherTool: as `check`.
            TransportError: the bucket does not answer.
        """
        await self.check(listing)
        self._listings[listing.name] = listing
        await self._announce_one(listing)

    async def remove(self, name: str) -> None:
        """Take one tool off the lists.

        Raises:
            TransportError: the bucket does not answer; the tool leaves the lists at the lease.
        """
        self._listings.pop(name, None)
        if self._first.pop(name, None) is not None:
            await self._store(name, b"")

    async def _claim(self, listing: Listing) -> None:
        for other in await self._others(listing.name):
            self._refuse(listing, other)  # who is there stays
        if listing.name in self._first:
            return
        first = await self._write(listing, ready=False)
        self._first[listing.name] = first
        for other in await self._others(listing.name, after=first):
            if other.first < first:
                self._refuse(listing, other)

    def _refuse(self, listing: Listing, other: Announced) -> None:
        if differs := differences(listing, other.listing):
            raise OtherTool(listing.name, other.worker, differs)
        if (said := described_otherwise(listing, other.listing)) and (listing.name, other.worker) not in self._told:
            self._told.add((listing.name, other.worker))
            log.warning("tool_described_otherwise", tool=listing.name, worker=other.worker, differs=said)

    async def _others(self, name: str, *, after: int = 0) -> list[Announced]:
        """What other workers that live have stored for a tool.

        Args:
            after: a sequence that must be among what is read. A copy of the bucket may be behind, but it has no gaps: one that
                has this has all that came before it.
        """
        for _ in range(LOOKS):
            found, last = await self._read_all(name)
            if last >= after:
                return found
            await asyncio.sleep(STORE_SECONDS / LOOKS)
        raise ReplyTimeout(f"no copy of {topology.TOOLS} has sequence {after}")

    async def _read_all(self, name: str) -> tuple[list[Announced], int]:
        found, last = [], 0
        key = topology.tool_key(name, "*")
        while stored := await self._bus.next(topology.TOOLS, key, last + 1, timeout=STORE_SECONDS):
            last = stored.sequence
            announced = read(stored.data) if stored.data else None
            if announced is None or announced.worker == self._worker:
                continue
            if now_ms() - announced.at_ms < self._lease_seconds * 1000:
                found.append(announced.model_copy(update={"first": announced.first or last}))
        return found, last

    async def _announce(self) -> None:
        for listing in list(self._listings.values()):
            if self._listings.get(listing.name) is listing:  # it may have gone while others were announced
                await self._announce_one(listing)

    async def _announce_one(self, listing: Listing) -> None:
        await self._write(listing, ready=True)

    async def _write(self, listing: Listing, *, ready: bool) -> int:
        first = self._first.get(listing.name, 0)
        entry = Announced(listing=listing, worker=self._worker, at_ms=now_ms(), ready=ready, first=first)
        return await self._store(listing.name, entry.model_dump_json().encode())

    async def _withdraw(self) -> None:
        for name in list(self._first):
            await self._store(name, b"")
        self._first.clear()

    async def _store(self, name: str, data: bytes) -> int:
        return await self._bus.store(topology.tool_key(name, self._worker), data, timeout=STORE_SECONDS)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / BEATS)
            try:
                await self._announce()
            except TransportError as e:
                log.warning("tools_not_announced", tools=sorted(self._listings), error=str(e))
