"""Headers of requests on the bus. This module is their reference manual.

Frames carry no headers (they cost more than the frame); what a reader must know stands in the frame itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from .deadline import Deadline
from .errors import Invalid, OtherVersion

PROTOCOL = 1
"""The version of the bus protocol that this release speaks. A release understands its own and the one before."""

VERSION = "Qai-Version"
"""Protocol version of the sender, a decimal number."""

CALL = "Qai-Call"
"""Call id: 32 hexadecimal digits (see `subjects.call_id`)."""

REQUEST = "Qai-Request"
"""The caller's request id, or the one that the bridge made. Visible ASCII, at most 128 characters."""

USER = "Qai-User"
"""User id, percent-encoded UTF-8. Absent: an anonymous call."""

PROJECT = "Qai-Project"
"""Project id, percent-encoded UTF-8."""

ROLES = "Qai-Roles"
"""Comma-separated roles of the user, as verified at the edge."""

REMAINING_MS = "Qai-Remaining-Ms"
"""On rpc: milliseconds until the caller's deadline when the request was sent. No clock is shared."""

EXPIRES_MS = "Qai-Expires-Ms"
"""On jobs: the caller's deadline in unix milliseconds; a job may wait long, so it needs a point in time."""

DIGEST = "Qai-Digest"
"""On jobs: hexadecimal digest of the request without its metadata."""

INBOX = "Qai-Inbox"
"""On jobs: the subject of the call's log (a captured subject cannot use the reply field)."""

TRACEPARENT = "traceparent"
"""W3C trace context, passed through."""

ERROR = "Nats-Service-Error"
"""On replies of rpc: the error's sentence (the header of the NATS services framework). The body is a google.rpc.Status."""

ERROR_CODE = "Nats-Service-Error-Code"
"""On replies of rpc: the status code, a decimal number."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a request carries beside its body."""

    call: str
    request_id: str
    deadline: Deadline
    user: str = ""
    project: str = ""
    roles: tuple[str, ...] = ()
    digest: str = ""
    inbox: str = ""
    traceparent: str = ""

    def to_headers(self, *, stored: bool) -> dict[str, str]:
        """Write the headers.

        Args:
            stored: the request goes to a work queue, so its deadline is a point in time.
        """
        headers = {VERSION: str(PROTOCOL), CALL: self.call, REQUEST: self.request_id}
        if stored:
            headers[EXPIRES_MS] = str(self.deadline.to_unix_ms())
            headers[DIGEST] = self.digest
            headers[INBOX] = self.inbox
        else:
            headers[REMAINING_MS] = str(max(0, int(self.deadline.remaining * 1000)))
        if self.user:
            headers[USER] = quote(self.user, safe="")
        if self.project:
            headers[PROJECT] = quote(self.project, safe="")
        if self.roles:
            headers[ROLES] = ",".join(self.roles)
        if self.traceparent:
            headers[TRACEPARENT] = self.traceparent
        return headers

    @classmethod
    def from_headers(cls, headers: Mapping[str, str] | None) -> Envelope:
        """Read the headers of a request.

        Raises:
            OtherVersion: the sender speaks a version that this release does not.
            Invalid: a header is missing or malformed.
        """
        if not headers:
            raise Invalid(("headers", "missing"))
        version = headers.get(VERSION, "")
        if version not in UNDERSTOOD:
            raise OtherVersion(version or "none", PROTOCOL)
        try:
            expires = headers.get(EXPIRES_MS)
            deadline = (
                Deadline.at_unix_ms(int(expires)) if expires else Deadline.after(int(headers[REMAINING_MS]) / 1000)
            )
            roles = headers.get(ROLES, "")
            return cls(
                call=headers[CALL],
                request_id=headers[REQUEST],
                deadline=deadline,
                user=unquote(headers.get(USER, "")),
                project=unquote(headers.get(PROJECT, "")),
                roles=tuple(roles.split(",")) if roles else (),
                digest=headers.get(DIGEST, ""),
                inbox=headers.get(INBOX, ""),
                traceparent=headers.get(TRACEPARENT, ""),
            )
        except (KeyError, ValueError) as e:
            raise Invalid(("headers", f"malformed or missing: {e}")) from None


UNDERSTOOD = frozenset(str(v) for v in (PROTOCOL - 1, PROTOCOL) if v > 0)
"""Versions that this release answers."""


def size(headers: Mapping[str, str] | None) -> int:
    """Count the bytes that headers take on the wire (the broker's limit counts them together with the payload)."""
    if not headers:
        return 0
    return 12 + sum(len(k) + len(v.encode()) + 4 for k, v in headers.items())
