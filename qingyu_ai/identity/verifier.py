"""Verifies users' tokens. A token that was seen a moment ago costs a hash and a look into a table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Generic, TypeVar

import jwt
import structlog

from qingyu_ai.settings import Tokens

from .claims import Claims, Refused, read
from .jwks import Server
from .keys import File, Key, Keys, Secret, Source

log = structlog.get_logger(__name__)

LONGEST_TOKEN = 8 * 1024
"""Characters."""

SEEN_SECONDS = 60.0
"""For which a token that is good need not be verified again."""

MOST_SEEN = 10_000
"""Tokens that are remembered: a few hundred bytes each."""

MOST_WAITING = 64
"""Calls that wait at once for a look at the server of keys. Anybody can make tokens whose key nobody knows."""

TYPES = frozenset(("", "jwt", "at+jwt", "application/at+jwt"))
"""What `typ` may say (RFC 9068 has the second): tokens for other things are signed by the same people."""

SCHEME = "bearer"

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

BROKEN = (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""What a token that somebody made for the purpose can bring out of the libraries that read it."""


class CannotTell(Exception):
    """There are no keys now, so nobody knows whether a token is good."""


Who = TypeVar("Who")


class Verifier(Generic[Who]):
    """Says whose a token is.

    Args:
        settings: which tokens are good.
        keys: that they are verified with.
        who: what claims mean to whoever asks. It is remembered with the token.
        clock: seconds that only grow.
        wall: unix seconds.
    """

    def __init__(
        self,
        settings: Tokens,
        keys: Keys,
        who: Callable[[Claims], Who],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._who = who
        self._clock = clock
        self._wall = wall
        self._seen: dict[bytes, tuple[float, Who]] = {}
        """By the token's hash: until when, on `clock`, it need not be verified again."""
        self._waiting = 0
        keys.on_change = self._seen.clear
        audience = settings.token_audience
        self._demands: dict[str, Any] = {
            "audience": audience or None,
            "issuer": settings.token_issuer or None,
            "leeway": settings.token_leeway_seconds,
            # The user's id is checked here, whatever its claim is called.
            "options": {"require": ["exp"], "verify_aud": bool(audience), "verify_sub": False, "verify_jti": False},
        }

    def __repr__(self) -> str:
        return f"<Verifier {self._keys!r}, {len(self._seen)} tokens seen>"

    @property
    def ready(self) -> bool:
        """Whether there are keys."""
        return self._keys.there

    async def start(self) -> None:
        """Get the keys.

        Raises:
            BadKeys: there are none, and there will be none.
        """
        await self._keys.start()

    async def stop(self) -> None:
        """Look for keys no more."""
        await self._keys.stop()

    def seen(self, token: str) -> Who | None:
        """Whose a token is that was verified a moment ago; None: it was not."""
        found = self._seen.get(_hash_of(token))
        return found[1] if found is not None and found[0] > self._clock() else None

    async def verify(self, token: str) -> Who:
        """Say whose a token is.

        Raises:
            Refused: it is not good.
            CannotTell: there are no keys.
        """
        known = self.seen(token)
        if known is not None:
            return known
        algorithm, kid = _head(token)
        candidates = self._keys.candidates(algorithm, kid)
        if not candidates and self._keys.may_look() and self._waiting < MOST_WAITING:
            self._waiting += 1
            try:
                await self._keys.look()
            finally:
                self._waiting -= 1
            candidates = self._keys.candidates(algorithm, kid)
        if not self._keys.there:
            raise CannotTell
        claims = self._verified(token, candidates)
        who = self._who(claims)
        self._remember(token, claims.expires, who)
        return who

    def _verified(self, token: str, candidates: list[Key]) -> Claims:
        for key in candidates:
            try:
                payload = jwt.decode(token, key.key, algorithms=[key.algorithm], **self._demands)
            except jwt.InvalidSignatureError:
                continue  # it may be of the next one
            except BROKEN:
                raise Refused from None
            try:
                return read(payload, self._settings)
            except BROKEN:
                raise Refused from None
        raise Refused

    def _remember(self, token: str, expires: float, who: Who) -> None:
        left = expires + self._settings.token_leeway_seconds - self._wall()
        if len(self._seen) >= MOST_SEEN:
            del self._seen[next(iter(self._seen))]  # the oldest
        key = _hash_of(token)
        self._seen.pop(key, None)
        self._seen[key] = self._clock() + min(SEEN_SECONDS, left), who


def _hash_of(token: str) -> bytes:
    """Name a token: 32 bytes of BLAKE2b, which takes a quarter of what SHA-256 does where neither is in the caches."""
    return blake2b(token.encode("utf-8", "replace"), digest_size=32).digest()


def _head(token: str) -> tuple[str, str]:
    """The algorithm that a token says, and the name of its key. Neither is believed.

    Raises:
        Refused: it has not the form of a token, or is one for something else.
    """
    if len(token) > LONGEST_TOKEN or not _FORM.fullmatch(token):
        raise Refused
    try:
        header = jwt.get_unverified_header(token)
        kind, algorithm, kid = header.get("typ", ""), header.get("alg"), header.get("kid", "")
    except BROKEN:
        raise Refused from None
    if not isinstance(algorithm, str) or not isinstance(kid, str) or not isinstance(kind, str):
        raise Refused
    if kind.lower() not in TYPES:
        raise Refused
    return algorithm, kid


def bearer(header: str) -> str:
    """The token of an `authorization` header; empty: it holds none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == SCHEME else ""


def verifier_of(settings: Tokens, who: Callable[[Claims], Who]) -> Verifier[Who] | None:
    """What the settings ask for; None: no key is set. It must be started."""
    source: Source
    if secret := settings.token_key.get_secret_value():
        source = Secret(secret)
    elif settings.token_key_file is not None:
        source = File(settings.token_key_file)
    elif settings.token_keys_url:
        source = Server(settings.token_keys_url, settings.token_keys_ca_file, settings.token_keys_seconds)
    else:
        return None
    return Verifier(settings, Keys(source), who)
