"""Who a process is to NATS, and how it knows that it speaks with NATS: user, password, certificates.

Certificates are read anew for each connection, so a rotation needs no restart.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qingyu_ai.settings import Nats, NatsPasswords

from .certificates import Files, Rotating, client_context, unencrypted, without_word

SECTION = "QINGYU_NATS"
NO_FILES = Files(SECTION)
CUT = (ConnectionResetError, BrokenPipeError)

REFUSED = "authorization violation"
"""What a server says, in lower case, to a user or a password that it does not have."""


class Passwords:
    """What a server may have for a user: one, and while it is being changed the one before. Servers change by turns."""

    def __init__(self, *values: str) -> None:
        self._values = tuple(filter(None, values))
        self._server = ""
        self._refusals: Counter[str] = Counter()
        """By server."""

    def __bool__(self) -> bool:
        return bool(self._values)

    def at(self, server: str) -> None:
        """Whom the next one is for."""
        self._server = server

    def current(self) -> str:
        """The one to show."""
        return self._values[self._refusals[self._server] % len(self._values)]

    def refused(self) -> None:
        """This server does not have it: the next attempt there shows the other one, if there is one."""
        self._refusals[self._server] += 1


@dataclass(frozen=True)
class Login:
    """What one role shows to NATS.

    Args:
        role: the process's kind, as qingyu_ai/doors/roles.py names it.
        user, passwords: empty: those of the address, if it has any.
        encrypted: whether the connection must be.
    """

    role: str
    user: str = ""
    passwords: Passwords = field(default_factory=Passwords, repr=False)
    encrypted: bool = False
    files: Files = NO_FILES
    context: Rotating[ssl.SSLContext] | None = None

    @classmethod
    def of(cls, role: str, nats: Nats) -> Login:
        """The login of a process.

        Raises:
            SettingsError: the certificates do not hold.
        """
        if own := nats.password.get_secret_value():
            passwords = Passwords(own)
        else:
            passwords = Passwords(_of_role(role, nats.passwords), _of_role(role, nats.previous_passwords))
        encrypted = any(server.startswith("tls://") for server in nats.servers)
        files = Files(SECTION, nats.ca_file, nats.cert_file, nats.key_file)
        context = Rotating(files, lambda pem: client_context(pem, files)) if encrypted else None
        return cls(role, (nats.user or role) if passwords else "", passwords, encrypted, files, context)

    @property
    def options(self) -> dict[str, Any]:
        """For nats-py, which asks for the password at each attempt."""
        return {"user": self.user, "password": self.passwords.current} if self.user else {}

    def explain(self, errors: Sequence[Exception]) -> str:
        """Say why NATS could not be reached, and which setting to look at if it is about one of these.

        Args:
            errors: of all attempts, one at least.
        """
        return self.explanation(errors) or str(errors[-1]) or type(errors[-1]).__name__

    def explanation(self, errors: Sequence[Exception]) -> str:
        """What the last error that is about users or certificates says of the settings; empty: none is."""
        explained = next(filter(None, map(self._explained, reversed(errors))), "")
        if not explained and self.encrypted and any(isinstance(e, CUT) for e in errors):
            # TLS 1.3 has the server see our certificate when we already write: its alert may be lost with the connection.
            return f"it ends the connection without a word once it is encrypted; most likely {without_word(self.files)}"
        return explained

    def _explained(self, error: Exception) -> str:
        text = str(error).lower()
        if REFUSED in text:
            own = f"{SECTION}__PASSWORDS__{self.role.upper()}"
            if not self.user:
                return f"it asks for a user: set {own} (docs/security-nats.md)"
            return f"it does not let {self.user!r} in: {SECTION}__PASSWORD or {own} is not what the server has for that user"
        if "offers no tls" in text:
            return f"{error}: begin {SECTION}__URL with nats://, or have the server speak TLS"
        return unencrypted(error, self.files)


def _of_role(role: str, passwords: NatsPasswords) -> str:
    found = getattr(passwords, role, None)
    return str(found.get_secret_value()) if found is not None else ""
