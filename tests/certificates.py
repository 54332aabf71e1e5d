"""Certificates made on the fly, and put where a process reads them as a rotation does it: at once, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import trustme

LOCAL = ("127.0.0.1", "localhost")


class Folder:
    """One end's files: `ca.pem`, `cert.pem`, `key.pem`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def ca(self) -> Path:
        """Whom this end trusts."""
        return self._path / "ca.pem"

    @property
    def cert(self) -> Path:
        """What this end shows."""
        return self._path / "cert.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self._path / "key.pem"

    def trust(self, *authorities: trustme.CA) -> Folder:
        """Trust these from now on."""
        self.put(self.ca, b"".join(authority.cert_pem.bytes() for authority in authorities))
        return self

    def show(self, authority: trustme.CA, *names: str, until: datetime | None = None) -> Folder:
        """Show a certificate of this authority's from now on."""
        issued = authority.issue_cert(*(names or LOCAL), not_after=until)
        self.put(self.key, issued.private_key_pem.bytes())
        self.put(self.cert, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        return self

    def put(self, file: Path, content: bytes) -> None:
        """Replace a file."""
        new = file.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, file)

    def settings(self, section: str, *names: str) -> Mapping[str, str]:
        """Environment variables that name files: `settings("QINGYU_NATS", "ca", "cert", "key")`."""
        return {f"{section}__{name.upper()}_FILE": str(getattr(self, name)) for name in names}
