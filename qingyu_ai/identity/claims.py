"""What a token says, read by the names that the deployment's settings give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from qingyu_ai.settings import Tokens

LONGEST_ID = 128
"""Characters of a user's or a project's id, as in requests."""

MOST_PROJECTS, MOST_ROLES = 256, 64

_ID = re.compile(r"[^\x00-\x20\x7f\u2028\u2029](?:[^\x00-\x1f\x7f\u2028\u2029]*[^\x00-\x20\x7f\u2028\u2029])?")
_ROLE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,64}")
"""Visible ASCII without a comma: roles travel in one header."""


class Refused(Exception):
    """The token opens nothing. Why not is for nobody to know: it would help only who forges them."""


class Claims(NamedTuple):
    """Whose a good token is, and what it opens."""

    user: str
    projects: tuple[str, ...] | None = None
    """The only ones that it opens; None: all of the user's."""
    roles: tuple[str, ...] = ()
    expires: float = 0.0
    """Unix seconds."""


def is_id(value: object) -> bool:
    """Whether something can name a user or a project: a bounded text without control characters."""
    return (
        isinstance(value, str) and 0 < len(value) <= LONGEST_ID and _ID.fullmatch(value) is not None and _encodes(value)
    )


def read(payload: Mapping[str, Any], settings: Tokens) -> Claims:
    """Read the payload of a token whose signature, times, issuer and audience are good.

    Raises:
        Refused: it names no user, or restricts its projects in a way that cannot be read.
    """
    user = _at(payload, settings.user_claim)
    if not is_id(user):
        raise Refused
    return Claims(
        user=user,
        projects=_projects(_at(payload, settings.projects_claim)) if settings.projects_claim else None,
        roles=_roles(_at(payload, settings.roles_claim)) if settings.roles_claim else (),
        expires=float(payload["exp"]),
    )


def _at(payload: Mapping[str, Any], name: str) -> Any:
    """The value of a claim. A name that is there as it stands goes before one that leads into an object."""
    if name in payload:
        return payload[name]
    found: Any = payload
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _projects(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    listed = [value] if isinstance(value, str) else value
    # What restricts and cannot be read must not open everything.
    if not isinstance(listed, list) or len(listed) > MOST_PROJECTS or not all(is_id(one) for one in listed):
        raise Refused
    return tuple(dict.fromkeys(listed))


def _roles(value: Any) -> tuple[str, ...]:
    listed = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    # What gives rights and cannot be read gives none.
    known = [one for one in listed if isinstance(one, str) and _ROLE.fullmatch(one)]
    return tuple(dict.fromkeys(known))[:MOST_ROLES]


def _encodes(value: str) -> bool:
    """JSON can hold half a character, which no header and no database takes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
