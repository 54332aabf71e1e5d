"""The demo with the real processes: the first thing that a new person runs."""

from __future__ import annotations

import json
import re
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
    for kind in ("reasoning ", "text      "):
        assert re.search(rf"^ +\d+\.\d\d s  {kind}  ", result.stdout, re.MULTILINE)
    started = re.findall(r"tool_start  (\w+) (\{.+\})$", result.stdout, re.MULTILINE)
    ended = re.findall(r"tool_end    (\w+) \d+ 毫秒 · ms → (\{.+\})$", result.stdout, re.MULTILINE)
    assert [name for name, _ in started] == ["text_statistics", "character_names", "search_knowledge"]
    given = [json.loads(parameters) for _, parameters in started]
    assert all(one["text"].startswith("沈砚没有对任何人说起昨夜的事。") for one in given[:2])
    assert given[2]["query"].startswith("接着写两三句，交代闻渡当年")
    results = {name: json.loads(result) for name, result in ended}
    assert results["text_statistics"]["zi"] == 328
    assert [one["name"] for one in results["character_names"]["characters"]] == ["沈砚", "许七"]
    passages = results["search_knowledge"]["passages"]
    assert passages[0]["document_id"].endswith("/5")
    assert (
        "客人闻渡，以左耳听觉抵账" in result.stdout[result.stdout.index("八、") :]
    )  # the model says what the tool found
    assert "store: PostgreSQL " in result.stdout
    assert "7 of 7 stored" in result.stdout
    assert "⟦孩子⟧的手，指节冻得发青，掌心里攥着一枚铜钱" in result.stdout
    assert "DeleteDocument: 7 of 7" in result.stdout
    events, socket = result.stdout[result.stdout.index("九、") :].split("十、WebSocket")
    before, after = events.split("⟦断线，续读 · cut off, and read on⟧")
    sizes = re.search(r"^  (\d+) \+ (\d+) 字 · characters, /api/v1/ai/calls/req_\w+/stream$", after, re.MULTILINE)
    assert sizes is not None
    assert len(before.partition("answers: ")[2]) == int(sizes[1]) >= 30
    assert int(sizes[2]) > 30
    assert re.search(r"^答 · answers: \S+", socket, re.MULTILINE)
    assert re.search(r"^  \d+ 块 · chunks, req_\w+$", socket, re.MULTILINE)
    assert result.stdout.count("final chunk: completed, 模型 · model: offline, stop") == 2
    assert result.stdout.rstrip().endswith("The demo worked: everything started, answered and stopped.")
