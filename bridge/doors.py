"""Who may come in at the edge, and as whom. What a token says is read here; the token itself goes no further."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import structlog

from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.identity.claims import Claims, Refused
from qingyu_ai.identity.keys import BadKeys
from qingyu_ai.identity.signing import signing
from qingyu_ai.identity.tool_tokens import Sign
from qingyu_ai.identity.verifier import CannotTell, Verifier, bearer, verifier_of
from qingyu_ai.settings import Bridge, SettingsError, env_name

log = structlog.get_logger(__name__)

AUTHORIZATION_KEY = "authorization"
"""Metadata of a call: `Bearer`, a blank, and the caller's token."""

BEARER = "Bearer "
"""As nearly everybody writes it."""


class NoToken(Fault):
    """Nobody who may come in. It says the same for every reason: another word would help only who forges tokens."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAUTHENTICATED,
            "UNAUTHENTICATED",
            "A valid token is needed in the metadata `authorization: Bearer …`; sign in again",
            "需要在元数据 authorization: Bearer … 中提供有效的令牌，请重新登录",
        )


class NoKeys(Fault):
    """This bridge has no keys to verify tokens with: they come from a server that has not answered yet."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "NO_KEYS",
            "Tokens cannot be verified at this moment; try again in a moment",
            "暂时无法验证令牌，请稍后重试",
            retry_seconds=1.0,
        )


class Visitor(NamedTuple):
    """Who calls."""

    user: str = ""
    """Whoever the request names is this one. Empty: the request says who it is."""
    projects: tuple[str, ...] | None = None
    """The only ones that the caller may use; None: all of the user's."""
    roles: tuple[str, ...] = ()
    verified: bool = False

    def may_be(self, user: str) -> bool:
        """Whether a request may name this user; an empty text names nobody."""
        return not user or not self.user or user == self.user

    def may_use(self, project: str) -> bool:
        """Whether a request may name this project; an empty text names none."""
        return not project or self.projects is None or project in self.projects


NOBODY = Visitor()
"""Whoever calls while authentication is off: believed, and not verified."""


class Doors:
    """The doors of a bridge process.

    Args:
        verifier: of tokens; None: authentication is off.
        sign: proves to tools whose a call is; None: there is no key.
    """

    def __init__(self, verifier: Verifier[Visitor] | None, sign: Sign | None = None) -> None:
        self._verifier = verifier
        self._sign = sign

    @classmethod
    async def open(cls, settings: Bridge) -> Doors:
        """Read the keys.

        Raises:
            SettingsError: they cannot be used.
        """
        sign = signing(settings.signing_key_file, ("bridge", "signing_key_file"))
        verifier = (
            verifier_of(settings, partial(_visitor, frozenset(settings.trusted_roles)))
            if settings.authentication == "required"
            else None
        )
        try:
            if verifier is not None:
                await verifier.start()
        except BadKeys as e:
            raise SettingsError(f"{env_name(('bridge', 'token_key_file'))}: {e}") from None
        if verifier is None and settings.anyone_may_call:
            log.warning("anyone_may_call_as_anybody", host=settings.host, set="QINGYU_BRIDGE__AUTHENTICATION")
        return cls(verifier, sign)

    @property
    def closed(self) -> bool:
        """Whether a token is needed."""
        return self._verifier is not None

    def unready(self) -> str:
        """Why nobody can be let in; empty: who may can."""
        return "" if self._verifier is None or self._verifier.ready else "no keys to verify tokens with yet"

    async def visitor(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Visitor:
        """Say who calls.

        Raises:
            NoToken: nobody who may come in.
            NoKeys: that cannot be said now.
        """
        if self._verifier is None:
            return NOBODY
        token = _token(metadata)
        try:
            return self._verifier.seen(token) or await self._verifier.verify(token)
        except Refused:
            raise NoToken from None
        except CannotTell:
            raise NoKeys from None

    def proved(self, envelope: Envelope, tool: str) -> Envelope:
        """Add to the envelope of a tool's call the proof of whose it is, if there is a verified user and a key."""
        if self._sign is None or not envelope.verified:
            return envelope
        return envelope._replace(proof=self._sign(envelope.call, envelope.user, tool))

    async def close(self) -> None:
        """Look for keys no more."""
        if self._verifier is not None:
            await self._verifier.stop()


def _visitor(trusted: frozenset[str], claims: Claims) -> Visitor:
    user = claims.user if trusted.isdisjoint(claims.roles) else ""
    return Visitor(user, claims.projects, claims.roles, verified=True)


def _token(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    given: str | bytes | None = None
    for key, value in metadata or ():
        if key == AUTHORIZATION_KEY:
            if given is not None:
                raise NoToken  # others may have read the other one
            given = value
    if not isinstance(given, str):
        raise NoToken
    token = given[len(BEARER) :] if given.startswith(BEARER) else bearer(given)
    if not token:
        raise NoToken
    return token
