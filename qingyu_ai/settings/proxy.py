"""The sections of the AI Proxy (docs/proxy.md): `ai.proxy` is for whoever calls the bridge, `proxy` for the HTTP face."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, model_validator

from .sections import KIB, MIB, PemFile, Port, Seconds, Section, need_both
from .tokens import LOOPBACK, SHORTEST_KEY, Tokens

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ORIGIN = re.compile(r"https?://[^\s/@?#*]+")


def _seconds(value: object) -> object:
    """Read a time as Go writes it: `60s`, `1m30s`, `500ms`. A number is seconds.

    Raises:
        ValueError: it is no such time.
    """
    if not isinstance(value, str):
        return value
    parts = _PART.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no time; write it like 60s, 1m30s or 500ms") from None


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError(f"{value!r} is no origin; write it like https://www.example.com, without a path or *")
    return value.lower()


Duration = Annotated[Seconds, BeforeValidator(_seconds)]
Origin = Annotated[str, AfterValidator(_origin)]


class AiProxy(Section):
    """How the bridge is called: what `AIProxyService` reads. The names are those of the caller's side everywhere."""

    python_addr: Annotated[str, Field(min_length=1, pattern=r"^\S+$")] = "localhost:50051"
    """The bridge: `host:port`, or a target of gRPC's that names several, such as `dns:///bridge:50051`."""
    timeout: Duration = 60.0
    """For an attempt whose request says nothing else."""
    max_retries: Annotated[int, Field(ge=1, le=20)] = 3
    """Attempts in all."""
    rate_limit: Annotated[int, Field(ge=1)] = 100
    """Calls a second."""
    circuit_max_fails: Annotated[int, Field(ge=1)] = 5
    """Failures in a row that open the breaker."""
    circuit_reset_time: Duration = 30.0
    """Until one call may try whether the bridge is well again."""
    enable_metrics: bool = True
    token: SecretStr = SecretStr("")
    """Of this caller itself, for what it asks in no user's own name: one that the bridge takes for a trusted service's."""
    token_file: FilePath | None = None
    """Instead: a file with it, read again when it changes."""
    ca_file: PemFile = None
    """Certificates, PEM, one of which must have signed the bridge's. None: no TLS."""
    cert_file: PemFile = None
    """Our certificate, PEM, for a bridge that asks for one; with `key_file`."""
    key_file: PemFile = None

    @model_validator(mode="after")
    def _one_token(self) -> AiProxy:
        if self.token.get_secret_value() and self.token_file is not None:
            raise ValueError("set token or token_file, one of both")
        need_both(self.cert_file, self.key_file)
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("cert_file is set, and ca_file, without which there is no TLS, is not")
        return self


class Ai(Section):
    """What is about AI on the caller's side."""

    proxy: AiProxy = AiProxy()


class Proxy(Tokens):
    """The HTTP face of the AI Proxy, for browsers and other backends.

    `authentication` off: whoever calls is believed, on loopback only; required: a verified token, or a trusted backend's key.
    """

    processes: Annotated[int, Field(ge=0, le=64)] = 0
    host: str = "127.0.0.1"
    port: Port = 8080
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 9964
    drain_seconds: Seconds = 30.0
    backend_key: SecretStr = SecretStr("")
    """A backend that shows it may say in X-User-Id for whom it calls; empty: none may."""
    allowed_origins: tuple[Origin, ...] = ()
    """Origins of pages that may call, beside the proxy's own: https://www.example.com"""
    ticket_key: SecretStr = SecretStr("")
    """Seals tickets; every proxy of a deployment has the same. Empty: one of its own, and its tickets hold nowhere else."""
    ticket_seconds: Duration = 30.0
    reconnect_seconds: Duration = 900.0
    """For how long a browser that came with a ticket may come back to its stream."""
    max_body_bytes: Annotated[int, Field(ge=KIB, le=64 * MIB)] = 4 * MIB - 64 * KIB
    max_batch_bytes: Annotated[int, Field(ge=KIB)] = 32 * MIB
    """Of a batch of documents; each of them is bounded by `max_body_bytes`."""
    max_batches: Annotated[int, Field(ge=1)] = 4
    """Batches that one process takes in at once; one more is refused."""
    max_message_bytes: Annotated[int, Field(ge=KIB)] = 4 * MIB - 64 * KIB
    """Of one WebSocket message of a client."""
    max_connections: Annotated[int, Field(ge=1)] = 4000
    """Requests and sockets open at once in one process; one more is refused."""
    head_seconds: Duration = 10.0
    """In which a client must have sent the head of its request."""
    body_seconds: Duration = 30.0
    """In which a client must have sent the body of its request, or the first message of its WebSocket."""
    heed_traceparent: bool = True
    """Whether a call goes on in the trace that its caller names in `traceparent`, and is sampled if that says so."""
    silence_seconds: Duration = 15.0
    """After which a stream that says nothing sends a comment, so that nobody between takes it for dead."""

    @model_validator(mode="after")
    def _doors_hold(self) -> Proxy:
        for name in ("backend_key", "ticket_key"):
            secret = getattr(self, name).get_secret_value()
            if secret and len(secret) < SHORTEST_KEY:
                raise ValueError(f"{name} has {len(secret)} characters; it must have at least {SHORTEST_KEY}")
        if self.authentication == "required" and not (
            self.backend_key.get_secret_value() or any(self.key_names.values())
        ):
            raise ValueError(
                f"authentication is required, and none of {', '.join(self.key_names)} and backend_key is set"
            )
        if self.authentication == "off" and self.host not in LOOPBACK:
            raise ValueError(f"authentication is off, so host must be an address of this machine only, not {self.host}")
        return self
