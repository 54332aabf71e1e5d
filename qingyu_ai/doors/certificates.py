"""Certificates and keys in files: read, checked, and read again when somebody has put new ones there.

Every message names the setting, the file and what to do. What a key file holds is never part of one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from qingyu_ai.settings import SettingsError

log = structlog.get_logger(__name__)

T = TypeVar("T")

REFUSALS = ("certificate required", "bad certificate", "unknown ca", "certificate expired", "handshake failure")
"""TLS alerts about the certificate that we show, or do not show."""


@dataclass(frozen=True)
class Files:
    """The files of one end of a connection.

    Args:
        section: the beginning of their settings' names, such as `QINGYU_NATS`.
        ca_setting: the last part of the name of `ca`'s.
    """

    section: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    ca_setting: str = "CA_FILE"

    def __bool__(self) -> bool:
        return self.ca is not None or self.cert is not None

    def setting(self, name: str) -> str:
        """The full name of the setting of `ca`, `cert` or `key`."""
        return f"{self.section}__{self.ca_setting if name == 'ca' else f'{name.upper()}_FILE'}"

    def state(self) -> tuple[object, ...]:
        """What changes when one of the files is replaced, also where a link is what changes."""
        return tuple(_state(path) for path in (self.ca, self.cert, self.key) if path is not None)

    def read(self) -> Pem:
        """Read and check them.

        Raises:
            SettingsError: one of them cannot be read, is none, has expired, or key and certificate are no pair.
        """
        ca = self._certificates("ca", self.ca) if self.ca is not None else b""
        if self.cert is None or self.key is None:
            return Pem(ca)
        cert, key = self._certificates("cert", self.cert), self._bytes("key", self.key)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError):
            raise SettingsError(
                f"{self.setting('key')}: {self.key} is not the key, PEM and without a password, "
                f"of the certificate in {self.cert} ({self.setting('cert')})"
            ) from None
        return Pem(ca, cert, key)

    def _bytes(self, name: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as e:
            raise SettingsError(f"{self.setting(name)}: {path} cannot be read: {e.strerror}") from None

    def _certificates(self, name: str, path: Path) -> bytes:
        from cryptography import x509  # most processes of a laptop have no certificates

        pem = self._bytes(name, path)
        try:
            found = x509.load_pem_x509_certificates(pem)
        except ValueError:
            raise SettingsError(f"{self.setting(name)}: {path} holds no certificate, PEM") from None
        now = datetime.now(UTC)
        living = [one for one in found if one.not_valid_after_utc > now]
        # An authority may leave its old certificate beside the new one; of ours, the first is the one that is shown.
        if not living or (name == "cert" and found[0] is not living[0]):
            ended = max(one.not_valid_after_utc for one in found) if name == "ca" else found[0].not_valid_after_utc
            raise SettingsError(
                f"{self.setting(name)}: the certificate in {path} expired on {ended:%Y-%m-%d %H:%M} UTC: put a new one there"
            )
        if name == "cert" and found[0].not_valid_before_utc > now:
            raise SettingsError(
                f"{self.setting(name)}: the certificate in {path} holds only from {found[0].not_valid_before_utc:%Y-%m-%d %H:%M} "
                "UTC on: see whether the clock of this machine is right"
            )
        return pem


@dataclass(frozen=True)
class Pem:
    """What the files hold. Empty: there is no such file."""

    ca: bytes = b""
    cert: bytes = b""
    key: bytes = b""

    def __repr__(self) -> str:
        return f"<Pem ca {len(self.ca)} bytes, cert {len(self.cert)} bytes>"


class Rotating(Generic[T]):
    """Something made of files, and made anew once they have changed. New files that do not hold are told of, and left alone.

    Args:
        files: from which it is made.
        make: makes it.

    Raises:
        SettingsError: the files do not hold at the beginning.
    """

    def __init__(self, files: Files, make: Callable[[Pem], T]) -> None:
        self._files = files
        self._make = make
        self._seen = files.state()
        self._current = make(files.read())
        self.rotations = 0

    def __repr__(self) -> str:
        return f"<Rotating {self._files.section}: {self.rotations} rotations>"

    @property
    def current(self) -> T:
        """Made of the files as they were when they held last."""
        state = self._files.state()
        if state != self._seen:
            self._seen = state  # files that do not hold are looked at once
            try:
                self._current = self._make(self._files.read())
            except SettingsError as e:
                log.error("certificate_not_taken", error=str(e), goes_on="with the one before")
            else:
                self.rotations += 1
                log.info("certificate_rotated", section=self._files.section)
        return self._current


def client_context(pem: Pem, files: Files) -> ssl.SSLContext:
    """For a connection that we open."""
    context = ssl.create_default_context(cadata=pem.ca.decode() if pem.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert is not None and files.key is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def unencrypted(error: Exception, files: Files) -> str:
    """Say why a connection that we opened is not encrypted, and what to do; empty: for no reason that is about certificates."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(str(error.verify_message), files)
    text = str(error).lower().replace("_", " ")
    if any(alert in text for alert in REFUSALS):
        return without_word(files)
    if isinstance(error, ssl.SSLError):
        return f"no TLS with the server: {error.reason or error}"
    return ""


def without_word(files: Files) -> str:
    """Say why a server ends a connection once it has seen which certificate we show."""
    if files.cert is None:
        return f"the server wants a certificate of ours: set {files.setting('cert')} and {files.setting('key')}"
    return f"the server does not take our certificate ({files.setting('cert')}): expired, or of an authority it does not have"


def _unverified(why: str, files: Files) -> str:
    if "expired" in why:
        return "the server's certificate has expired: put a new one where the server reads it"
    if "not yet valid" in why:
        return "the server's certificate does not hold yet: see whether the clocks of both machines are right"
    if "ostname" in why or "IP address" in why:
        return f"the server's certificate is for another name ({why}): call it by a name that it holds for"
    return f"the server's certificate is of an authority that {files.setting('ca')} does not have ({why})"


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _no_password() -> str:
    """A key with a password must not have OpenSSL ask for it on a terminal."""
    raise ValueError
