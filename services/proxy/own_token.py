"""The token of the proxy itself, for what it asks in no user's own name: health, and calls of trusted backends."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from qingyu_ai.settings import AiProxy

log = structlog.get_logger(__name__)

FILE_SECONDS = 10.0
"""Between two looks at the file: who writes it does so before the token in it expires."""


class OwnToken:
    """Gives the token that the settings say.

    Args:
        settings: `token` or `token_file`.
        clock: seconds that only grow.
    """

    def __init__(self, settings: AiProxy, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = settings.token_file
        self._token = settings.token.get_secret_value()
        self._clock = clock
        self._looked = float("-inf")

    def __call__(self) -> str:
        """The token as it is now; empty: there is none."""
        if self._path is not None and self._clock() - self._looked >= FILE_SECONDS:
            self._looked = self._clock()
            try:
                self._token = self._path.read_text().strip()
            except (OSError, UnicodeDecodeError) as e:
                log.warning("token_file_not_read", error=type(e).__name__, set="QINGYU_AI__PROXY__TOKEN_FILE")
        return self._token if self._token.isascii() and self._token.isprintable() else ""
