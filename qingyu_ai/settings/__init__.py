"""Settings of every process: defaults, then `qingyu.yaml`, then the environment.

A nested value is named with two underscores: `QINGYU_BRIDGE__PORT=50061`. `QINGYU_CONFIG` names another YAML file.
Nothing here is read at import time; each process calls `load()` once, at its start.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource
from pydantic_settings import SettingsError as Unreadable
from yaml import YAMLError

from . import nats_url, words
from .bridge import Bridge as Bridge
from .models import DEFAULT_ALIAS as DEFAULT_ALIAS
from .models import OFFLINE as OFFLINE
from .models import ChatModel as ChatModel
from .models import Endpoint as Endpoint
from .models import Llm as Llm
from .models import Offline as Offline
from .nats import Nats as Nats
from .nats import NatsPasswords as NatsPasswords
from .proxy import Ai as Ai
from .proxy import AiProxy as AiProxy
from .proxy import Proxy as Proxy
from .retrieval import Embedding as Embedding
from .retrieval import Rag as Rag
from .retrieval import Rerank as Rerank
from .sections import KIB as KIB
from .sections import MIB as MIB
from .sections import Agent as Agent
from .sections import Bus as Bus
from .sections import Chat as Chat
from .sections import Log as Log
from .sections import McpServer as McpServer
from .sections import Port as Port
from .sections import Seconds as Seconds
from .sections import Tool as Tool
from .sections import Trace as Trace
from .sections import Worker as Worker
from .tokens import Tokens as Tokens
from .words import env_name as env_name


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
    tool: Tool = Tool()
    agent: Agent = Agent()
    rag: Rag = Rag()
    proxy: Proxy = Proxy()
    ai: Ai = Ai()
    offline: Offline = Offline()
    llm: Llm = Llm()
    trace: Trace = Trace()

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


SHORTER = (
    ("in_progress_seconds", "ack_wait_seconds"),  # or a job would be taken from a worker that holds it
    ("beat_seconds", "lease_seconds"),  # or a reader would take a thinking worker for dead
    ("frame_ack_seconds", "patience_seconds"),
    ("store_seconds", "patience_seconds"),
)
"""Times of the bus of which the first must be below the second."""


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
        raise SettingsError(_listed(words.complaints(e, Settings))) from None
    except Unreadable as e:
        raise SettingsError(_listed(words.unreadable(os.environ, Settings) or [str(e)])) from None
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
    if problem := nats_url.doors(broker_setting(settings), settings.nats):
        raise SettingsError(problem)
    bus = settings.bus
    for shorter, longer in SHORTER:
        if getattr(bus, shorter) >= getattr(bus, longer):
            raise SettingsError(
                f"{env_name(('bus', shorter))} must be below {env_name(('bus', longer))}: "
                f"{getattr(bus, shorter):g} s against {getattr(bus, longer):g} s"
            )
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
            meant = (section, key, *rest) if section in known and key else ()
            if not meant and (near := get_close_matches(first, known, 1)):
                meant = (near[0], *rest)
            hint = f"; did you mean {env_name(meant)}?" if meant else ""
            lines.append(f"  {name}{hint}")
    return lines


def _listed(lines: list[str]) -> str:
    return "settings that do not hold:\n" + "\n".join(f"  {line}" for line in lines)
