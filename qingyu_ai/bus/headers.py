"""Headers of requests on the bus. This module is their reference manual.

Frames carry no headers (they cost more than the frame); what a reader must know stands in the frame itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

from .deadline import Deadline
from .errors import Invalid, OtherVersion

PROTOCOL = 2
"""The version of the bus protocol that this release speaks. A release understands its own and the one before.

1 is the first; 2 knows calls that were reopened. A request carries the lowest version that can serve it.
"""

REOPENS_SINCE = 2
"""The version that knows reopened calls."""

VERSION = "Qai-Version"
"""Protocol version of the sender, a decimal number."""

CALL = "Qai-Call"
"""Call id: 32 hexadecimal digits (see `subjects.call_id`)."""

REQUEST = "Qai-Request"
"""The caller's request id, or the one that the bridge made. Visible ASCII, at most 128 characters (a document of a
batch: plus its index)."""

USER = "Qai-User"
"""User id, percent-encoded UTF-8. Absent: an anonymous call."""

PROJECT = "Qai-Project"
"""Project id, percent-encoded UTF-8."""

PROJECTS = "Qai-Projects"
"""The only projects that the caller may use, as verified at the edge: comma-separated, each percent-encoded UTF-8. Empty: none.
Absent: all of the user's own."""

ROLES = "Qai-Roles"
"""Comma-separated roles of the caller, as verified at the edge."""

VERIFIED = "Qai-Verified"
"""`1`: the edge has verified that the user is who it says. Absent: the user is what the caller wrote."""

PROOF = "Qai-Proof"
"""On calls of tools for verified users: a JWT of who calls the tool, good for this call of this tool by this user
(`qingyu_ai.identity.tool_tokens`). Never the caller's own token."""

REMAINING_MS = "Qai-Remaining-Ms"
"""On rpc: milliseconds until the caller's deadline when the request was sent. No clock is shared."""

EXPIRES_MS = "Qai-Expires-Ms"
"""On jobs: the caller's deadline in unix milliseconds; a job may wait long, so it needs a point in time."""

DIGEST = "Qai-Digest"
"""On jobs: hexadecimal digest of the request without its metadata."""

INBOX = "Qai-Inbox"
"""On jobs: the subject of the call's log (a captured subject cannot use the reply field)."""

REOPENS = "Qai-Reopens"
"""On jobs, if the call was decided before: the revision of the decision that this job is to replace. Since version 2."""

TRACEPARENT = "traceparent"
"""W3C trace context: of the span that asks, or as the caller gave it where no spans are recorded."""

ERROR = "Nats-Service-Error"
"""On replies of rpc: the error's sentence (the header of the NATS services framework). The body is a google.rpc.Status."""

ERROR_CODE = "Nats-Service-Error-Code"
"""On replies of rpc: the status code, a decimal number."""


class Envelope(NamedTuple):
    """What a request carries beside its body. (A tuple, because one is made and read for every call.)"""

    call: str
    request_id: str
    deadline: Deadline
    user: str = ""
    project: str = ""
    roles: tuple[str, ...] = ()
    digest: str = ""
    inbox: str = ""
    traceparent: str = ""
    reopens: int = 0
    verified: bool = False
    projects: tuple[str, ...] | None = None
    """None: all of the user's."""
    proof: str = ""

    def encode(self, *, stored: bool) -> bytes:
        """Write the header block.

        Args:
            stored: the request goes to a work queue, so its deadline is a point in time.
        """
        version = REOPENS_SINCE if self.reopens else 1
        lines = [f"{VERSION}: {version}\r\n{CALL}: {self.call}\r\n{REQUEST}: {self.request_id}\r\n"]
        if stored:
            expires = self.deadline.to_unix_ms()
            lines.append(f"{EXPIRES_MS}: {expires}\r\n{DIGEST}: {self.digest}\r\n{INBOX}: {self.inbox}\r\n")
        else:
            lines.append(f"{REMAINING_MS}: {max(0, int(self.deadline.remaining * 1000))}\r\n")
        if self.reopens:
            lines.append(f"{REOPENS}: {self.reopens}\r\n")
        if self.user:
            lines.append(f"{USER}: {_quoted(self.user)}\r\n")
        if self.project:
            lines.append(f"{PROJECT}: {_quoted(self.project)}\r\n")
        if self.projects is not None:
            lines.append(f"{PROJECTS}: {','.join([_quoted(one) for one in self.projects])}\r\n")
        if self.proof:
            lines.append(f"{PROOF}: {self.proof}\r\n")
        if self.roles:
            lines.append(f"{ROLES}: {','.join(self.roles)}\r\n")
        if self.verified:
            lines.append(f"{VERIFIED}: 1\r\n")
        if self.traceparent:
            lines.append(f"{TRACEPARENT}: {self.traceparent}\r\n")
        return f"{VERSION_LINE}\r\n{''.join(lines)}\r\n".encode()

    @classmethod
    def scraped(cls, headers: Mapping[str, str]) -> Envelope:
        """What can be told of a request whose headers cannot be read as a whole: whose call it is."""
        return cls(
            call=headers.get(CALL, ""),
            request_id=headers.get(REQUEST, ""),
            deadline=Deadline.after(0),
            user=unquote(headers.get(USER, "")),
            project=unquote(headers.get(PROJECT, "")),
            traceparent=headers.get(TRACEPARENT, ""),
        )

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
            projects = headers.get(PROJECTS)
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
                reopens=int(headers.get(REOPENS, "0")),
                verified=headers.get(VERIFIED) == "1",
                projects=None if projects is None else tuple(map(unquote, filter(None, projects.split(",")))),
                proof=headers.get(PROOF, ""),
            )
        except (KeyError, ValueError) as e:
            raise Invalid(("headers", f"malformed or missing: {e}")) from None


def _quoted(value: str) -> str:
    """Percent-encode, unless there is nothing to encode."""
    return value if value.isascii() and value.isalnum() else quote(value, safe="")


UNDERSTOOD = frozenset(str(v) for v in (PROTOCOL - 1, PROTOCOL) if v > 0)
"""Versions that this release answers."""


VERSION_LINE = "NATS/1.0"
"""How every header block begins."""

STATUS = "Status"
"""What a block's status line is read as: the broker answers in place of a peer (503 no responders, 404 no message)."""

DESCRIPTION = "Description"
"""The words behind the status."""


def encode(headers: Mapping[str, str]) -> bytes:
    """Write a header block.

    Raises:
        ValueError: a name or value has a line break, which would let its author write headers and commands of his own.
    """
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header with a line break")
    return f"{VERSION_LINE}\r\n{lines}\r\n".encode()


def decode(block: bytes) -> dict[str, str]:
    """Read a header block."""
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    if len(first) > len(VERSION_LINE):
        status, _, description = first[len(VERSION_LINE) + 1 :].partition(" ")
        headers[STATUS] = status
        if description:
            headers[DESCRIPTION] = description
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            headers[name] = value.strip()
    return headers
