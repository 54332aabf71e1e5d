"""Ways into trouble that a search takes long to find: `make test` follows them, `make model` finds them."""

from __future__ import annotations

from pathlib import Path

from . import invariants
from .bounds import Scene
from .explorer import steps
from .state import Step, beginning

FILE = Path(__file__).with_name("stories.txt")
"""Written by `python -m tests.model --stories`: for each rule its name, then the steps of a shortest way."""


def read() -> dict[str, list[str]]:
    """All stories, by the rule that they do without."""
    stories: dict[str, list[str]] = {}
    for paragraph in FILE.read_text(encoding="utf-8").strip().split("\n\n"):
        rule, *told = paragraph.splitlines()
        stories[rule] = told
    return stories


def write(stories: dict[str, list[Step]]) -> None:
    """Keep them."""
    paragraphs = ["\n".join([rule, *map(str, trace)]) for rule, trace in stories.items()]
    FILE.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")


def follow(scene: Scene, told: list[str]) -> str:
    """Take just these steps.

    Returns:
        Which invariant does not hold in the end; empty: all do, or a step cannot be taken.
    """
    s = beginning(scene.bounds)
    wrong: str | None = None
    for sentence in told:
        step = next((step for step in steps(s, scene) if str(step) == sentence), None)
        if wrong or step is None:
            return ""
        wrong = invariants.broken(s, step.after, scene)
        s = step.after
    quiet = not any(step.due for step in steps(s, scene))
    return wrong or (invariants.unfinished(s, scene) if quiet else None) or ""
