from __future__ import annotations

from typing import Literal

import pytest
from pydantic import BaseModel, Field, model_validator

from services.tool import definition
from services.tool.definition import Parameters, Tool, tool
from services.tool.errors import Refusal


class Span(Parameters):
    """Part of a text."""

    start: int = Field(description="起点", ge=0)
    end: int = Field(default=10, description="终点", le=100)


class Wanted(Parameters):
    """What the example wants."""

    text: str = Field(description="正文", min_length=1, max_length=20)
    words: list[str] = Field(default=[], description="词", max_length=3)
    order: Literal["up", "down"] = Field(default="up", description="次序")
    span: Span | None = Field(default=None, description="范围")
    share: float = Field(default=0.5, description="占比", gt=0, lt=1)
    strict: bool = Field(default=False, description="严格")

    @model_validator(mode="after")
    def _not_both(self) -> Wanted:
        if self.strict and self.words:
            raise Refusal("words must be empty when strict is true", "strict 为 true 时 words 应为空")
        return self


class Said(BaseModel):
    """What the example returns."""

    said: str


@pytest.fixture
def names_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition, "_defined", {})


def make() -> Tool[Wanted, Said]:
    @tool(category="text", seconds=2.0)
    def example(parameters: Wanted) -> Said:
        """数一数 text 里的字，
        并用 JSON object 回答。

        Not for models.
        """
        return Said(said=parameters.text)

    return example
