"""What the broker did not do. Never shown to a caller as it is: `errors.fault_of` translates."""

from __future__ import annotations


class TransportError(Exception):
    """The broker did not do what was asked. Never shown to a caller as it is."""


class Disconnected(TransportError):
    """There is no connection now; nothing was sent."""


class NoResponders(TransportError):
    """Nobody listens on the subject of a request."""


class ReplyTimeout(TransportError):
    """No reply came in time. The request may have been carried out."""


class Conflict(TransportError):
    """A compare-and-set found another revision than expected."""


class StoreRefused(TransportError):
    """The broker would not store a message: the stream is full, or not there."""

    def __init__(self, subject: str, code: int, description: str) -> None:
        super().__init__(f"{subject}: {description} ({code})")
        self.subject = subject
        self.code = code
        self.description = description

    @property
    def full(self) -> bool:
        """Whether the stream, or the broker's storage, has no room."""
        return self.code in (10077, 10047, 10023)


class Unfit(TransportError):
    """The broker cannot do what the settings want, however often it is asked. The message names the setting."""


class PayloadTooLarge(TransportError):
    """Headers and payload together are larger than the broker carries; nothing was sent."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes with headers, the limit is {limit}")
        self.size = size
        self.limit = limit
