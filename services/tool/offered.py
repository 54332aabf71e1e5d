"""What the service knows of a tool, whatever is behind it: how it is listed, and how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qingyu_ai.bus.handler import Call

from .registry import Listing


class Offered(Protocol):
    """A tool that a worker offers."""

    @property
    def listing(self) -> Listing:
        """As it is announced."""

    async def run(self, call: Call, parameters: str) -> str:
        """Run it for a call. It keeps its own limits of time and size.

        Args:
            parameters: as the caller gave them, a JSON text; not checked yet.

        Returns:
            The result, as JSON.

        Raises:
            ToolError: one of its kinds, each safe to show. InvalidParameters: it did not run.
            Fault: of a service that it asked.
        """


class Offering(Protocol):
    """The tools that a worker offers now. What knows of tools that come and go tells it."""

    async def offer(self, tool: Offered) -> None:
        """Serve and list a tool, in place of the one that had its name.

        Raises:
            OtherTool: another worker serves another tool by its name. It is neither served here nor listed.
            TransportError: the bus does not answer.
        """

    async def unlist(self, name: str) -> None:
        """Take a tool off the lists. It is served on: a call that comes yet is told why it cannot run.

        Raises:
            TransportError: the bus does not answer; the tool leaves the lists at the lease.
        """

    async def drop(self, name: str) -> None:
        """Take a tool off the lists, and serve it no more.

        Raises:
            TransportError: as `unlist`.
        """


class Source(Protocol):
    """Where tools come from that are not there for as long as the worker is."""

    @property
    def listings(self) -> Sequence[Listing]:
        """Those that there are now. The worker takes their names before it serves anything."""

    async def start(self, offering: Offering) -> None:
        """Offer the tools that there are, and from now on what changes.

        Raises:
            OtherTool: another worker serves another tool by one of the names.
            TransportError: the bus does not answer.
        """

    async def stop(self) -> None:
        """Change nothing any more. Calls that run still have what they need."""
