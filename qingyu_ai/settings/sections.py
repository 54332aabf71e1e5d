"""The sections of the settings that are not about models: processes, the bus and its broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

KIB = 1024
MIB = 1024 * KIB


class Section(BaseModel):
    """A part of the settings that knows no names but its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Log(Section):
    """How a process logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
    calls: bool = False
    """One line for each finished call. It costs the bridge a few per cent of its CPU, and metrics count the same."""


class Nats(Section):
    """The broker: where it is, and where `up` puts its own."""

    url: str = ""
    """Servers to use, comma separated; empty: `up` starts one from the wheel. `NATS_URL` sets it too."""
    host: str = "127.0.0.1"
    port: Port = 4222
    monitor_port: Port = 8222
    route_port: Port = 6222
    """Between the servers that `cluster` starts; each server has the next port of all three."""

    @property
    def servers(self) -> list[str]:
        """The addresses to connect to."""
        return [s.strip() for s in (self.url or f"nats://{self.host}:{self.port}").split(",") if s.strip()]


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
    attempts: Annotated[int, Field(ge=1)] = 5
    """Workers that may be lost over one job before it is put aside."""
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
    session_age_seconds: Seconds = 7 * 24 * 3600.0
    session_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    tool_lease_seconds: Seconds = 10.0
    """How long a tool is listed after its worker has said for the last time that it has it."""
    tool_bytes: Annotated[int, Field(ge=MIB)] = 16 * MIB
    merge: bool = True
    """Neighbouring deltas that wait anyway become one stream message. Off: each delta stays a message of its own."""
    replicas: Annotated[Literal[1, 3, 5], BeforeValidator(_number)] = 1
    default_deadline_seconds: Seconds = 600.0
    """For a call whose caller set no deadline."""
    longest_deadline_seconds: Seconds = 900.0
    """A longer deadline is cut to this one; it must stay below the log's age."""


class Bridge(Section):
    """The gRPC edge."""

    host: str = "127.0.0.1"
    port: Port = 50051
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Bridge processes that `up` starts on the same port (SO_REUSEPORT)."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 9464
    expected_workers: tuple[str, ...] = ("chat",)
    """Kinds of worker without which HealthCheck says `unhealthy`."""
    max_message_bytes: Annotated[int, Field(ge=KIB)] = 4 * MIB
    max_metadata_bytes: Annotated[int, Field(ge=KIB)] = 16 * KIB
    max_calls: Annotated[int, Field(ge=1)] = 4000
    """Calls open at once in one process; one more is refused with RESOURCE_EXHAUSTED."""
    max_batch_in_flight: Annotated[int, Field(ge=1)] = 16
    """Documents of one BatchIndex that are on their way at once."""
    longest_linger_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 120.0
    """A caller may ask that its call go on for a while when it is lost (`x-linger-ms`); a longer while is cut to this one."""
    drain_seconds: Seconds = 30.0


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


class Agent(Worker):
    """The agent worker."""

    processes: Annotated[int, Field(ge=0, le=64)] = 0
    metrics_port: Port = 9664
    agents_dir: Path | None = None
    """Folder with `agents.yaml` and the prompts that it names; None: those of this release (docs/agents.md)."""
