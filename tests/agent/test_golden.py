"""What the models are told for five requests of each agent is what it was when somebody looked at it last."""

from __future__ import annotations

import json

import pytest

from qingyu_ai.routes import AGENT_TYPES

from .golden_requests import BEFORE, FOLDER, SHEET, golden, requests


@pytest.mark.parametrize("agent", AGENT_TYPES)
def test_messages_are_as_they_were(agent: str) -> None:
    written = (FOLDER / f"{agent}.json").read_text(encoding="utf-8")
    assert golden(agent) == written, "look at the difference, then: python -m tests.agent.golden_requests"


@pytest.mark.parametrize("agent", AGENT_TYPES)
def test_the_messages_hold_what_the_request_gives(agent: str) -> None:
    bodies = json.loads(golden(agent))
    assert len(bodies) == len(requests(agent)) == 5
    system, user = bodies["context"]["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert f'<资料 名称="前文">\n{BEFORE}\n</资料>' in user["content"]
    assert f'<资料 名称="人物">\n{SHEET}\n</资料>' in user["content"]
    assert user["content"].endswith(f"<任务>\n{requests(agent)['context'].task}\n</任务>")
    assert "tools" not in bodies["plain"]
    assert len(bodies["tools"]["tools"]) == 5
    assert "not_there" in bodies["tools"]["messages"][0]["content"]
    assert (bodies["options"]["temperature"], bodies["options"]["max_tokens"]) == (0.35, 1200)
    assert ("JSON" in bodies["options"]["messages"][0]["content"]) == (agent != "creative")
    hostile = bodies["hostile"]["messages"][1]["content"]
    assert hostile.count("</资料>") == hostile.count("</任务>") == hostile.count("<任务>") == 1
    assert "format" not in hostile
