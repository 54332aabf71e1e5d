"""A circuit breaker for one server: purgatory's states, and a gate that lets one probe through where it would let all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from purgatory.domain.model import HALF_OPENED, Context, OpenedState

from .faults import Upstream, UpstreamFault


class Breaker:
    """Opens after failures in a row, and asks again with one request after a rest.

    Args:
        name: of the server, for logs.
        failures: in a row, until it opens.
        rest_seconds: until it lets a probe through.
    """

    def __init__(self, name: str, failures: int, rest_seconds: float) -> None:
        self._name = name
        self._context = Context(name, failures, rest_seconds)
        self._probing = False

    def __repr__(self) -> str:
        return f"<Breaker {self._name} {self.state}>"

    @property
    def state(self) -> str:
        """`closed`, `opened` or `half-opened`."""
        return str(self._context.state)

    @contextmanager
    def attempt(self, model: str) -> Iterator[None]:
        """Hold one request, up to its first token: a fault that `trips` counts. A first token ends a rest, and no more than
        that: a server that cuts each of its answers is not well. `finished` counts what came whole.

        Args:
            model: the alias that is asked, for the error's text.

        Raises:
            UpstreamFault: RESTING, without an attempt.
        """
        try:
            self._context.handle_new_request()
        except OpenedState as e:
            rest = max(0.1, e.opened_at + self._context.ttl - time.time())
            raise UpstreamFault(Upstream.RESTING, model, retry_seconds=rest) from None
        probe = self.state == HALF_OPENED
        if probe and self._probing:
            raise UpstreamFault(Upstream.RESTING, model, retry_seconds=1.0)
        self._probing = self._probing or probe
        try:
            yield
        except UpstreamFault as e:
            if e.kind.value.trips:
                self._context.handle_exception(e)
            elif probe:
                self._context.handle_end_request()  # it answered, if only to refuse
            raise
        else:
            if probe:
                self._context.handle_end_request()
        finally:
            self._probing = self._probing and not probe
            self._context.messages.clear()  # for a repository, which there is none of

    def finished(self) -> None:
        """Count an answer that came whole."""
        self._context.handle_end_request()
        self._context.messages.clear()

    def failed(self, fault: UpstreamFault) -> None:
        """Count a failure after the first token."""
        if fault.kind.value.trips:
            self._context.handle_exception(fault)
            self._context.messages.clear()
