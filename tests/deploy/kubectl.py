"""Runs the commands of docs/operations.md, with a `kubectl` that keeps what it is given in a folder, as an API server does.

What it knows is in `fake_kubectl`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from deploy.manifests import ROOT
from tests.optional import require_program

PAGE = ROOT / "docs" / "operations.md"
FENCED = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.M | re.S)

Secret = dict[str, str]


def blocks(heading: str) -> list[str]:
    """The commands of a section of the page, block by block, without those of its subsections."""
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index(f"\n{heading}\n") :]
    section = re.split(r"^#{2,} .*\n", section, maxsplit=2, flags=re.M)[1]
    return [textwrap.dedent(block) for _, block in FENCED.findall(section)]


class Cluster:
    """What the commands were given.

    Args:
        folder: an empty one, in which the commands run.
        programs: folders of programs that they find besides those of this machine.
    """

    def __init__(self, folder: Path, *programs: Path) -> None:
        self._folder = folder
        self._programs = programs
        self._log = folder / "log"
        own = folder / "bin"
        own.mkdir()
        _program(own / "kubectl", f'exec {sys.executable} {Path(__file__).with_name("fake_kubectl.py")} "$@"')
        _program(own / "sleep", "exit 0")

    def run(self, script: str, **variables: str) -> None:
        """Run commands of the page.

        Raises:
            AssertionError: one of them fails.
        """
        environment = {
            **os.environ,
            "PATH": os.pathsep.join(map(str, (self._folder / "bin", *self._programs, os.environ["PATH"]))),
            "KUBECTL_FOLDER": str(self._folder),
            "NS": "qingyu",
            **variables,
        }
        command = [require_program("bash"), "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=self._folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"

    @property
    def log(self) -> list[str]:
        """What was done, in order: a Secret that was put there by `= name`, everything else by its arguments."""
        return [json.loads(line)["did"] for line in self._lines()]

    def versions(self, name: str) -> list[Secret]:
        """All that a Secret ever was, in order."""
        return [entry["data"] for entry in map(json.loads, self._lines()) if entry["did"] == f"= {name}"]

    @property
    def secrets(self) -> dict[str, Secret]:
        """The Secrets that there are."""
        found: dict[str, Secret] = {}
        for entry in map(json.loads, self._lines()):
            if "data" in entry:
                found[entry["did"][2:]] = entry["data"]
        return found

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else []


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
