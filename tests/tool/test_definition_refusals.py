"""What is written wrongly is refused at import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, Field

from services.tool.definition import Parameters, ToolCaller, tool
from services.tool.errors import DefinitionError

from .conftest import Said, Span

pytestmark = pytest.mark.usefixtures("names_of_its_own")


def no_docstring(parameters: Span) -> Said:
    return Said(said="")


def no_parameters() -> Said:
    """怪。"""
    return Said(said="")


def two_parameters(parameters: Span, more: int) -> Said:
    """怪。"""
    return Said(said="")


def any_parameters(*parameters: Span) -> Said:
    """怪。"""
    return Said(said="")


def no_model(parameters: dict[str, str]) -> Said:
    """怪。"""
    return Said(said="")


def no_result(parameters: Span):  # type: ignore[no-untyped-def]
    """怪。"""


async def no_caller(parameters: Span) -> Said:
    """怪。"""
    return Said(said="")


async def other_caller(parameters: Span, caller: str) -> Said:
    """怪。"""
    return Said(said="")


async def asynchronous(parameters: Span, caller: ToolCaller) -> Said:
    """怪。"""
    return Said(said="")


def WrongName(parameters: Span) -> Said:
    """怪。"""
    return Said(said="")


class Loose(BaseModel):
    """A model that takes anything."""

    inner: int = Field(default=0, description="数")


class HoldsLoose(Parameters):
    """A model with a loose one in it."""

    loose: Loose = Field(description="松")


class Undescribed(Parameters):
    """A model that does not say what it takes."""

    text: str


class Endless(Parameters):
    """A model within itself."""

    more: list[Endless] = Field(description="更多")


def loose(parameters: Loose) -> Said:
    """怪。"""
    return Said(said="")


def holds_loose(parameters: HoldsLoose) -> Said:
    """怪。"""
    return Said(said="")


def undescribed(parameters: Undescribed) -> Said:
    """怪。"""
    return Said(said="")


def endless_model(parameters: Endless) -> Said:
    """怪。"""
    return Said(said="")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_docstring, "has no docstring"),
        (no_parameters, r"must take \(parameters: Model\)"),
        (two_parameters, r"must take \(parameters: Model\)"),
        (any_parameters, r"must take \(parameters: Model\)"),
        (no_model, "derived from Parameters"),
        (no_result, "must say what it returns"),
        (no_caller, r"caller: ToolCaller\)"),
        (other_caller, r"caller: ToolCaller\)"),
        (
            asynchronous,
            r"outside the sandbox, and its time limit .* say in_worker=True; otherwise make it a plain function",
        ),
        (WrongName, "must match"),
        (loose, "derived from Parameters"),
        (holds_loose, "accepts unknown names"),
        (undescribed, "has no description"),
        (endless_model, "refers to itself"),
    ],
)
def test_wrong_function_is_refused_at_import(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        tool(category="text")(function)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"category": "Text"}, "category 'Text'"),
        ({"category": "text", "seconds": 0}, "seconds"),
        ({"category": "text", "seconds": float("nan")}, "seconds"),
        ({"category": "text", "in_worker": True}, "is a plain function: in the worker it would stop all other calls"),
        ({"category": "text", "max_output_bytes": 10_000_000}, "max_output_bytes"),
    ],
)
def test_wrong_arguments_are_refused_at_import(arguments: dict[str, Any], said: str) -> None:
    def fine(parameters: Span) -> Said:
        """好。"""
        return Said(said="")

    with pytest.raises(DefinitionError, match=said):
        tool(**arguments)(fine)


def test_name_is_defined_once() -> None:
    def fine(parameters: Span) -> Said:
        """好。"""
        return Said(said="")

    def other(parameters: Span) -> Said:
        """好。"""
        return Said(said="")

    other.__name__ = "fine"
    tool(category="text")(fine)
    tool(category="text")(fine)
    with pytest.raises(DefinitionError, match="defined twice"):
        tool(category="text")(other)
