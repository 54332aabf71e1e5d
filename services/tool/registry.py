"""Which tools there are: each tool worker says so, again and again, in a bucket whose entries nobody believes for long.

A tool that is announced is on every list within milliseconds; one whose worker is gone leaves it within the lease. Workers that
serve one name must agree on it (`announcing`): a model that was told of one would call the other.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from qingyu_ai.bus import topology
from qingyu_ai.bus.record import now_ms
from qingyu_ai.bus.transport import Bus, Subscription

log = structlog.get_logger(__name__)


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
    """How long it may take, once it runs."""
    wait_seconds: float = 0.0
    """How long a call may wait for its turn before that."""
    digest: str
    """Of name and schema."""


class Announced(BaseModel):
    """An entry of the bucket."""

    listing: Listing
    worker: str
    at_ms: int
    """When it was announced, unix milliseconds."""
    ready: bool = True
    """False: its worker has taken the name, and serves nothing yet."""
    first: int = 0
    """The bucket's sequence of this worker's first entry for the tool, which is the order of those who want a name at once; 0:
    this is that entry."""


class Registry:
    """A live view of the bucket.

    Args:
        lease_seconds: how long an announcement counts.
    """

    def __init__(self, bus: Bus, lease_seconds: float) -> None:
        self._bus = bus
        self._lease_seconds = lease_seconds
        self._entries: dict[tuple[str, str], tuple[Listing, float, int]] = {}
        """By tool and worker: what was announced, until when it counts, `time.monotonic()`, and who was first."""
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
        if not announced.ready:
            self._entries.pop((tool, worker), None)
            return
        # What was stored before this view began may be old. Clocks that differ make it younger or older by as much.
        age = min(max(now_ms() - announced.at_ms, 0) / 1000, self._lease_seconds)
        until = time.monotonic() + self._lease_seconds - age
        self._entries[tool, worker] = announced.listing, until, announced.first or sequence

    def _forget_the_old(self) -> None:
        now = time.monotonic()
        self._entries = {key: entry for key, entry in self._entries.items() if entry[1] > now}

    def list(self, category: str = "") -> list[Listing]:
        """The tools that there are now, by name.

        Args:
            category: only these; empty: all.
        """
        found = self._found()
        return [found[name] for name in sorted(found) if category in ("", found[name].category)]

    def find(self, name: str) -> Listing | None:
        """A tool that there is now."""
        return self._found().get(name)

    def _found(self) -> dict[str, Listing]:
        """Each tool as the worker describes it that has served it longest."""
        self._forget_the_old()
        entries = sorted(self._entries.items(), key=lambda entry: entry[1][2], reverse=True)
        return {tool: listing for (tool, _), (listing, _, _) in entries}


def read(data: bytes) -> Announced | None:
    """Read an entry; None: it is of a release that writes other ones."""
    try:
        return Announced.model_validate_json(data)
    except ValidationError as e:
        log.warning("tool_entry_unreadable", error=str(e))
        return None
