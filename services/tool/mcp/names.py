"""How a server's tools are called here. A model must be able to call them, and a bus subject to name them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LONGEST = 64


@dataclass(frozen=True, slots=True)
class Original:
    """A tool as its server calls it."""

    server: str
    """The server's short name in the settings; empty: a tool of ours."""
    name: str

    def __str__(self) -> str:
        return f"{self.name!r} of the MCP server {self.server}" if self.server else f"{self.name!r} of our own"


@dataclass(frozen=True, slots=True)
class Collision:
    """Two tools that would have one name here."""

    name: str
    first: Original
    second: Original

    def __str__(self) -> str:
        return f"{self.first} and {self.second} would both be called {self.name!r}"


def mapped(server: str, name: str) -> str:
    """Name a server's tool: `Read-File` of `files` is `files_read_file`.

    A name that would be longer than 64 characters is cut, and ends with eight hexadecimal digits of its SHA-256.
    """
    made = re.sub(r"[^a-z0-9_]", "_", f"{server}_{name.lower()}")
    if len(made) <= LONGEST:
        return made
    digest = hashlib.sha256(f"{server}/{name}".encode()).hexdigest()[:8]
    return f"{made[: LONGEST - 9]}_{digest}"


def name_all(
    servers: Mapping[str, Iterable[str]], own: Iterable[str]
) -> tuple[dict[str, Original], tuple[Collision, ...]]:
    """Name the tools of all servers.

    Args:
        servers: by short name, the tools as the server calls them.
        own: names that are taken.

    Returns:
        By name here, the tools; and those that are not among them because their name is taken.
    """
    taken = {name: Original("", name) for name in own}
    named: dict[str, Original] = {}
    collisions = []
    for server, names in servers.items():
        for name in names:
            made = mapped(server, name)
            one = Original(server, name)
            if (first := taken.get(made)) is not None:
                collisions.append(Collision(made, first, one))
                continue
            taken[made] = named[made] = one
    return named, tuple(collisions)
