"""How users' tokens are verified: what the bridge and the HTTP face of the AI Proxy have in common (docs/security.md)."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, FilePath, SecretStr, model_validator

from .sections import Seconds, Section

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SHORTEST_KEY = 32
"""Characters of a secret that signs or opens something."""


def _keys_url(value: str) -> str:
    if not value:
        return value
    parts = urlsplit(value)
    # Whoever can answer in the server's place says which keys are good.
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError("it must be an address like https://login.example.com/jwks.json")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("it must begin with https://, unless its host is this machine")
    return value


class Tokens(Section):
    """Which tokens are good, and what their claims mean."""

    authentication: Literal["off", "required"] = "off"
    token_key: SecretStr = SecretStr("")
    """Verifies users' tokens (HS256): a secret that only who signs them has, too."""
    token_key_file: FilePath | None = None
    """Verifies users' tokens: public keys, PEM, one or several (RS256, ES256, EdDSA). Read again when it changes."""
    token_keys_url: Annotated[str, AfterValidator(_keys_url)] = ""
    """Verifies users' tokens: where a server publishes its public keys (JWKS; RS256, ES256, EdDSA)."""
    token_keys_ca_file: FilePath | None = None
    """Certificates to trust at `token_keys_url` instead of the well-known ones, PEM."""
    token_keys_seconds: Seconds = 300.0
    """Between two looks at `token_keys_url`; a file is looked at ten seconds after ten seconds."""
    token_issuer: str = ""
    """`iss` that a token must have; empty: any."""
    token_audience: str = ""
    """`aud` that a token must have; empty: any."""
    token_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0
    """By which the clock of who signs may differ from ours."""
    user_claim: Annotated[str, Field(min_length=1)] = "sub"
    """The claim with the user's id. A dot leads into an object: `realm_access.roles`."""
    projects_claim: str = "projects"
    """The claim with the only projects that the token opens, a list; a token without it opens all of its user's. Empty: none is
    read."""
    roles_claim: str = "roles"
    """The claim with the user's roles, a list, or a text with blanks between. Empty: none is read."""

    @property
    def key_names(self) -> dict[str, bool]:
        """The settings that say which keys are good, and which of them are set."""
        return {
            "token_key": bool(self.token_key.get_secret_value()),
            "token_key_file": self.token_key_file is not None,
            "token_keys_url": bool(self.token_keys_url),
        }

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> Tokens:
        secret = self.token_key.get_secret_value()
        if secret and len(secret) < SHORTEST_KEY:
            raise ValueError(f"token_key has {len(secret)} characters; it must have at least {SHORTEST_KEY}")
        if sum(self.key_names.values()) > 1:
            raise ValueError(f"set one of {', '.join(self.key_names)}, not several")
        if self.token_keys_ca_file is not None and not self.token_keys_url:
            raise ValueError("token_keys_ca_file is for token_keys_url, which is not set")
        return self
