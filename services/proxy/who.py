"""Who calls, and under which id: carried in gRPC metadata beside a request, never taken from its body alone."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from urllib.parse import quote

from .errors import Invalid

REQUEST_ID_KEY = "x-request-id"
RESUME_KEY = "x-resume-from"
LINGER_KEY = "x-linger-ms"
FOLLOW_KEY = "x-follow"
AUTHORIZATION_KEY = "authorization"
USER_KEY = "x-user-id"
PROJECT_KEY = "x-project-id"

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Who:
    """A user, as a verified token or a trusted backend says."""

    user_id: str = ""
    """Empty: nobody in particular."""
    project_id: str = ""
    token: str = ""
    """The user's own; it is passed on, and the bridge may verify it again."""

    @property
    def metadata(self) -> Metadata:
        """What travels with each call. Ids are percent-encoded: metadata has room for ASCII only."""
        found = []
        if self.token:
            found.append((AUTHORIZATION_KEY, f"Bearer {self.token}"))
        if self.user_id:
            found.append((USER_KEY, quote(self.user_id, safe="")))
        if self.project_id:
            found.append((PROJECT_KEY, quote(self.project_id, safe="")))
        return tuple(found)

    def somebody(self) -> Who:
        """Check that it is known who calls.

        Raises:
            Invalid: it is not.
        """
        if not self.user_id:
            what = "is required: say who calls with a token, a ticket or X-User-Id"
            raise Invalid(("userId", what), chinese="userId：必填，请用令牌、票据或 X-User-Id 说明调用者")
        return self

    def with_project(self, user_id: str, project_id: str) -> Who:
        """Check what a body says against it, and take its project.

        Raises:
            Invalid: the body names somebody else.
        """
        if user_id and not self.user_id:
            what = "does not say who calls; that takes a token, a ticket or X-User-Id"
            raise Invalid(("userId", what), chinese="userId：不能说明调用者，请用令牌、票据或 X-User-Id")
        if user_id and user_id != self.user_id:
            what = "differs from who calls; leave it out, or call as that user"
            raise Invalid(("userId", what), chinese="userId：与调用者不同，请省略或以该用户身份调用")
        return Who(self.user_id, project_id or self.project_id, self.token)


NOBODY = Who()


def new_request_id() -> str:
    """Make an id for one logical call: `req_<unix nanoseconds>_<8 hexadecimal digits>`."""
    return f"req_{time.time_ns()}_{secrets.token_hex(4)}"
