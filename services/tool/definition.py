"""What a tool is: a typed Python function with one parameter model, and what callers may know of it.

    @tool(category="text")
    def text_statistics(parameters: Parameters) -> Statistics:
        \"\"\"统计文本的字数……\"\"\"

A plain function is computed: it runs in a child process of the sandbox, and gets nothing but its parameters. An `async`
function takes a `ToolCaller` besides, runs in the worker itself, where nothing is kept from it, and asks other services. It is
made a tool with `in_worker=True`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict

from .complaints import read_parameters
from .errors import DefinitionError, OutputTooLarge
from .schema import Schema, digest_of, schema_of, type_of

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a tool may be called: also a token of a bus subject, and a function's name for every model."""

LONGEST_SECONDS = 300.0
LARGEST_OUTPUT = 512 * 1024
"""Bytes: a result must fit into one message of the bus."""


class Parameters(BaseModel):
    """Base of all parameter models: strict types, no unknown names, no changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


P = TypeVar("P", bound=Parameters)
R = TypeVar("R")


class ToolCaller(Protocol):
    """Whom an asking tool works for, and its way to other services. The worker makes one for each call."""

    @property
    def user(self) -> str:
        """The verified user; empty: there is none."""

    @property
    def project(self) -> str:
        """The project of the call; empty: there is none."""

    @property
    def seconds_left(self) -> float:
        """Until the caller's deadline."""

    async def ask(self, path: str, request: bytes) -> bytes:
        """Call another service.

        Args:
            path: its method, such as `/qingyu.ai.rag.RAGService/Search`.
            request: the encoded request.

        Returns:
            The encoded reply.

        Raises:
            Fault: the other service's own error, or that it cannot be reached.
        """


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """One parameter, as the contract's ToolParameter declares it."""

    name: str
    type: str
    """In JSON Schema's words."""
    description: str
    required: bool
    default_value: str
    """What an absent value means, as JSON; empty for a required one."""


@dataclass(frozen=True, eq=False)
class Tool(Generic[P, R]):
    """A tool. Made by the decorator `tool`, in whose place it stands."""

    name: str
    description: str
    category: str
    model: type[P]
    function: Callable[..., Any]
    is_computed: bool
    """Whether it runs in the sandbox; otherwise it is async and takes a ToolCaller."""
    requires_auth: bool
    repeatable: bool
    """Whether a call that may have run can run again without harm."""
    seconds: float
    """That a call may take."""
    max_output_bytes: int
    _prepare: list[Callable[[Any], None]] = field(default_factory=list, repr=False)

    def __call__(self, parameters: P) -> R:
        """Run a computed tool here, without a sandbox."""
        if not self.is_computed:
            raise TypeError(f"{self.name} is asynchronous: await its function with a ToolCaller")
        result: R = self.function(parameters)
        return result

    @property
    def module(self) -> str:
        """Where it is defined."""
        return self.function.__module__

    @cached_property
    def schema(self) -> Schema:
        """The JSON schema of its parameters."""
        return schema_of(self.model)

    @cached_property
    def schema_digest(self) -> str:
        """SHA-256 of its name and schema: two workers that serve one name must agree on it."""
        return digest_of(self.name, self.schema)

    @cached_property
    def function_schema(self) -> Schema:
        """How it is described to a model that calls functions."""
        return {"name": self.name, "description": self.description, "parameters": self.schema}

    @cached_property
    def parameters(self) -> tuple[ParameterInfo, ...]:
        """Its parameters, in order."""
        required = self.schema.get("required", ())
        return tuple(
            ParameterInfo(
                name=name,
                type=type_of(value),
                description=value["description"],
                required=name in required,
                default_value="" if name in required else json.dumps(value.get("default"), ensure_ascii=False),
            )
            for name, value in self.schema["properties"].items()
        )

    def read(self, parameters: str) -> P:
        """Check parameters given as JSON.

        Raises:
            InvalidParameters: they are not what the tool declares.
        """
        return read_parameters(self.name, self.model, self.schema, parameters)

    def encode(self, result: object) -> str:
        """Write a result as JSON.

        Raises:
            OutputTooLarge: it is longer than `max_output_bytes`, in UTF-8.
            TypeError, ValueError: it is no JSON (a NaN, half a surrogate pair, an object of a class). A defect of the tool.
        """
        plain = result.model_dump(mode="python") if isinstance(result, BaseModel) else result
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        size = len(text.encode())
        if size > self.max_output_bytes:
            raise OutputTooLarge(self.name, size, self.max_output_bytes)
        return text

    def prepare(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Decorate what takes the tool's settings, once in each child, before its first call."""
        self._prepare.append(function)
        return function

    def set_up(self, settings: object) -> None:
        """Give the tool its settings: JSON-able, the same in each child."""
        if not self._prepare:
            raise DefinitionError(f"Tool {self.name} takes no settings: nothing is decorated with @{self.name}.prepare")
        for function in self._prepare:
            function(settings)


def _plain(value: object) -> object:
    """What JSON has no form for by itself: nested models."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="python")
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class _Decorator(Protocol):
    @overload
    def __call__(self, function: Callable[[P, ToolCaller], Awaitable[R]]) -> Tool[P, R]: ...
    @overload
    def __call__(self, function: Callable[[P], R]) -> Tool[P, R]: ...


_defined: dict[str, str] = {}
"""Where each name is defined, in this process."""


def tool(
    *,
    category: str,
    requires_auth: bool = False,
    repeatable: bool = True,
    seconds: float = 5.0,
    max_output_bytes: int = 64 * 1024,
    in_worker: bool = False,
) -> _Decorator:
    """Make a tool of a function.

    The function's name is the tool's; the first paragraph of its docstring describes it to people and models.

    Args:
        category: for lists, such as `text`.
        requires_auth: it runs for verified users only.
        repeatable: a call that may have run can run again without harm.
        seconds: that a call may take.
        max_output_bytes: of the result's JSON.
        in_worker: an `async` function must say so: it runs in the worker, which keeps nothing from it.

    Raises:
        DefinitionError: the function cannot be a tool. The message says what to change.
    """

    def decorate(function: Callable[..., Any]) -> Tool[Any, Any]:
        name = function.__name__
        if not NAME.fullmatch(name):
            raise DefinitionError(f"Tool {name!r}: its name must match {NAME.pattern}")
        if not NAME.fullmatch(category):
            raise DefinitionError(f"Tool {name}: its category {category!r} must match {NAME.pattern}")
        if not 0 < seconds <= LONGEST_SECONDS:
            raise DefinitionError(f"Tool {name}: its seconds must be above 0 and at most {LONGEST_SECONDS:g}")
        if not 0 < max_output_bytes <= LARGEST_OUTPUT:
            raise DefinitionError(f"Tool {name}: its max_output_bytes must be from 1 to {LARGEST_OUTPUT}")
        made: Tool[Any, Any] = Tool(
            name=name,
            description=_description(function),
            category=category,
            model=_model(function),
            function=function,
            is_computed=not inspect.iscoroutinefunction(function),
            requires_auth=requires_auth,
            repeatable=repeatable,
            seconds=seconds,
            max_output_bytes=max_output_bytes,
        )
        _check_place(name, not made.is_computed, in_worker)
        _ = made.parameters  # a schema that does not hold must fail now
        place = f"{function.__module__}.{function.__qualname__}"
        if _defined.setdefault(name, place) != place:
            raise DefinitionError(f"Tool {name} is defined twice: in {_defined[name]} and in {place}")
        return made

    return decorate


def _check_place(name: str, is_async: bool, in_worker: bool) -> None:
    if is_async and not in_worker:
        raise DefinitionError(
            f"Tool {name} is async, so it would run in the worker itself, with its environment, files and memory, outside the "
            "sandbox, and its time limit would hold only where it awaits. If it must ask other services, say in_worker=True; "
            "otherwise make it a plain function, which runs in the sandbox"
        )
    if in_worker and not is_async:
        raise DefinitionError(
            f"Tool {name} is a plain function: in the worker it would stop all other calls. Leave in_worker out, or make it async"
        )


def _description(function: Callable[..., Any]) -> str:
    paragraph = (inspect.getdoc(function) or "").split("\n\n")[0].strip()
    if not paragraph:
        raise DefinitionError(f"Tool {function.__name__} has no docstring; its first paragraph is what models are told")
    # A line break inside Chinese is no space.
    return re.sub(r"(?<=[\x21-\x7e])\n(?=[\x21-\x7e])", " ", paragraph).replace("\n", "")


def _model(function: Callable[..., Any]) -> type[Parameters]:
    """The parameter model of a function, whose signature is checked."""
    name = function.__name__
    is_async = inspect.iscoroutinefunction(function)
    wanted = "(parameters: Model, caller: ToolCaller)" if is_async else "(parameters: Model)"
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise DefinitionError(f"Tool {name}: its annotations cannot be read: {error}") from None
    taken = list(inspect.signature(function).parameters.values())
    plain = all(one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for one in taken)
    if not plain or len(taken) != (2 if is_async else 1):
        raise DefinitionError(f"Tool {name} must take {wanted}")
    model = hints.get(taken[0].name)
    if not (isinstance(model, type) and issubclass(model, Parameters)):
        raise DefinitionError(f"Tool {name} must take {wanted}, with a model derived from Parameters")
    if is_async and hints.get(taken[1].name) is not ToolCaller:
        raise DefinitionError(f"Tool {name} must take {wanted}")
    if hints.get("return") in (None, type(None)):
        raise DefinitionError(f"Tool {name} must say what it returns: a pydantic model, or what JSON can hold")
    return model
