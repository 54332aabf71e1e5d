"""A bridge with a hole, for negative controls: `ABUSE_HOLE` names it. With it the suite must turn red."""

from __future__ import annotations

import os
from typing import Any

import bridge.__main__
from bridge import admission
from bridge.doors import Visitor
from qingyu_ai.bus.headers import Envelope
from qingyu_ai.identity import verifier
from qingyu_ai.process import run

HOLE = "ABUSE_HOLE"


def signature() -> None:
    """Signatures are not looked at."""
    real = verifier.jwt.decode  # type: ignore[attr-defined]

    def decode(token: str, key: object, **demands: object) -> object:
        return real(token, options={"verify_signature": False})

    verifier.jwt.decode = decode  # type: ignore[attr-defined]


def owner() -> None:
    """Users are who the request says."""
    Visitor.may_be = lambda self, user: True  # type: ignore[method-assign]
    real = admission._identity

    def identity(route: Any, message: Any, incoming: Any, visitor: Any, violations: Any) -> tuple[str, str, str]:
        user, project, request_id = real(route, message, incoming, visitor, violations)
        known = admission._known(route.request.DESCRIPTOR)
        named = message.user_id if known.user else ""
        return named or (message.metadata.user_id if known.metadata else "") or user, project, request_id

    admission._identity = identity


def projects() -> None:
    """Nobody is told which projects are open."""
    real = Envelope.encode

    def encode(self: Envelope, *, stored: bool) -> bytes:
        return real(self._replace(projects=None), stored=stored)

    Envelope.encode = encode  # type: ignore[method-assign]
    Visitor.may_use = lambda self, project: True  # type: ignore[method-assign]


HOLES = {"signature": signature, "owner": owner, "projects": projects}

if __name__ == "__main__":
    if hole := os.environ.get(HOLE, ""):
        HOLES[hole]()
    run("bridge", bridge.__main__.main)
