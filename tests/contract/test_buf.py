"""buf's view of proto/: style, and changes that would break an old worker or a new bridge.

`released/` holds the project's own .proto files as they were last released: the other side of the comparison. A branch
name would do as well on one machine, but a shallow clone has no other branch, and a comparison with the parent commit
forgets what was released before it. At a release, copy the files over (`cp proto/{bus,events}.proto tests/contract/released/`).
The contract has no copy there: test_descriptors.py allows no change at all.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from proto.generate import PROTO
from tests.optional import require_tool

RELEASED = Path(__file__).parent / "released"

Buf = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def buf(tmp_path: Path) -> Buf:
    """Return a function that runs buf."""
    path = require_tool("buf")
    env = os.environ | {"BUF_CACHE_DIR": str(tmp_path / "cache")}
    return lambda *args: subprocess.run([path, *map(str, args)], env=env, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of proto/ that a test may spoil."""
    return Path(shutil.copytree(PROTO, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_proto_files_are_in_good_style(buf: Buf) -> None:
    run = buf("lint", PROTO)
    assert run.returncode == 0, run.stdout + run.stderr


def test_an_exception_is_for_the_named_files_only(buf: Buf, copy: Path) -> None:
    """The frozen contract may lack a version; the next file may not."""
    spoil(copy / "bus.proto", "package qingyu.ai.bus.v1;", "package qingyu.ai.bus;")
    run = buf("lint", copy)
    assert run.returncode != 0
    assert "bus.proto" in run.stdout
    assert "should be suffixed with a correctly formed version" in run.stdout


def test_what_was_released_is_still_understood(buf: Buf) -> None:
    run = buf("breaking", PROTO, "--against", RELEASED)
    assert run.returncode == 0, run.stdout + run.stderr


def test_an_added_field_breaks_nobody(buf: Buf, copy: Path) -> None:
    spoil(copy / "bus.proto", "string worker = 4;", "string worker = 4;\n  bool added = 99;")
    run = buf("breaking", copy, "--against", RELEASED)
    assert run.returncode == 0, run.stdout + run.stderr


def test_events_are_held_to_what_was_released(buf: Buf, copy: Path) -> None:
    """Other teams have code made from them."""
    spoil(copy / "events.proto", "int64 completion_tokens = 3;", "int64 completion_tokens = 9;")
    run = buf("breaking", copy, "--against", RELEASED)
    assert run.returncode != 0
    assert "events.proto" in run.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string worker = 4;", "string worker = 44;"),
        ("string worker = 4;", "uint64 worker = 4;"),
        ("string worker = 4;", ""),
        ("STATE_DONE = 2;", "STATE_DONE = 3;"),
    ],
    ids=["another number", "another type", "a field gone", "another enum value"],
)
def test_a_change_of_what_was_there_is_breaking(buf: Buf, copy: Path, old: str, new: str) -> None:
    spoil(copy / "bus.proto", old, new)
    run = buf("breaking", copy, "--against", RELEASED)
    assert run.returncode != 0
    assert "bus.proto" in run.stdout


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
