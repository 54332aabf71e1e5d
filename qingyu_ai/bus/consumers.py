"""Consumers of a stream for readers that stand outside of the protocol: pulled, and acknowledged message by message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .stream_api import StreamApi
from .transport_errors import StoreRefused

NO_CONSUMER, NO_STREAM = 10014, 10059
"""Error codes of the management API."""

ANSWER_SECONDS = 5.0

FORGOTTEN_SECONDS = 60.0
"""After which the server forgets a consumer without a name of its own that nobody asks."""

LATEST = datetime(2200, 1, 1, tzinfo=UTC)
"""The server counts nanoseconds in 64 bits, which end in 2262: a later time would be one long ago."""

UNACKNOWLEDGED = 8192
"""Messages that all readers of one consumer may hold together."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a new consumer begins. Of one that is there already its own place counts."""

    policy: str
    """As JetStream names it."""
    sequence: int = 0
    at: datetime | None = None

    def config(self) -> dict[str, Any]:
        """As JetStream takes it."""
        config: dict[str, Any] = {"deliver_policy": self.policy}
        if self.sequence:
            config["opt_start_seq"] = self.sequence
        if self.at is not None:
            config["opt_start_time"] = self.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return config


NEW = Start("new")
ALL = Start("all")


def from_sequence(sequence: int) -> Start:
    """Begin with this message, or the first one after it."""
    return Start("by_start_sequence", sequence=max(1, sequence))


def from_time(at: datetime) -> Start:
    """Begin with the first message that was stored at this time or later."""
    return Start("by_start_time", at=min(at.astimezone(UTC), LATEST))


class Consumers:
    """Those of one stream.

    Args:
        api: of a connection.
        ack_wait_seconds: after which a message that was not acknowledged comes again.
    """

    def __init__(self, api: StreamApi, stream: str, ack_wait_seconds: float) -> None:
        self._api = api
        self._stream = stream
        self._ack_wait_seconds = ack_wait_seconds

    async def make(self, name: str, subjects: Sequence[str], start: Start, *, durable: bool) -> dict[str, Any]:
        """Make a consumer, or have one that is there follow these subjects from now on.

        Returns:
            What the server says of it, as `find` does.

        Raises:
            StoreRefused: the stream is not there (`NO_STREAM`), or the server makes no such consumer.
            ReplyTimeout, Disconnected: the server does not answer.
        """
        found = await self.find(name) if durable else None
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "explicit",
            "ack_wait": int(self._ack_wait_seconds * 1e9),
            "max_ack_pending": UNACKNOWLEDGED,
            "filter_subjects": list(subjects),
            **start.config(),
        }
        if durable:
            config["durable_name"] = name
        else:
            config |= {"inactive_threshold": int(FORGOTTEN_SECONDS * 1e9), "mem_storage": True, "num_replicas": 1}
        if found is not None:
            # Where it began cannot be changed, and must be said as it was.
            was = found["config"]
            for field in ("deliver_policy", "opt_start_seq", "opt_start_time"):
                config.pop(field, None)
                if field in was:
                    config[field] = was[field]
        wanted = json.dumps({"stream_name": self._stream, "config": config}).encode()
        return await self._api.api(f"CONSUMER.CREATE.{self._stream}.{name}", wanted, ANSWER_SECONDS)

    async def find(self, name: str) -> dict[str, Any] | None:
        """What the server says of a consumer; None: it is not there."""
        try:
            return await self._api.api(f"CONSUMER.INFO.{self._stream}.{name}", b"", ANSWER_SECONDS)
        except StoreRefused as e:
            if e.code == NO_CONSUMER:
                return None
            raise

    async def drop(self, name: str) -> None:
        """Have it forgotten, and its place with it. One that is not there is no error."""
        try:
            await self._api.api(f"CONSUMER.DELETE.{self._stream}.{name}", b"", ANSWER_SECONDS)
        except StoreRefused as e:
            if e.code != NO_CONSUMER:
                raise
