"""The sections of the settings that are not about models: processes, the bus and its broker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FilePath, model_validator

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

KIB = 1024
MIB = 1024 * KIB

MCP_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""What a server may be called here: the beginning of its tools' names, and their category."""


class Section(BaseModel):
    """A part of the settings that knows no names but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Log(Section):
    """How a process logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
    calls: bool = False
    """One line for each finished call. It costs the bridge a few per cent of its CPU, and metrics count the same."""


PemFile = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A file of certificates or a key. An empty variable is one that is not set."""


class Trace(Section):
    """Traces (docs/observability.md). OpenTelemetry's own variables count, too."""

    endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    """The collector that takes them, OTLP over gRPC: http://127.0.0.1:4317. Empty here and there: no traces."""
    flush_seconds: Seconds = 2.0
    """For the last spans of a process that ends."""


def need_both(cert_file: Path | None, key_file: Path | None) -> None:
    """Check that a certificate comes with its key.

    Raises:
        ValueError: one of both is missing.
    """
    if (cert_file is None) != (key_file is None):
        there, missing = ("cert_file", "key_file") if key_file is None else ("key_file", "cert_file")
        raise ValueError(f"{there} is set, and {missing}, which belongs to it, is not")


def _number(value: object) -> object:
    """A Literal compares without converting, and the environment has only texts."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class Bus(Section):
    """The bus protocol's times and sizes (docs/bus-protocol.md). Every process of a deployment shares them."""

    beat_seconds: Seconds = 2.5
    lease_seconds: Seconds = 10.0
    ack_wait_seconds: Seconds = 10.0
    in_progress_seconds: Seconds = 3.0
    patience_seconds: Seconds = 20.0
    """How long the broker may take to store something before it is given up: servers of a cluster that lost a leader vote for up
    to nine seconds."""
    watchdog_seconds: Seconds = 30.0
    """A process whose event loop has not turned for so long ends itself: what it holds goes on elsewhere."""
    attempts: Annotated[int, Field(ge=3)] = 5
    """Workers that may be lost over one job before it is put aside. Only from the third on are they lost while it was alone."""
    suspect_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Between two runs of a job that has lost a worker while it was alone; doubled each time. Others kill workers too."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often the same request id may try again after a failure that waiting can mend."""
    frame_ack_seconds: Seconds = 1.0
    store_seconds: Seconds = 2.0
    """How long to wait for the queue or the record bucket to acknowledge one write, before it is tried again."""
    window_frames: Annotated[int, Field(ge=1)] = 256
    """Deltas that may be on their way to one reader, and chunks that a bridge holds for it."""
    window_bytes: Annotated[int, Field(ge=KIB)] = 256 * KIB
    call_log_bytes: Annotated[int, Field(ge=KIB)] = 4 * MIB
    joined_readers: Annotated[int, Field(ge=1)] = 1000
    """Calls that one bridge reads by a consumer of their own: joined, or read again."""
    lingering_calls: Annotated[int, Field(ge=0)] = 4000
    """Calls of one bridge that wait for their caller to come back; one more is cancelled at once."""
    log_age_seconds: Seconds = 20 * 60.0
    log_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    queue_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    record_age_seconds: Seconds = 24 * 3600.0
    record_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    dead_letter_age_seconds: Seconds = 30 * 24 * 3600.0
    dead_letter_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    events_age_seconds: Seconds = 7 * 24 * 3600.0
    events_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    """About 1.6 million events. When it is full the oldest go, whether everybody has heard them or not."""
    events_per_second: Annotated[int, Field(ge=0)] = 2000
    """Events of one process that may be shed. What is beyond it is counted and dropped; 0: none is sent."""
    session_age_seconds: Seconds = 7 * 24 * 3600.0
    session_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    tool_lease_seconds: Seconds = 10.0
    """How long a tool is listed after its worker has said for the last time that it has it."""
    tool_bytes: Annotated[int, Field(ge=MIB)] = 16 * MIB
    merge: bool = True
    """Neighbouring deltas that wait anyway become one stream message. Off: each delta stays a message of its own."""
    replicas: Annotated[Literal[1, 3, 5], BeforeValidator(_number)] = 1
    make_streams: bool = True
    """Whether each process makes the streams that are missing. False: `python -m qingyu_ai.streams` does, and the others wait for
    them, so that no worker needs the right to make one."""
    default_deadline_seconds: Seconds = 600.0
    """For a call whose caller set no deadline."""
    longest_deadline_seconds: Seconds = 900.0
    """A longer deadline is cut to this one; it must stay below the log's age."""


class Worker(Section):
    """What every kind of worker has."""

    slots: Annotated[int, Field(ge=1)] = 256
    """Jobs that run at once in one process, and as many rpc calls beside them."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 0
    """0: no metrics endpoint."""
    drain_seconds: Seconds = 30.0


class Chat(Worker):
    """The chat worker."""

    processes: Annotated[int, Field(ge=0, le=64)] = 1
    metrics_port: Port = 9564
    """Kinds are a hundred apart, because `up` gives each process of a kind the next port."""
    system_prompt: str = ""
    session_messages: Annotated[int, Field(ge=2)] = 200
    session_max_bytes: Annotated[int, Field(ge=KIB)] = 256 * KIB


class McpServer(Section):
    """One server: a program that is started, or an address."""

    command: str = ""
    """The program; it speaks MCP over its standard input and output, and ends with the worker."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    """Its environment. It has this, what `pass_env` names, and PATH; nothing else of the worker's."""
    pass_env: tuple[str, ...] = ()
    """Variables of the worker that it gets, too: a key does not belong into a file that is kept."""
    url: Annotated[str, Field(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    """Instead of a program: where a server listens that speaks streamable HTTP, such as http://127.0.0.1:8000/mcp"""
    header_env: dict[str, str] = Field(default_factory=dict)
    """By header, such as Authorization: the environment variable that holds its value."""
    tools: tuple[str, ...] = ()
    """The server's own names of those that are offered; empty: all."""
    requires_auth: bool = False
    """Whether its tools are for verified users only."""
    repeatable: bool | None = None
    """Whether a call that may have run can run again without harm. None: as the server says of each tool; of one that it says
    nothing about, no."""
    connect_seconds: Seconds = 20.0
    """Until it has listed its tools; after that the worker starts without it and tries again."""
    seconds: Annotated[float, Field(gt=0, le=300)] = 60.0
    """That a call may take."""
    max_output_bytes: Annotated[int, Field(ge=1, le=512 * KIB)] = 64 * KIB
    """Of a result's JSON."""
    max_message_bytes: Annotated[int, Field(ge=KIB)] = 4 * MIB
    """Of one message of the server; one that says more is no server and is left."""
    probe_seconds: Seconds = 10.0
    """Between two looks whether a server with an address is still there. A program is seen to end at once."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> McpServer:
        if bool(self.command) == bool(self.url):
            raise ValueError("set command or url, one of both")
        if self.url and (self.args or self.env or self.pass_env):
            raise ValueError("args, env and pass_env are for command, and url is set")
        if self.command and self.header_env:
            raise ValueError("header_env is for url, and command is set")
        return self


class Tool(Worker):
    """The tool worker."""

    processes: Annotated[int, Field(ge=0, le=64)] = 1
    metrics_port: Port = 9764
    modules: tuple[str, ...] = ("services.tool.builtin",)
    """Python modules whose tools this worker has (docs/adding-a-tool.md)."""
    words_file: Path | None = None
    """The deployment's list for the tool sensitive_words, UTF-8, one word a line. None: the short one of this release."""
    children: Annotated[int, Field(ge=1, le=64)] = 2
    """Processes in which tools run; calls beyond them wait, and users take turns."""
    wait_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    """How long a call waits for one of them; then it is refused, to be tried again."""
    child_memory_bytes: Annotated[int, Field(ge=16 * MIB)] = 256 * MIB
    """What one call may use, besides the interpreter."""
    mcp: dict[str, McpServer] = Field(default_factory=dict)
    """MCP servers whose tools this worker offers, by a short name: tool `read` of `files` is offered as `files_read`."""
    caller_keys_file: FilePath | None = None
    """Verifies that calls of tools with `requires_auth` are their users': the public keys of all who may sign such calls, PEM
    (Ed25519). None: such tools run for nobody."""
    mcp_signing_key_file: FilePath | None = None
    """Signs such calls for `python -m services.tool.mcp`: a private key, PEM (Ed25519)."""
    mcp_user: str = ""
    """As whom `python -m services.tool.mcp` calls tools; empty: as nobody."""

    @model_validator(mode="after")
    def _prefixes_hold(self) -> Tool:
        for prefix in self.mcp:
            if not MCP_PREFIX.fullmatch(prefix):
                raise ValueError(f"mcp.{prefix}: the name of a server must be of the form {MCP_PREFIX.pattern}")
        return self


class Agent(Worker):
    """The agent worker."""

    processes: Annotated[int, Field(ge=0, le=64)] = 1
    metrics_port: Port = 9664
    agents_dir: Path | None = None
    """Folder with `agents.yaml` and the prompts that it names; None: those of this release (docs/agents.md)."""
    signing_key_file: FilePath | None = None
    """Signs calls of tools with `requires_auth`: a private key, PEM (Ed25519). None: agents cannot call such tools."""
