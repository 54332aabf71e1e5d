"""What `up` runs: the broker, the database, and one row for each kind of process."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qingyu_ai.doors.login import Login
from qingyu_ai.settings import AiProxy, Settings, env_name

from . import guarded, nats_server, postgres, probe
from .process import Program, Stage

STOP_MARGIN_SECONDS = 5.0
"""A process that drains to the very end of its `drain_seconds` still has to close what it holds."""


@dataclass(frozen=True)
class Listen:
    """A port that a process is going to take, and the setting that moves it."""

    host: str
    port: int
    path: tuple[str, str]
    """Section and name in the settings."""

    @property
    def setting(self) -> str:
        """The environment variable that sets the port."""
        return env_name(self.path)

    @property
    def host_setting(self) -> str:
        """The environment variable that sets the host beside it."""
        return self.setting.removesuffix("PORT") + "HOST"


class Section(Protocol):
    """What every kind of process has in the settings."""

    @property
    def processes(self) -> int: ...
    @property
    def metrics_host(self) -> str: ...
    @property
    def metrics_port(self) -> int: ...
    @property
    def drain_seconds(self) -> float: ...


class Served(Protocol):
    """What a kind of process that others connect to has in the settings."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


@dataclass(frozen=True)
class Kind:
    """A kind of process: its name is also the name of its section in the settings."""

    name: str
    module: str
    stage: Stage
    section: Callable[[Settings], Section]
    serves: Callable[[Settings], Listen | None] = lambda _: None
    """The port that all processes of this kind share, beside the metrics port that each has of its own."""


KINDS: tuple[Kind, ...] = (
    Kind("chat", "services.chat", Stage.WORKER, lambda s: s.chat),
    Kind("tool", "services.tool", Stage.WORKER, lambda s: s.tool),
    Kind("agent", "services.agent", Stage.WORKER, lambda s: s.agent),
    Kind("rag", "services.rag", Stage.WORKER, lambda s: s.rag),
    Kind("bridge", "bridge", Stage.EDGE, lambda s: s.bridge, lambda s: _at(s.bridge, "bridge")),
    Kind("proxy", "services.proxy", Stage.EDGE, lambda s: s.proxy, lambda s: _at(s.proxy, "proxy")),
)
"""A new kind is one row here, a section in the settings, and a metrics port a hundred above the last one's."""


def _at(section: Served, name: str) -> Listen:
    return Listen(section.host, section.port, (name, "port"))


def programs(settings: Settings, env: Mapping[str, str] | None = None) -> list[Program]:
    """All processes of a deployment on this machine.

    Args:
        settings: all of them.
        env: settings that differ from what a child would read by itself.

    Raises:
        NotInstalled: the broker, its configuration or the database is missing.
    """
    own = [] if settings.nats.url else [broker(settings)]
    own += [postgres.program(settings)] if postgres.wanted(settings) else []
    own += guarded.streams(settings, {**(env or {}), **environment(settings)})
    return own + [program for kind in KINDS for program in workers(kind, settings, env or {})]


def broker(settings: Settings) -> Program:
    """The nats-server of this machine."""
    at = settings.nats
    store = str(settings.data_dir.absolute() / "nats")
    return Program(
        name="nats",
        argv=(
            *(str(nats_server.binary()), "-c", str(guarded.configuration(settings))),
            *("-a", at.host, "-p", str(at.port), "-m", str(at.monitor_port), "-sd", store),
        ),
        env=guarded.server_environment(settings),
        ready=probe.jetstream([broker_url(settings)], Login.of(guarded.SETUP, settings.nats)),
        stage=Stage.BROKER,
        quiet=True,
    )


def workers(kind: Kind, settings: Settings, env: Mapping[str, str]) -> Iterator[Program]:
    """The processes of one kind. Metrics ports count up from the configured one; 0 stays 0, which is none."""
    section, served = kind.section(settings), kind.serves(settings)
    env = {**env, **(proxy_environment(settings) if kind.name == "proxy" else {})}
    for i in range(section.processes):
        metrics = section.metrics_port and section.metrics_port + i
        if metrics:
            ready = probe.http_ready(section.metrics_host, metrics)
        else:
            ready = probe.accepts(served.host, served.port) if served else probe.alive
        yield Program(
            name=kind.name if section.processes == 1 else f"{kind.name}-{i + 1}",
            argv=(sys.executable, "-m", kind.module),
            env={
                **env,
                **environment(settings),
                **guarded.environment(settings, kind.name),
                env_name((kind.name, "metrics_port")): str(metrics),
            },
            ready=ready,
            stop_seconds=section.drain_seconds + STOP_MARGIN_SECONDS,
            stage=kind.stage,
        )


def listens(settings: Settings) -> list[Listen]:
    """Every port that these programs are going to take."""
    ports = []
    if not settings.nats.url:
        at = settings.nats
        ports.append(Listen(at.host, at.port, ("nats", "port")))
        if at.monitor_port:
            ports.append(Listen(at.host, at.monitor_port, ("nats", "monitor_port")))
    if postgres.wanted(settings):
        ports.append(Listen(settings.rag.host, settings.rag.port, ("rag", "port")))
    for kind in KINDS:
        section, served = kind.section(settings), kind.serves(settings)
        if served and section.processes:
            ports.append(served)
        if section.metrics_port:
            each = range(section.metrics_port, section.metrics_port + section.processes)
            ports += [Listen(section.metrics_host, port, (kind.name, "metrics_port")) for port in each]
    return ports


def environment(settings: Settings) -> dict[str, str]:
    """What every Python child gets: where the broker and the data are, and a log that the console can read."""
    return {
        "QINGYU_NATS__URL": broker_url(settings),
        "QINGYU_DATA_DIR": str(settings.data_dir.absolute()),
        "QINGYU_LOG__FORMAT": "json",
        **python_environment(),
    }


def proxy_environment(settings: Settings) -> dict[str, str]:
    """What all proxies of this machine get: where its bridge is, and one key, so that each opens what another gave out."""
    bridge, addr = settings.bridge, settings.ai.proxy.python_addr
    if addr == AiProxy().python_addr:
        addr = f"{probe.bracketed(probe.reachable(bridge.host))}:{bridge.port}"
    key = settings.proxy.ticket_key.get_secret_value() or secrets.token_hex(32)
    return {env_name(("ai", "proxy", "python_addr")): addr, env_name(("proxy", "ticket_key")): key}


def python_environment() -> dict[str, str]:
    """What a Python child needs to find this project's packages, and to be heard at once."""
    env = {"PYTHONUNBUFFERED": "1"}  # a stray line on stdout must not wait for 8 KiB of company
    if root := nats_server.source_tree():
        # `bridge` and `services` are found from any directory, installed or not.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return env


def broker_url(settings: Settings) -> str:
    """The servers that the children connect to."""
    if settings.nats.url:
        return settings.nats.url
    return f"nats://{probe.bracketed(probe.reachable(settings.nats.host))}:{settings.nats.port}"


def merged(*sections: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """Put settings by section together; the later ones win."""
    return {
        name: {k: v for each in sections for k, v in each.get(name, {}).items()} for one in sections for name in one
    }


def as_environment(overrides: Mapping[str, object], path: tuple[str, ...] = ()) -> dict[str, str]:
    """Spell nested settings as environment variables: `{"bridge": {"port": 1}}` → `{"QINGYU_BRIDGE__PORT": "1"}`."""
    env: dict[str, str] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            env |= as_environment(value, (*path, name))
        else:
            env[env_name((*path, name))] = str(value) if isinstance(value, str | Path) else json.dumps(value)
    return env
