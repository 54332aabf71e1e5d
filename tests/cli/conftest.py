from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import Command, Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs commands, and leaves nothing behind."""
    commands: list[Command] = []

    def start(*arguments: str, **options: str) -> Command:
        folder = tmp_path / str(len(commands))
        folder.mkdir()
        commands.append(Command(folder, *arguments, **options))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.is_running():
            command.process.kill()
        command.process.wait()
