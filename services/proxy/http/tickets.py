"""Tickets for browsers, which cannot set headers on an EventSource or a WebSocket.

A ticket is sealed (Fernet: AES-CBC with HMAC, of the library `cryptography`), so a proxy opens what another one gave out, if both
have the same key. It opens one path, once, within half a minute. A browser that came with one may come back to its stream with a
cookie, because an EventSource asks for the same address again when its connection is lost.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable

from cryptography.fernet import Fernet, InvalidToken

from services.proxy.errors import PERMISSION_DENIED, UNAUTHENTICATED, AIProxyError
from services.proxy.who import Who

TICKET, COOKIE = "ticket", "cookie"
"""What a seal is for; one does not do for the other."""

LONGEST = 16 * 1024
"""Characters of a ticket: it carries a token."""


class Tickets:
    """Gives out tickets, and opens them.

    Args:
        key: of all proxies of a deployment; empty: one of this process's own.
        clock: unix seconds.
    """

    def __init__(self, key: str, clock: Callable[[], float] = time.time) -> None:
        digest = hashlib.sha256((key or secrets.token_hex(32)).encode()).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(digest))
        self._clock = clock
        self._spent: dict[bytes, float] = {}
        """By digest: when it would have expired."""

    def seal(self, who: Who, path: str, seconds: float, purpose: str = TICKET) -> str:
        """Give out a ticket to a path."""
        held = {
            "purpose": purpose,
            "path": path,
            "until": self._clock() + seconds,
            "user": who.user_id,
            "project": who.project_id,
            "token": who.token,
        }
        return self._fernet.encrypt(json.dumps(held).encode()).decode()

    def open(self, ticket: str, path: str, purpose: str = TICKET) -> Who:
        """Let its holder in. A ticket is spent by that; a cookie is not.

        Raises:
            AIProxyError: it is none of ours, for another path, too old, or spent.
        """
        try:
            held = json.loads(self._fernet.decrypt(ticket.encode())) if len(ticket) <= LONGEST else {}
        except (InvalidToken, ValueError):
            held = {}
        if held.get("purpose") != purpose:
            raise AIProxyError(UNAUTHENTICATED, "票据无效，请重新获取", "This is no valid ticket; get another one")
        now = self._clock()
        if held["until"] <= now:
            raise AIProxyError(UNAUTHENTICATED, "票据已过期，请重新获取", "This ticket has expired; get another one")
        if held["path"] != path:
            raise AIProxyError(PERMISSION_DENIED, "票据不适用于该地址", "This ticket is for another path")
        if purpose == TICKET:
            self._spend(ticket, held["until"], now)
        return Who(held["user"], held["project"], held["token"])

    def _spend(self, ticket: str, until: float, now: float) -> None:
        # The oldest only, or each ticket would cost as much as there were within half a minute.
        while self._spent and next(iter(self._spent.values())) <= now:
            del self._spent[next(iter(self._spent))]
        digest = hashlib.blake2b(ticket.encode(), digest_size=16).digest()
        if digest in self._spent:
            english = "This ticket has been used; get another one"
            raise AIProxyError(UNAUTHENTICATED, "票据已被使用，请重新获取", english)
        self._spent[digest] = until
