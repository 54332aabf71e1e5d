"""The section of the settings that is about the broker: where it is, and who we are there (docs/security-nats.md)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, SecretStr, model_validator

from .sections import PemFile, Port, Section, need_both

SHORTEST_PASSWORD = 20
_PASSWORD = re.compile(rf"[A-Za-z][A-Za-z0-9_-]{{{SHORTEST_PASSWORD - 1},}}")


def _password(value: object) -> object:
    """nats-server reads it from its environment as a value of its configuration: `12e45` would be a number, `a b` an error.

    Raises:
        ValueError: it is too short, or not of that form. The value is not repeated.
    """
    if isinstance(value, str) and value and not _PASSWORD.fullmatch(value):
        raise ValueError(
            f"a password of at least {SHORTEST_PASSWORD} letters, digits, - and _ that begins with a letter; "
            "`openssl rand -hex 24 | sed s/^/p/` makes one"
        )
    return value


Password = Annotated[SecretStr, BeforeValidator(_password)]


class NatsPasswords(Section):
    """Of the users on NATS, by role (docs/security-nats.md). A process needs its own; the server, and `up`, need all."""

    bridge: Password = SecretStr("")
    chat: Password = SecretStr("")
    agent: Password = SecretStr("")
    rag: Password = SecretStr("")
    tool: Password = SecretStr("")
    mcp: Password = SecretStr("")
    events: Password = SecretStr("")
    setup: Password = SecretStr("")
    operator: Password = SecretStr("")


class Nats(Section):
    """The broker: where it is, who we are there, and where `up` puts its own."""

    url: str = ""
    """Servers to use, comma separated; empty: `up` starts one from the wheel. `NATS_URL` sets it too."""
    host: str = "127.0.0.1"
    port: Port = 4222
    monitor_port: Port = 8222
    route_port: Port = 6222
    """Between the servers that `cluster` starts; each server has the next port of all three."""
    user: str = ""
    """Empty: the process's role, such as `chat`, if there is a password for it."""
    password: SecretStr = SecretStr("")
    """Of `user`; empty: that of the role in `passwords`."""
    passwords: NatsPasswords = NatsPasswords()
    previous_passwords: NatsPasswords = NatsPasswords()
    """While passwords are changed: what a server may still have. A process tries both (docs/security-nats.md)."""
    permissions: bool = False
    """Whether the server that `up` starts lets in only these users, each with its permissions. Passwords that are not set
    are made for the time that it runs."""
    ca_file: PemFile = None
    """Certificates, PEM, one of which must have signed the server's. None: the well-known ones."""
    cert_file: PemFile = None
    """Our certificate, PEM, for a server that asks for one; with `key_file`."""
    key_file: PemFile = None

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Nats:
        need_both(self.cert_file, self.key_file)
        if self.user and not self.password.get_secret_value():
            raise ValueError("user is set, and password, which is for it, is not")
        return self

    @property
    def servers(self) -> list[str]:
        """The addresses to connect to."""
        return [s.strip() for s in (self.url or f"nats://{self.host}:{self.port}").split(",") if s.strip()]
