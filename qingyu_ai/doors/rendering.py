"""The table of users as nats-server reads it: an `authorization` block without a secret in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from qingyu_ai.settings import Settings, env_name

from .roles import BY_NAME, ROLES, Role

LOGIN_SECONDS = 5
"""As in nats.conf, whose block this one replaces."""

MARGIN_SECONDS = 10
"""Beyond the longest deadline, for an answer that is sent at its very end."""

HEAD = """\
# Users of NATS and what each may do, written by `qingyu-ai nats-permissions` from qingyu_ai/doors/roles.py: change it
# there. Include it behind nats.conf, whose own `authorization` block it replaces. The server reads the passwords from its
# environment, and does not start without one of them.
"""


def password_variable(role: str) -> str:
    """The environment variable that holds a role's password, for the server and for the role's own processes."""
    return env_name(("nats", "passwords", role))


def render(settings: Settings, names: Sequence[str] = ()) -> str:
    """Write the `authorization` block.

    Args:
        settings: of the deployment; the longest deadline says for how long a question may be answered.
        names: only these roles; none: all.

    Raises:
        KeyError: there is no such role.
    """
    wanted = [BY_NAME[name] for name in names] or list(ROLES)
    seconds = math.ceil(settings.bus.longest_deadline_seconds) + MARGIN_SECONDS
    users = "".join(_user(role, seconds) for role in wanted)
    return f"{HEAD}authorization {{\n  timeout: {LOGIN_SECONDS}\n  users: [\n{users}  ]\n}}\n"


def _user(role: Role, seconds: int) -> str:
    answers = f'        allow_responses: {{ max: 1, expires: "{seconds}s" }}\n' if role.answers else ""
    return (
        f"    {{\n      user: {role.name}\n      password: ${password_variable(role.name)}\n      permissions: {{\n"
        f"{_allow('publish', role.publish)}{_allow('subscribe', role.subscribe)}{answers}      }}\n    }}\n"
    )


def _allow(verb: str, subjects: Iterable[str]) -> str:
    lines = "".join(f'          "{subject}"\n' for subject in subjects)
    return f"        {verb}: {{ allow: [\n{lines}        ] }}\n"
