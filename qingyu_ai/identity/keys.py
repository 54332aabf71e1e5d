"""Keys that verify, from a setting, a file or a server; the last two are looked at again and again.

A key says which algorithm it is for, never the token: a public key would else be taken for a shared secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

log = structlog.get_logger(__name__)

SMALLEST_RSA = 2048
"""Bits (RFC 7518, 3.3)."""

MOST_KEYS = 32
"""Of one source: a token without the name of its key is tried with all of its algorithm."""

FILE_SECONDS = 10.0
"""Between two looks at a file."""

FAILED_SECONDS = 15.0
"""After a look that failed, if the next one would be later."""

REFETCH_SECONDS = 10.0
"""Between two looks because of a token whose key is not known: anybody can make such tokens."""


class BadKeys(Exception):
    """A source has no keys that can be used. The message says why, for an operator."""


class Key(NamedTuple):
    """One key."""

    algorithm: str
    """The only one that it verifies."""
    key: Any
    """As PyJWT takes it."""
    kid: str = ""
    """Its name; empty: it has none, and any token may be meant for it."""


class Source(Protocol):
    """Where keys come from."""

    every: float
    """Seconds between two looks; 0: what it has never changes."""

    knows_names: bool
    """Whether a token with the name of another key is a reason to look again."""

    async def load(self) -> Sequence[Key]:
        """Read them.

        Raises:
            BadKeys: there are none.
        """
        ...


class Secret:
    """A shared secret."""

    every = 0.0
    knows_names = False

    def __init__(self, secret: str) -> None:
        self._secret = secret

    async def load(self) -> Sequence[Key]:
        """See `Source.load`."""
        return [Key("HS256", self._secret)]


class File:
    """A file of public keys or certificates, PEM."""

    every = FILE_SECONDS
    knows_names = False

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> Sequence[Key]:
        """See `Source.load`."""
        try:
            text = await asyncio.to_thread(self._path.read_text)
        except (OSError, UnicodeDecodeError) as e:
            raise BadKeys(f"{self._path} cannot be read: {type(e).__name__}") from None
        return read_pem(text, str(self._path))


def read_pem(text: str, name: str) -> list[Key]:
    """Read public keys and certificates.

    Raises:
        BadKeys: one of them cannot be used, or there are none, or too many.
    """
    blocks = [f"-----BEGIN{block}" for block in text.split("-----BEGIN")[1:]]
    if not blocks:
        raise BadKeys(f"{name} holds no key in PEM")
    if len(blocks) > MOST_KEYS:
        raise BadKeys(f"{name} holds {len(blocks)} keys; the limit is {MOST_KEYS}")
    keys = []
    for block in blocks:
        if "PRIVATE KEY" in block:
            raise BadKeys(f"{name} holds a private key, which does not belong there")
        try:
            if "CERTIFICATE" in block:
                public: Any = load_pem_x509_certificate(block.encode()).public_key()
            else:
                public = load_pem_public_key(block.encode())
        except Exception:  # of several libraries; what a broken key raises is not told by any of them
            raise BadKeys(f"{name} holds a key that cannot be read") from None
        keys.append(Key(algorithm_of(public), public))
    return keys


def algorithm_of(public: object) -> str:
    """The one algorithm that a key is used for.

    Raises:
        BadKeys: it is for none of ours, or too weak.
    """
    match public:
        case rsa.RSAPublicKey():
            if public.key_size < SMALLEST_RSA:
                raise BadKeys(f"an RSA key of {public.key_size} bits is too weak; it must have {SMALLEST_RSA}")
            return "RS256"
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, ec.SECP256R1):
            return "ES256"
        case ed25519.Ed25519PublicKey():
            return "EdDSA"
    raise BadKeys(f"a key of the kind {type(public).__name__} is for none of RS256, ES256 and EdDSA")


class Keys:
    """What a source has now.

    Args:
        source: where it comes from.
        clock: seconds, for the pace of looks.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._found: tuple[Key, ...] = ()
        self._looked = float("-inf")
        """When it was looked for a name."""
        self._looking: asyncio.Task[bool] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Told when a key came or went."""

    def __repr__(self) -> str:
        return f"<Keys {[(key.algorithm, key.kid) for key in self._found]}>"

    @property
    def there(self) -> bool:
        """Whether there are any."""
        return bool(self._found)

    async def start(self) -> None:
        """Look once, and from then on again and again.

        Raises:
            BadKeys: what cannot change by itself has none. A source that is only away is looked at again.
        """
        try:
            self._take(await self._source.load())
        except BadKeys as e:
            if not self._source.knows_names:
                raise
            log.warning("no_keys_yet", error=str(e))
        if self._source.every:
            self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Look no more."""
        for task in (self._keeping, self._looking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def candidates(self, algorithm: str, kid: str) -> list[Key]:
        """Keys that a token may have been signed for.

        Args:
            kid: the key's name as the token says; empty: it says none.
        """
        return [k for k in self._found if k.algorithm == algorithm and (not kid or k.kid in ("", kid))]

    def may_look(self) -> bool:
        """Whether a token with a name that is not known is a reason to look, now."""
        if not self._source.knows_names:
            return False
        return self._looking is not None or self._clock() - self._looked >= REFETCH_SECONDS

    async def look(self) -> None:
        """Look, together with everybody who wants it at this moment. What is there stays if that fails."""
        if self._looking is None:
            self._looked = self._clock()
            self._looking = asyncio.get_running_loop().create_task(self._reload())
            self._looking.add_done_callback(self._looked_at)
        await asyncio.shield(self._looking)

    def _looked_at(self, task: asyncio.Task[bool]) -> None:
        self._looking = None

    async def _reload(self) -> bool:
        try:
            self._take(await self._source.load())
        except BadKeys as e:
            log.warning("keys_not_read", error=str(e), kept=len(self._found))
            return False
        return True

    async def _keep(self) -> None:
        wait = self._source.every if self._found else min(FAILED_SECONDS, self._source.every)
        while True:
            await asyncio.sleep(wait)
            well = await self._reload()
            wait = self._source.every if well else min(FAILED_SECONDS, self._source.every)

    def _take(self, found: Sequence[Key]) -> None:
        new = tuple(found)
        if _facts(new) == _facts(self._found):
            return
        self._found = new
        log.info("keys_read", keys=[(key.algorithm, key.kid) for key in new])
        self.on_change()


def _facts(keys: Sequence[Key]) -> list[tuple[str, str, Any]]:
    """What two lists of keys are compared by: keys of cryptography compare by their values."""
    return [(key.algorithm, key.kid, key.key) for key in keys]
