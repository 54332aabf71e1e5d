"""Where a worker answers. Whoever asks names the subject of the reply, and could name any: a record, somebody else's queue. The
server lets a worker answer wherever a question wants it, so it looks first whether that is an inbox of a role that may ask."""

from __future__ import annotations

import structlog

from . import subjects

log = structlog.get_logger(__name__)

ASKERS: dict[str, tuple[str, ...]] = {"rag": ("bridge", "tool"), "tool": ("bridge", "agent", "tool", "mcp")}
"""Roles that may ask the rpc rows of a kind of worker; tests/doors/test_roles.py compares it with the permissions."""

SAID = 10
"""Refusals that are logged one by one; the rest is only counted."""


class Answering:
    """What one worker refuses to answer.

    Args:
        kind: of the worker.
    """

    def __init__(self, kind: str) -> None:
        self._askers = tuple(subjects.inbox_of(role) for role in ASKERS.get(kind, ("bridge",)))
        self.refused = 0

    def __repr__(self) -> str:
        return f"<Answering {self._askers}: {self.refused} refused>"

    def may(self, subject: str, reply: str) -> bool:
        """Whether a reply may go there. If not, it is counted; whoever asked hears nothing.

        Args:
            subject: what was asked.
            reply: where the answer is wanted.
        """
        if reply.startswith(self._askers):
            return True
        self.refused += 1
        if self.refused <= SAID:
            log.error("reply_refused", subject=subject, reply=reply[:200], refused=self.refused)
        return False
