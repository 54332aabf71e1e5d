"""A tool of another team: how many characters a day reach a goal. docs/adding-a-tool.md runs it in a process of its own."""

from __future__ import annotations

from pydantic import BaseModel, Field

from services.tool.definition import Parameters, tool
from services.tool.errors import ToolFailed


class Progress(Parameters):
    """How far a book is."""

    written: int = Field(description="已写字数", ge=0)
    goal: int = Field(description="目标字数", ge=1)
    days_left: int = Field(description="剩余天数", ge=0)


class Plan(BaseModel):
    """What is left to do."""

    left: int
    a_day: int


@tool(category="planning")
def daily_goal(parameters: Progress) -> Plan:
    """根据已写字数、目标字数和剩余天数，计算还差多少字、每天需要写多少字（向上取整）。"""
    left = max(0, parameters.goal - parameters.written)
    if left and not parameters.days_left:
        raise ToolFailed(f"{left} characters are left and no day", f"还差 {left} 字，但已没有剩余天数")
    return Plan(left=left, a_day=-(-left // parameters.days_left) if left else 0)
