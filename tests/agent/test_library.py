"""The files of the agents: what an editor may change, and how a mistake is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from qingyu_ai.routes import AGENT_TYPES
from qingyu_ai.settings import SettingsError
from services.agent.lenient import read
from services.agent.library import SHIPPED, open_library
from services.agent.prompting import plan

from .scripted import Box, request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "agents")
    return tmp_path / "agents"


def change(folder: Path, agent: str, **fields: Any) -> None:
    file = folder / "agents.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    found[agent] |= fields
    file.write_text(yaml.safe_dump(found, allow_unicode=True), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(SettingsError) as error:
        open_library(folder)
    return str(error.value)


def test_an_editor_changes_prompt_temperature_tools_and_limits(folder: Path) -> None:
    (folder / "review.md").write_text("# 审稿\n\n" + "只看错别字，一条一行，没有就说没有。" * 4, encoding="utf-8")
    limits = {"steps": 3, "calls": 2, "tokens": 5000, "answer_tokens": 300, "seconds": 20, "retries": 0}
    change(folder, "review", temperature=0.1, limits=limits, tools={"my_tool": "先用它。"})
    agent = open_library(folder).find("review")
    assert agent is not None
    task = plan(agent, request("review", tools=["my_tool"]), Box().with_tool("my_tool"))
    assert task.turns[0].content.startswith("# 审稿")
    assert task.turns[0].content.endswith("- my_tool：先用它。")
    assert (task.temperature, task.limits.steps, task.limits.answer_tokens) == (0.1, 3, 300)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": 9}, "outline.temperature is 9; Input should be less than or equal to 2"),
        ({"temperature": "warm"}, "outline.temperature is 'warm'"),
        ({"temprature": 1}, "outline.temprature is no field of an agent"),
        ({"prompt": "nowhere.md"}, "outline.prompt: "),
        ({"prompt": "../outline.md"}, "outline.prompt is '../outline.md'; it must be the name of a file beside it"),
        ({"shape": "novel"}, "outline.shape is 'novel'; there are characters, outline, plot, review"),
        ({"shape_prompt": ""}, "outline.shape and outline.shape_prompt belong together"),
        ({"shape": "review"}, "outline.json.md: its JSON example does not hold as review: score：缺少这个字段"),
        ({"tools": {"No Tool": "x"}}, "outline.tools.No Tool is no tool name"),
        ({"limits": {"steps": 0}}, "outline.limits.steps is 0; Input should be greater than or equal to 1"),
        ({"limits": {}}, "outline.limits.seconds is missing"),
    ],
)
def test_a_mistake_is_refused_with_file_and_field(folder: Path, fields: dict[str, Any], said: str) -> None:
    change(folder, "outline", **fields)
    assert said in refusal(folder)
    assert str(folder) in refusal(folder)


def test_an_empty_prompt_is_refused(folder: Path) -> None:
    (folder / "plot.md").write_text("写。", encoding="utf-8")
    assert refusal(folder).endswith("plot.md: has 2 characters; a prompt has at least 40")


def test_a_prompt_that_is_no_utf_8_is_refused(folder: Path) -> None:
    (folder / "plot.md").write_bytes("情节".encode("gb18030") * 100)
    assert "plot.md cannot be read as UTF-8 text" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping"),
        ("creative: [", "is no YAML"),
        ("poet: {}", "does not have creative, outline, character, plot, review and has poet"),
    ],
)
def test_a_file_of_another_form_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "agents.yaml").write_text(text, encoding="utf-8")
    assert said in refusal(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "agents.yaml cannot be read" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", AGENT_TYPES)
def test_the_shipped_agents_hold(name: str) -> None:
    agent = open_library().find(name)
    assert agent is not None
    for section in ("# 你是谁", "# 你拿到什么", "# 工具"):
        assert section in agent.prompt
    assert "答案的样子" in agent.prompt
    assert (agent.shape is None) == (name == "creative")
    if agent.shape is not None:
        example, _ = next(read(agent.shape_prompt))
        described = set(agent.shape.model_fields)
        assert set(example) == described  # the model is told of every field
        assert json.loads(agent.shape.model_validate(example).model_dump_json()) == example
