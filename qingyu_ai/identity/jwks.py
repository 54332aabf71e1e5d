"""Public keys that a server publishes (RFC 7517)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pycurl
import structlog

from .keys import MOST_KEYS, BadKeys, Key, algorithm_of

log = structlog.get_logger(__name__)

FETCH_SECONDS = 5.0
"""For one look, from the name's resolution to the last byte."""

LARGEST = 256 * 1024
"""Bytes of an answer."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Server:
    """A server of keys.

    Args:
        url: checked by the settings.
        ca_file: certificates to trust instead of the well-known ones.
        every: seconds between two looks.
    """

    knows_names = True

    def __init__(self, url: str, ca_file: Path | None, every: float) -> None:
        self._url = url
        self._ca_file = ca_file
        self.every = every

    async def load(self) -> Sequence[Key]:
        """See `keys.Source.load`."""
        return read_set(await asyncio.to_thread(self._fetch))

    def _fetch(self) -> bytes:
        body = bytearray()

        def take(part: bytes) -> int:
            body.extend(part)
            return len(part) if len(body) <= LARGEST else 0  # another number ends the transfer

        curl = pycurl.Curl()
        try:
            curl.setopt(pycurl.URL, self._url)
            curl.setopt(pycurl.NOSIGNAL, 1)
            curl.setopt(pycurl.TIMEOUT_MS, int(FETCH_SECONDS * 1000))
            curl.setopt(pycurl.FOLLOWLOCATION, 0)  # a server elsewhere was not asked for keys
            curl.setopt(pycurl.HTTPHEADER, ["Accept: application/jwk-set+json, application/json"])
            curl.setopt(pycurl.WRITEFUNCTION, take)
            if urlsplit(self._url).hostname in LOOPBACK:
                curl.setopt(pycurl.NOPROXY, "*")
            for option, place in self._authorities():
                curl.setopt(option, place)
            curl.perform()
            status = curl.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as e:
            raise BadKeys(f"{self._url} does not answer as it should (libcurl {e.args[0]})") from None
        finally:
            curl.close()
        if status != 200:
            raise BadKeys(f"{self._url} answers with HTTP {status}")
        return bytes(body)

    def _authorities(self) -> list[tuple[int, str]]:
        if self._ca_file is not None:
            return [(pycurl.CAINFO, str(self._ca_file))]
        found = ssl.get_default_verify_paths()  # libcurl from a wheel does not know where this system keeps them
        return [(opt, place) for opt, place in ((pycurl.CAINFO, found.cafile), (pycurl.CAPATH, found.capath)) if place]


def read_set(body: bytes) -> list[Key]:
    """Read a set of keys. Those that are not for signatures of ours are left out: there may be others beside them.

    Raises:
        BadKeys: it is no set of keys, or none of them is for us.
    """
    try:
        listed = json.loads(body)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        raise BadKeys("the answer is no set of keys: a JSON object with a list `keys`")
    keys = [key for one in listed[: 4 * MOST_KEYS] if isinstance(one, dict) and (key := _key(one)) is not None]
    if not keys:
        raise BadKeys("the answer has no key for RS256, ES256 or EdDSA")
    if len(keys) > MOST_KEYS:
        raise BadKeys(f"the answer has {len(keys)} keys; the limit is {MOST_KEYS}")
    return keys


def _key(one: dict[str, Any]) -> Key | None:
    kid = one.get("kid", "")
    # A published secret is none, and a key for encryption signs nothing.
    if one.get("kty") not in ("RSA", "EC", "OKP") or one.get("use", "sig") != "sig" or not isinstance(kid, str):
        return None
    if isinstance(one.get("key_ops", []), list) and "verify" not in one.get("key_ops", ["verify"]):
        return None
    # A set must not hold private parts; what else is in a key is nobody's business.
    public: dict[str, Any] = {name: one[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in one}
    try:
        key = jwt.PyJWK(public).key
        algorithm = algorithm_of(key)
    except (jwt.PyJWTError, BadKeys, ValueError, TypeError) as e:
        log.warning("key_left_out", kid=kid[:64], error=type(e).__name__)
        return None
    return Key(algorithm, key, kid) if one.get("alg", algorithm) == algorithm else None
