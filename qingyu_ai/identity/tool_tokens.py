"""Proof for tools that run for verified users only: a token of one call of one tool by one user, signed by who calls it.

Headers on the bus say the same, but everybody who may publish there could write them. Who signs has a private key, and the
tool workers have the public ones (docs/security.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from .claims import Refused
from .keys import BadKeys, File, Keys
from .verifier import BROKEN, LONGEST_TOKEN

SECONDS = 60
"""For which a token is good."""

LEEWAY_SECONDS = 5.0
"""By which clocks may differ."""

ALGORITHM = "EdDSA"
TYPE = "qingyu-tool+jwt"
"""So that no token of another kind can be taken for one of these, nor one of these for another."""

ISSUER = "qingyu-ai"


Sign = Callable[[str, str, str], str]
"""(call id, user, tool) to a token."""


class Signer:
    """Signs calls of tools.

    Args:
        key: of this process.
        wall: unix seconds.
    """

    def __init__(self, key: Ed25519PrivateKey, wall: Callable[[], float] = time.time) -> None:
        self._key = key
        self._wall = wall

    @classmethod
    def of(cls, path: Path) -> Signer:
        """Read the key of a file.

        Raises:
            BadKeys: it holds none.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), None)
        except (OSError, ValueError, TypeError) as e:
            raise BadKeys(f"{path} holds no private key in PEM that can be read: {type(e).__name__}") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKeys(f"{path} holds a key that is not for Ed25519")
        return cls(key)

    def sign(self, call: str, user: str, tool: str) -> str:
        """Say that this call of this tool is this user's."""
        now = int(self._wall())
        payload = {"iss": ISSUER, "aud": tool, "sub": user, "jti": call, "iat": now, "exp": now + SECONDS}
        return jwt.encode(payload, self._key, ALGORITHM, headers={"typ": TYPE})


class ToolVerifier:
    """Verifies them.

    Args:
        keys: the public keys of all who may sign.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    @classmethod
    def of(cls, path: Path) -> ToolVerifier:
        """With the keys of a file, which is looked at again and again."""
        return cls(Keys(File(path)))

    async def start(self) -> None:
        """Get the keys.

        Raises:
            BadKeys: there are none.
        """
        await self._keys.start()

    async def stop(self) -> None:
        """Look for keys no more."""
        await self._keys.stop()

    def check(self, token: str, *, call: str, user: str, tool: str) -> None:
        """See that a token is for this call.

        Raises:
            Refused: it is not.
        """
        if len(token) > LONGEST_TOKEN:
            raise Refused
        try:
            if jwt.get_unverified_header(token).get("typ") != TYPE:
                raise Refused
        except BROKEN:
            raise Refused from None
        for key in self._keys.candidates(ALGORITHM, ""):
            try:
                payload = _read(token, key.key, tool)
            except jwt.InvalidSignatureError:
                continue
            except BROKEN:
                raise Refused from None
            if payload["sub"] == user and payload["jti"] == call and payload["exp"] - payload["iat"] <= SECONDS:
                return
            raise Refused
        raise Refused


def _read(token: str, key: Any, tool: str) -> dict[str, Any]:
    return jwt.decode(
        token,
        key,
        algorithms=[ALGORITHM],
        audience=tool,
        issuer=ISSUER,
        leeway=LEEWAY_SECONDS,
        options={"require": ["exp", "iat", "sub", "aud", "jti", "iss"], "strict_aud": True},
    )
