"""Who a process is to NATS, and how it knows that it speaks with NATS: user, password, certificates.

Certificates are read anew for each connection, so a rotation needs no restart.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qingyu_ai.settings import Nats

from .certificates import Files, Rotating, client_context, unencrypted, without_word

SECTION = "QINGYU_NATS"
NO_FILES = Files(SECTION)
CUT = (ConnectionResetError, BrokenPipeError)


@dataclass(frozen=True)
class Login:
    """What one role shows to NATS.

    Args:
        role: the process's kind, as qingyu_ai/doors/roles.py names it.
        user, password: empty: those of the address, if it has any.
        encrypted: whether the connection must be.
    """

    role: str
    user: str = ""
    password: str = field(default="", repr=False)
    encrypted: bool = False
    files: Files = NO_FILES
    context: Rotating[ssl.SSLContext] | None = None

    @classmethod
    def of(cls, role: str, nats: Nats) -> Login:
        """The login of a process.

        Raises:
            SettingsError: the certificates do not hold.
        """
        password = nats.password.get_secret_value() or _of_role(role, nats)
        encrypted = any(server.startswith("tls://") for server in nats.servers)
        files = Files(SECTION, nats.ca_file, nats.cert_file, nats.key_file)
        context = Rotating(files, lambda pem: client_context(pem, files)) if encrypted else None
        return cls(role, (nats.user or role) if password else "", password, encrypted, files, context)

    @property
    def options(self) -> dict[str, Any]:
        """For nats-py."""
        return {"user": self.user, "password": self.password} if self.user else {}

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
        if "authorization violation" in text:
            own = f"{SECTION}__PASSWORDS__{self.role.upper()}"
            if not self.user:
                return f"it asks for a user: set {own} (docs/security-nats.md)"
            return f"it does not let {self.user!r} in: {SECTION}__PASSWORD or {own} is not what the server has for that user"
        if "offers no tls" in text:
            return f"{error}: begin {SECTION}__URL with nats://, or have the server speak TLS"
        return unencrypted(error, self.files)


def _of_role(role: str, nats: Nats) -> str:
    found = getattr(nats.passwords, role, None)
    return str(found.get_secret_value()) if found is not None else ""
