"""The demo with the real processes: the first thing that a new person runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_the_demo_starts_everything_takes_the_tour_and_stops_cleanly() -> None:
    command = [sys.executable, "-m", "qingyu_ai.cli", "demo"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "全部完成 · all done" in result.stdout
    assert result.stdout.rstrip().endswith("The demo worked: everything started, answered and stopped.")
