"""What the scripted upstream is told to do, and what it says it has seen. Tests and server share these types.

A script is a list of replies: the first request of a model gets the first one, and the last one is repeated for ever.
`replies` makes the usual ones.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter

ReasoningKey = Literal["reasoning_content", "reasoning"]

Base64 = Annotated[
    bytes,
    BeforeValidator(lambda given: base64.b64decode(given) if isinstance(given, str) else given),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str),
]


@dataclass(frozen=True, slots=True)
class Counts:
    """The tokens of an answer."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Role:
    """The first chunk of a choice: the role, and an empty content."""

    choice: int = 0
    kind: Literal["role"] = "role"


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str
    choice: int = 0
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks."""

    text: str
    key: ReasoningKey = "reasoning_content"
    choice: int = 0
    kind: Literal["reasoning"] = "reasoning"


@dataclass(frozen=True, slots=True)
class ToolPart:
    """A piece of a tool call. What is empty is left out, but a name always has arguments beside it."""

    index: int = 0
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """One chunk with pieces of tool calls."""

    parts: tuple[ToolPart, ...]
    choice: int = 0
    kind: Literal["tool_calls"] = "tool_calls"


@dataclass(frozen=True, slots=True)
class Finish:
    """The last chunk of a choice."""

    reason: str = "stop"
    text: str = ""
    """A last piece of the answer, in the same chunk."""
    usage: Counts | None = None
    """In the same chunk, too."""
    choice: int = 0
    kind: Literal["finish"] = "finish"


@dataclass(frozen=True, slots=True)
class Usage:
    """A chunk without choices that has the usage."""

    counts: Counts
    asked: bool = False
    """Only if the request has `stream_options.include_usage`; in a plain completion: always."""
    kind: Literal["usage"] = "usage"


@dataclass(frozen=True, slots=True)
class Event:
    """An event whose data is this JSON: an error in the middle of a stream, a chunk of another shape."""

    data: Any
    lines: bool = False
    """Over several `data:` lines."""
    kind: Literal["event"] = "event"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes as they are: broken JSON, `: ping`, a byte order mark, an `event:` line. Of a stream only."""

    data: Base64
    kind: Literal["raw"] = "raw"


@dataclass(frozen=True, slots=True)
class Done:
    """`data: [DONE]`."""

    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Pause:
    """Say nothing for a while. In a plain completion all pauses come before the headers."""

    seconds: float
    kind: Literal["pause"] = "pause"


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection here: `rst` resets it, `fin` closes it as a crashed process would, without the last chunk.

    A reset may take with it what the client has not read yet; a pause before lets it arrive. A plain completion is cut in
    the middle of its body.
    """

    how: Literal["rst", "fin"] = "rst"
    kind: Literal["cut"] = "cut"


@dataclass(frozen=True, slots=True)
class Stall:
    """Say nothing for ever. In a plain completion: not even the headers."""

    kind: Literal["stall"] = "stall"


@dataclass(frozen=True, slots=True)
class Endless:
    """Say this again and again. A plain completion gets blanks instead."""

    what: Text | Reasoning | Raw = field(default=Raw(b": ping\n\n"))
    every: float = 0.0
    """Seconds between two; 0: as fast as the client reads."""
    kind: Literal["endless"] = "endless"


Step = Annotated[
    Role | Text | Reasoning | ToolCalls | Finish | Usage | Event | Raw | Done | Pause | Cut | Stall | Endless,
    Field(discriminator="kind"),
]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to one request.

    With a `body` that is what is sent, for any path, and `steps` follow it. Without one a chat completion is made of
    `steps`, as a stream or plain, whichever the request asks for; embeddings and rankings are computed.
    """

    steps: tuple[Step, ...] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    """Take the place of the server's own, `content-length` too."""
    content_type: str = ""
    """Empty: `text/event-stream` for a stream, `application/json` for the rest."""
    body: str | None = None
    delay: float = 0.0
    """Seconds from the request to the headers."""
    framing: Literal["auto", "chunked", "length", "close"] = "auto"
    """How the client knows where the body ends; auto: chunked for streams and other bodies with steps, else length."""
    close: bool = False
    """Close the connection after the answer, and say so in the headers."""
    split: int = 0
    """Write what follows the headers in pieces of so many bytes, chunk sizes and all; 0: a write for each step."""
    split_seconds: float = 0.0
    """Between two pieces; 0: one turn of the loop."""
    joined: bool = False
    """Write steps that follow each other together, in a few large writes."""
    pace: float = 0.0
    """Steps each second; 0: at once. All streams share one timer."""
    eol: Literal["\n", "\r\n", "\r"] = "\n"
    """The line ends of a stream's events."""
    prefix: str = "data: "
    """What an event's lines begin with; the blank is optional in the format."""

    def but(self, **changes: Any) -> Reply:
        """The same reply with other fields."""
        return replace(self, **changes)

    def then(self, *steps: Step) -> Reply:
        """The same reply, going on with these steps."""
        return replace(self, steps=self.steps + steps)


Ended = Literal["complete", "client_closed", "server_cut"]


@dataclass(slots=True)
class Seen:
    """A request that was seen, and what became of its answer. Times are of `time.monotonic()`, alike in all processes."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name; several of one name are joined with a comma."""
    body: Any
    """The JSON; None: there was none."""
    connection: int
    """Requests with one number came over one connection."""
    at: float
    """When all of it had arrived."""
    ended: Ended | None = None
    """How the answer ended; None: it still goes on."""
    ended_at: float | None = None
    closed_at: float | None = None
    """When the connection was gone, whoever closed it."""


@dataclass(frozen=True, slots=True)
class Door:
    """What happens to new connections before anything is read, so before a TLS handshake, too."""

    delay: float = 0.0
    """Seconds until they are taken up."""
    reset: bool = False
    """Reset them."""


SCRIPT: TypeAdapter[list[Reply]] = TypeAdapter(list[Reply])
SEEN: TypeAdapter[list[Seen]] = TypeAdapter(list[Seen])
DOOR: TypeAdapter[Door] = TypeAdapter(Door)
