"""`qingyu-ai events`: what happens, line by line. `tail` waits for more, `replay` ends with what there is."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="What happens to calls, documents and workers (docs/events.md).", no_args_is_help=True)

Service = Annotated[list[str] | None, typer.Option(help="Only of these: chat, agent, rag, tool.")]
Name = Annotated[list[str] | None, typer.Option("--event", help="Only these: completed, failed, …")]
Project = Annotated[list[str] | None, typer.Option(help="Only of these projects, by id.")]
User = Annotated[str, typer.Option(help="Only of this user.")]
Json = Annotated[bool, typer.Option("--json", help="A line of JSON for each, as CloudEvents has it.")]


@app.command()
def tail(
    service: Service = None,
    event: Name = None,
    project: Project = None,
    user: User = "",
    since: Annotated[
        str, typer.Option(help="First what happened since: 10m, 2h, 2026-01-31T08:00, beginning.")
    ] = "now",
    as_json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C."""
    _run(service, event, project, user, since, as_json, follow=True)


@app.command()
def replay(
    service: Service = None,
    event: Name = None,
    project: Project = None,
    user: User = "",
    since: Annotated[str, typer.Option(help="Since when: 10m, 2h, 2026-01-31T08:00, beginning.")] = "beginning",
    as_json: Json = False,
) -> None:
    """Print events that have happened, and end."""
    _run(service, event, project, user, since, as_json, follow=False)


def _run(
    service: list[str] | None,
    event: list[str] | None,
    project: list[str] | None,
    user: str,
    since: str,
    as_json: bool,
    *,
    follow: bool,
) -> None:
    # A fifth of a second to import, which the other commands need not wait for.
    from qingyu_ai.settings import load

    from .event_tail import show
    from .exits import exit_with

    exit_with(lambda: show(load(), service, event, project, user, since, as_json, follow=follow))
