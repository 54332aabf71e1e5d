"""Settings of every process: defaults, then `qingyu.yaml`, then the environment.

A nested value is named with two underscores: `QINGYU_BRIDGE__PORT=50061`. `QINGYU_CONFIG` names another YAML file.
Nothing here is read at import time; each process calls `load()` once, at its start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource
from pydantic_settings import SettingsError as Unreadable
from yaml import YAMLError

from . import nats_url, setting_words
from .setting_words import env_name as env_name

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

KIB = 1024
MIB = 1024 * KIB


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Log(_Section):
    """How a process logs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
    calls: bool = False
    """One line for each finished call. It costs the bridge a few per cent of its CPU, and metrics count the same."""


class Nats(_Section):
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


class Bus(_Section):
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
    merge: bool = True
    """Neighbouring deltas that wait anyway become one stream message. Off: each delta stays a message of its own."""
    replicas: Annotated[Literal[1, 3, 5], BeforeValidator(_number)] = 1
    default_deadline_seconds: Seconds = 600.0
    """For a call whose caller set no deadline."""
    longest_deadline_seconds: Seconds = 900.0
    """A longer deadline is cut to this one; it must stay below the log's age."""


class Bridge(_Section):
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


class Worker(_Section):
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


class Offline(_Section):
    """The model that is always there. It computes its answers from the prompt and says so."""

    first_delay_seconds: Annotated[float, Field(ge=0)] = 0.15
    deltas_per_second: Annotated[float, Field(ge=0)] = 50.0
    """0: as fast as it can."""


class Endpoint(_Section):
    """A model server that speaks the OpenAI protocol, and one model of it."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
    """Up to and with the version: https://api.deepseek.com/v1"""
    model: str = ""
    """The server's own name for the model; empty: the first one that it lists."""
    api_key: SecretStr = SecretStr("")
    """Better `api_key_env`: a key does not belong into a file that is kept."""
    api_key_env: str = ""
    """The environment variable that holds the key."""
    connections: Annotated[int, Field(ge=1)] = 256
    """Requests that one process has open at this server at once; more of them wait, up to `first_token_seconds`. Aliases with one
    `base_url` and one key are one server; the first of them decides."""
    connect_seconds: Seconds = 5.0
    """Until there is a connection."""
    first_token_seconds: Seconds = 60.0
    """From the request to the first token, of thought or of text."""
    idle_seconds: Seconds = 30.0
    """Between two tokens."""
    total_seconds: Seconds = 600.0
    """For a whole answer, however many requests it takes. No time is ever longer than what the caller has left."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Requests for one answer before its first token, all told."""
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    """Failures in a row after which the server is left in peace for `breaker_seconds`."""
    breaker_seconds: Seconds = 20.0
    http2: bool = True
    """Whether HTTP/2 is used where the server offers it."""
    ca_file: FilePath | None = None
    """Certificates to trust instead of the well-known ones, PEM."""


class ChatModel(Endpoint):
    """A model that chats, under an alias that requests name."""

    context_tokens: Annotated[int, Field(ge=0)] = 0
    """What prompt and answer may have together; the oldest turns go when they have more. 0: not known, nothing goes."""
    request_tokens: Annotated[int, Field(ge=0)] = 0
    """The most that the server gives for one request; a longer answer is continued. 0: not known."""
    answer_tokens: Annotated[int, Field(ge=1)] = 8192
    """For a whole answer whose caller did not say how long it may be."""
    continuation: Literal["turn", "prefix", "partial", "continue_final_message"] = "turn"
    """How the server is told to go on with an answer (docs/models.md)."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_usage: bool = True
    """Whether to ask for usage in streams; a few servers refuse the option."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request."""
    fallbacks: tuple[str, ...] = ()
    """Aliases of the models that answer when this one cannot, in this order."""
    prompt_price: Annotated[float, Field(ge=0)] = 0.0
    completion_price: Annotated[float, Field(ge=0)] = 0.0
    """For a million tokens, in the currency that you pay; it counts in the metric qingyu_model_cost."""


DEFAULT_ALIAS = "default"
OFFLINE = "offline"
"""The name of the model that is always there."""


class Llm(_Section):
    """The models of this deployment. Two variables are enough: the base URL and the key of one server."""

    base_url: Annotated[str, Field(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    """With `base_url`: the server's name for its model; empty: the first one that it lists."""
    models: dict[str, ChatModel] = Field(default_factory=dict)
    """By alias, instead of `base_url`."""
    default: str = ""
    """The alias for requests that name none; empty: the first one."""
    words_file: Path | None = None
    """Words that no answer may show, UTF-8, one a line. None: nothing is checked."""
    words_action: Literal["mask", "stop"] = "mask"

    @model_validator(mode="after")
    def _aliases_are_there(self) -> Llm:
        if self.base_url and self.models:
            raise ValueError("set base_url or models, not both")
        for alias, model in self.models.items():
            for other in model.fallbacks:
                if other not in self.models:
                    raise ValueError(f"models.{alias}.fallbacks names {other!r}, which is no alias of models")
        if self.api_key.get_secret_value() and not self.base_url:
            raise ValueError("api_key is set, and base_url, which it is for, is not")
        if self.model and not self.base_url:
            raise ValueError("model is set, and base_url, which it is for, is not")
        if {"", OFFLINE} & set(self.models):
            raise ValueError(f"an alias of models must have a name, and not {OFFLINE!r}, which is always there")
        if self.default and self.default not in {*self.aliases, OFFLINE}:
            raise ValueError(f"default names {self.default!r}, which is no model here")
        return self

    @property
    def aliases(self) -> dict[str, ChatModel]:
        """All models by alias; the two variables make one with its own name, or `default` where the server names it."""
        if not self.base_url:
            return self.models
        return {self.model or DEFAULT_ALIAS: ChatModel(base_url=self.base_url, api_key=self.api_key, model=self.model)}


class Settings(BaseSettings):
    """All settings of a deployment; a process reads its own part."""

    model_config = SettingsConfigDict(
        env_prefix="QINGYU_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Path("var")
    log: Log = Log()
    nats: Nats = Nats()
    bus: Bus = Bus()
    bridge: Bridge = Bridge()
    chat: Chat = Chat()
    offline: Offline = Offline()
    llm: Llm = Llm()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, the environment, the YAML file."""
        path = Path(os.environ.get("QINGYU_CONFIG", "qingyu.yaml"))
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path)


class SettingsError(Exception):
    """The settings do not hold. The message names each setting and what is wrong with it."""


def load(**overrides: object) -> Settings:
    """Read the settings once.

    Raises:
        SettingsError: a value is missing, unknown or out of range, or the file that `QINGYU_CONFIG` names is not there.
    """
    named = os.environ.get("QINGYU_CONFIG")
    file = named or "qingyu.yaml"
    if named and not Path(named).is_file():
        raise SettingsError(f"QINGYU_CONFIG names {named}, which is not a file")
    if strangers := _unknown_names():
        raise SettingsError("no such settings:\n" + "\n".join(strangers))
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks each one
    except ValidationError as e:
        raise SettingsError(_listed(setting_words.complaints(e, Settings))) from None
    except Unreadable as e:
        raise SettingsError(_listed(setting_words.unreadable(os.environ, Settings) or [str(e)])) from None
    except YAMLError as e:
        raise SettingsError(f"{file} is no YAML: {' '.join(str(e).split())}") from None
    except (TypeError, ValueError, AttributeError):
        raise SettingsError(
            f"{file} is no mapping of sections, such as `bridge:` with `  port: 50051` below it"
        ) from None
    url = os.environ.get("NATS_URL", "")
    if url and not settings.nats.url:
        settings = settings.model_copy(update={"nats": settings.nats.model_copy(update={"url": url})})
    if settings.nats.url and (problem := nats_url.problem(broker_setting(settings), settings.nats.url)):
        raise SettingsError(problem)
    bus = settings.bus
    longest = bus.longest_deadline_seconds + settings.bridge.longest_linger_seconds
    if longest >= bus.log_age_seconds:
        raise SettingsError(
            "QINGYU_BUS__LONGEST_DEADLINE_SECONDS and QINGYU_BRIDGE__LONGEST_LINGER_SECONDS together must be below "
            "QINGYU_BUS__LOG_AGE_SECONDS: "
            f"a call of {longest:g} s would outlive a log of {bus.log_age_seconds:g} s"
        )
    return settings


def broker_setting(settings: Settings) -> str:
    """The variable that names the broker's address."""
    return "NATS_URL" if os.environ.get("NATS_URL") == settings.nats.url else env_name(("nats", "url"))


def without_password(url: str) -> str:
    """A NATS address that may be shown and logged, whatever characters its password has."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme or 'nats'}://{rest.rpartition('@')[2]}"


def _unknown_names() -> list[str]:
    """Names in the environment that begin like settings and are none: pydantic looks only for those it knows."""
    known = set(Settings.model_fields) | {"config"}
    lines = []
    for name in sorted(n for n in os.environ if n.upper().startswith("QINGYU_")):
        first, *rest = name[len("QINGYU_") :].lower().split("__")
        if first not in known:
            section, _, key = first.partition("_")
            hint = f"; did you mean {env_name((section, key, *rest))}?" if section in known and key else ""
            lines.append(f"  {name}{hint}")
    return lines


def _listed(lines: list[str]) -> str:
    return "settings that do not hold:\n" + "\n".join(f"  {line}" for line in lines)
