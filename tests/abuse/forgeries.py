"""Tokens that open nothing: by name, the metadata of a call."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt

from tests.tokens import bearer, claims, jwk, private_key, public_pem, token

KID = "current"
"""The name of the key that the system knows."""

Metadata = tuple[tuple[str, str], ...]


def good(user: str, **own: Any) -> str:
    """A token that the system lets in."""
    return token(private_key("RS256"), "RS256", {"kid": KID}, **{"sub": user, **own})


def _part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _made(head: dict[str, Any], payload: Any, secret: bytes = b"") -> str:
    """A token with any head, signed with any secret as HS256 does; PyJWT would not sign some of them."""
    signed = f"{_part(head)}.{_part(payload)}"
    return f"{signed}.{_part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def forged(user: str) -> dict[str, Metadata]:
    """A name and the metadata of each forgery, all for this user."""
    ours, theirs = private_key("RS256"), private_key("RS256", 666)
    now, held = int(time.time()), claims(sub=user)
    real = good(user)
    head, _, signature = real.split(".")
    evil = jwk(theirs, "RS256", KID)

    def of_theirs(**more: Any) -> str:
        return token(theirs, "RS256", {"kid": KID, **more}, sub=user)

    written = {
        "alg none": f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(held)}.AA",
        "alg None, without a signature": f"{_part({'alg': 'None'})}.{_part(held)}.",
        "HS256 with our public key as secret": _made(
            {"alg": "HS256", "typ": "JWT", "kid": KID}, held, public_pem(ours).encode()
        ),
        "HS256 with an empty secret": _made({"alg": "HS256", "kid": KID}, held),
        "signed by another key": of_theirs(),
        "another payload under our signature": f"{head}.{_part({**held, 'roles': ['backend']})}.{signature}",
        "expired": good(user, exp=now - 3600),
        "not valid yet": good(user, nbf=now + 3600),
        "another issuer": good(user, iss="https://evil.example"),
        "another audience": good(user, aud="other-service"),
        "without an end": good(user, exp=None),
        "without a user": good(user, sub=None),
        "kid is a path": token(theirs, "RS256", {"kid": "../../../../dev/null"}, sub=user),
        "kid injects": token(theirs, "RS256", {"kid": "x' UNION SELECT 'key"}, sub=user),
        "kid is no text": _made({"alg": "RS256", "kid": ["current"]}, held),
        "jku points at the attacker": of_theirs(jku="http://127.0.0.1:1/jwks.json"),
        "x5u points at the attacker": of_theirs(x5u="http://127.0.0.1:1/cert.pem"),
        "jwk brings its own key": of_theirs(jwk=evil),
        "x5c brings its own certificate": of_theirs(x5c=["AAAA"]),
        "another type of token": token(ours, "RS256", {"kid": KID, "typ": "qingyu-tool+jwt"}, sub=user),
        "a longer algorithm of our key": jwt.encode(held, ours, "RS512", headers={"kid": KID}),
        "cut off": real[: len(real) * 2 // 3],
        "the last character changed": real[:-3] + ("AAA" if not real.endswith("AAA") else "BBB"),
        "huge": token(ours, "RS256", {"kid": KID}, sub=user, pad="x" * 8200),
        "deeply nested": _made({"alg": "RS256", "kid": KID}, ("[" * 3000).encode()),
        "empty": "",
        "no token at all": "null",
    }
    found = {name: bearer(one) for name, one in written.items()}
    found["two tokens"] = (*bearer(real), *bearer(of_theirs()))
    found["the same token twice"] = (*bearer(real), *bearer(real))
    found["another scheme"] = (("authorization", f"Basic {real}"),)
    found["under another name"] = (("x-authorization", f"Bearer {real}"), ("x-user-id", user))
    found["nothing"] = ()
    return found
