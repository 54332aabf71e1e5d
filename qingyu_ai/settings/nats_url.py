"""Whether an address of NATS can be one, before anybody tries to connect to it."""

from __future__ import annotations

from urllib.parse import urlsplit

from .nats import Nats

SCHEMES = ("nats", "tls")
ACCEPTED = "nats://host:port or tls://host:port, a bare host:port, or several of these with commas between them"


def problem(setting: str, url: str) -> str:
    """What is wrong with a setting that lists addresses; an empty text when nothing is.

    An address that may hold a password is not repeated: a mistake in it can put the password anywhere.
    """
    servers = [server.strip() for server in url.split(",")]
    for number, server in enumerate(servers, start=1):
        reason = _problem(server) if server else "" if any(servers) else "there is no address"
        if reason:
            which = setting if len(servers) == 1 or not any(servers) else f"server {number} of {setting}"
            shown = "" if "@" in url or not server else f" is {server!r}"
            return f"{which}{shown}: {reason}. Write {ACCEPTED}"
    return ""


def doors(setting: str, nats: Nats) -> str:
    """What of the addresses does not go with the certificates and the password that are set; an empty text when all does."""
    for name in ("ca_file", "cert_file"):
        if getattr(nats, name) is not None and not all(server.startswith("tls://") for server in nats.servers):
            return f"QINGYU_NATS__{name.upper()} is set, so each address in {setting} must begin with tls://"
    if nats.user and any("@" in server for server in nats.servers):
        return f"QINGYU_NATS__USER is set, and {setting} has a user too: leave one of them out"
    return ""


def _problem(server: str) -> str:
    scheme, separator, _ = server.partition("://")
    if separator and scheme in ("ws", "wss"):
        return "a WebSocket does not carry the bus"
    if separator and scheme not in SCHEMES:
        return "the scheme is neither nats nor tls"
    try:
        parts = urlsplit(server if separator else f"nats://{server}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return "the port is no number from 1 to 65535, or the host is none"
    if not host or any(c.isspace() for c in server):
        return "this is no address"
    if port == 0 or parts.netloc.endswith(":"):
        return "the port is no number from 1 to 65535"
    if "@" in server.replace(parts.netloc, "", 1):
        return "a user name and a password need %2F for /, %3F for ? and %23 for #"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "nothing may follow the port"
    if port is None and not separator:
        return "there is neither a scheme nor a port"
    return ""
