"""A nats-server with users and permissions, as `qingyu-ai nats-permissions` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import nats
import pytest
from nats.aio.client import Client

from tests.nats_guarded import GuardedNats


@dataclass
class Guarded:
    """A server without streams, and its users."""

    server: GuardedNats

    async def connect(self, user: str, errors: list[str]) -> Client:
        """Connect as a user; what the server complains about comes into `errors`, in order."""

        async def failed(error: Exception) -> None:
            errors.append(str(error))

        return await nats.connect(
            self.server.url,
            user=user,
            password=self.server.passwords[user],
            inbox_prefix=f"_INBOX.{user}",
            error_cb=failed,
            allow_reconnect=False,
        )


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """One for all tests of a module."""
    server = GuardedNats(streams=False)
    server.start()
    yield Guarded(server)
    server.close()
