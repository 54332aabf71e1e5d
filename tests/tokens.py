"""Keys and tokens for tests, made on the fly, and a server that publishes keys."""

from __future__ import annotations

import functools
import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "s" * 40

ISSUER, AUDIENCE = "https://login.example.com", "qingyu"


@functools.cache
def private_key(algorithm: str, number: int = 0) -> Any:
    """The test process's key of this algorithm and number; HS256 has a secret."""
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    return f"{SECRET}{number or ''}"


def public_pem(key: Any) -> str:
    """The public half of a private key."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(encoding, form).decode())


def private_pem(key: Any) -> str:
    """A private key."""
    form = serialization.PrivateFormat.PKCS8
    written = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return str(written.decode())


def jwk(key: Any, algorithm: str, kid: str, **more: Any) -> dict[str, Any]:
    """The public half of a private key, as servers publish it."""
    written = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key())
    return {**json.loads(written), "kid": kid, "alg": algorithm, "use": "sig", **more}


def claims(**own: Any) -> dict[str, Any]:
    """Of a good token for u1; None leaves a claim out."""
    now = int(time.time())
    held = {"sub": "u1", "iat": now, "exp": now + 600, "iss": ISSUER, "aud": AUDIENCE, **own}
    return {name: value for name, value in held.items() if value is not None}


def token(key: Any = None, algorithm: str = "HS256", head: Mapping[str, Any] | None = None, **own: Any) -> str:
    """A token, good unless something is said otherwise."""
    return jwt.encode(claims(**own), key or private_key(algorithm), algorithm, headers=dict(head or {}))


def bearer(written: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {written}"),)


class KeyServer:
    """Publishes keys on a port of its own, until it is closed.

    Args:
        keys: what it publishes; a test may change `body` and `status`.
        certificate: with it, it speaks TLS.
    """

    def __init__(self, keys: Sequence[Mapping[str, Any]] = (), certificate: Path | None = None) -> None:
        self.publish(*keys)
        self.status = 200
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.hold.wait(20)
                try:
                    self.send_response(outer.status)
                    if outer.status in (301, 302):
                        self.send_header("Location", outer.url)
                    self.send_header("Content-Length", str(len(outer.body)))
                    self.end_headers()
                    self.wfile.write(outer.body)
                except OSError:
                    return  # whoever asked has gone

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def publish(self, *keys: Mapping[str, Any]) -> None:
        """Publish these from now on."""
        self.body = json.dumps({"keys": keys}).encode()

    def close(self) -> None:
        """End it."""
        self.hold.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> KeyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
