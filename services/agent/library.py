"""Which agents there are: their prompts, temperature, tools and limits, read from files that an editor may change.

`agents.yaml` names the prompt files beside it. Everything is read and checked once, when the worker starts: a mistake is refused
in a sentence that names the file and the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qingyu_ai.bus import subjects
from qingyu_ai.routes import AGENT_TYPES
from qingyu_ai.settings import SettingsError

from .checking import check
from .shapes import SHAPES, Shape

SHIPPED = Path(__file__).parent / "agents"
"""The files of this release."""

FILE = "agents.yaml"

LEAST_PROMPT = 40
"""Characters. A prompt file that is shorter was emptied by mistake."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Part):
    """What one execution may use. A request may ask for fewer tokens, and for another time and number of retries."""

    steps: Annotated[int, Field(ge=1, le=50)]
    """Requests to the model; the last one is made without tools, so that it answers."""
    calls: Annotated[int, Field(ge=1, le=32)]
    """Tools that the model may call in one step."""
    asked: Annotated[int, Field(ge=1, le=256)] = 32
    """Calls of one step that are answered: those beyond `calls` with a refusal. What is beyond this is left out."""
    tokens: Annotated[int, Field(ge=1000, le=10_000_000)]
    """Prompt and completion over all steps. Once they are used up, the model is asked for its answer."""
    answer_tokens: Annotated[int, Field(ge=16, le=1_000_000)]
    """The answer, where the request does not say `max_tokens`."""
    seconds: Annotated[int, Field(ge=1, le=3600)]
    """The whole, where the request does not say `timeout_seconds`."""
    retries: Annotated[int, Field(ge=0, le=20)]
    """How often a failed step is tried again, where the request does not say `max_retries`."""

    @property
    def kept(self) -> int:
        """`asked`, and at least one refusal, so that the model is told."""
        return max(self.asked, self.calls + 1)


class Entry(_Part):
    """One agent in the file."""

    prompt: str
    """File with the prompt."""
    temperature: Annotated[float, Field(ge=0, le=2)]
    limits: Limits
    tools: dict[str, str] = Field(default_factory=dict)
    """By tool: when this agent is to use it. Said to the model if the request offers the tool."""
    shape: str = ""
    """Name of the JSON shape of its answer; empty: it writes text only."""
    shape_prompt: str = ""
    """File that describes the shape to the model, with an example that holds."""


class Agent(_Part):
    """One agent, ready to work."""

    name: str
    prompt: str
    temperature: float
    limits: Limits
    tools: dict[str, str]
    shape: type[Shape] | None
    shape_prompt: str


class Library:
    """The agents.

    Args:
        agents: by name, all of `routes.AGENT_TYPES`.
    """

    def __init__(self, agents: Mapping[str, Agent]) -> None:
        self._agents = agents

    def __repr__(self) -> str:
        return f"<Library {sorted(self._agents)}>"

    def find(self, name: str) -> Agent | None:
        """An agent by its name."""
        return self._agents.get(name)


def open_library(folder: Path | None = None) -> Library:
    """Read the files.

    Args:
        folder: with `agents.yaml`; None: those of this release.

    Raises:
        SettingsError: a file cannot be read, or does not hold; the message names file and field.
    """
    folder = folder or SHIPPED
    file = folder / FILE
    try:
        found = yaml.safe_load(_read(file))
    except yaml.YAMLError as e:
        raise SettingsError(f"{file} is no YAML: {' '.join(str(e).split())}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{file} must be a mapping: the name of an agent, and its fields below it")
    missing = [name for name in AGENT_TYPES if name not in found]
    unknown = [str(name) for name in found if name not in AGENT_TYPES]
    if missing or unknown:
        said = [f"does not have {', '.join(missing)}"] if missing else []
        said += [f"has {', '.join(unknown)}, which the contract does not know"] if unknown else []
        raise SettingsError(f"{file} {' and '.join(said)}; the agents are {', '.join(AGENT_TYPES)}")
    return Library({name: _agent(file, name, found[name]) for name in AGENT_TYPES})


def _agent(file: Path, name: str, fields: Any) -> Agent:
    try:
        entry = Entry.model_validate(fields)
    except ValidationError as e:
        raise SettingsError("\n".join(_complaint(file, name, error) for error in e.errors())) from None
    for tool in entry.tools:
        if not subjects.TOOL_NAME.fullmatch(tool):
            raise SettingsError(f"{file}: {name}.tools.{tool} is no tool name: lower-case letters, digits and _")
    shape = SHAPES.get(entry.shape)
    if entry.shape and shape is None:
        raise SettingsError(f"{file}: {name}.shape is {entry.shape!r}; there are {', '.join(sorted(SHAPES))}")
    if bool(entry.shape) != bool(entry.shape_prompt):
        raise SettingsError(f"{file}: {name}.shape and {name}.shape_prompt belong together; set both or neither")
    shape_prompt = ""
    if shape is not None:
        shape_prompt = _text(file, f"{name}.shape_prompt", entry.shape_prompt)
        checked = check(shape, shape_prompt)
        if checked.problem:
            path = file.parent / entry.shape_prompt
            raise SettingsError(f"{path}: its JSON example does not hold as {entry.shape}: {checked.problem}")
    return Agent(
        name=name,
        prompt=_text(file, f"{name}.prompt", entry.prompt),
        temperature=entry.temperature,
        limits=entry.limits,
        tools=entry.tools,
        shape=shape,
        shape_prompt=shape_prompt,
    )


def _complaint(file: Path, name: str, error: Any) -> str:
    where = ".".join((name, *map(str, error["loc"])))
    if error["type"] == "missing":
        return f"{file}: {where} is missing"
    if error["type"] == "extra_forbidden":
        return f"{file}: {where} is no field of an agent"
    return f"{file}: {where} is {error['input']!r:.80}; {error['msg']}"


def _text(file: Path, field: str, name: str) -> str:
    path = file.parent / name
    if not name or path.parent != file.parent:
        raise SettingsError(f"{file}: {field} is {name!r}; it must be the name of a file beside it")
    text = _read(path, f"{file}: {field}: ").strip()
    if len(text) < LEAST_PROMPT:
        raise SettingsError(f"{path}: has {len(text)} characters; a prompt has at least {LEAST_PROMPT}")
    return text


def _read(path: Path, before: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{before}{path} cannot be read as UTF-8 text ({e})") from None
