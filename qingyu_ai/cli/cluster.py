"""`qingyu-ai cluster`: three NATS servers as one JetStream cluster on this machine, until Ctrl-C.

What runs on it keeps three copies of every stream, so any one server may die. A server that does is started again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from qingyu_ai.settings import Settings

from . import nats_server, probe
from .console import Screen
from .foreground import until_stopped
from .interrupt import Interrupt
from .preflight import Refused, check_ports, claim, free_ports
from .process import Program, Stage
from .programs import Listen
from .supervisor import Supervisor

NAME = "qingyu"
SERVERS = 3
LOOPBACK = "127.0.0.1"
"""Where the servers speak with each other. Routes have no password here."""

REMIND_EVERY_SECONDS = 10.0


@dataclass(frozen=True)
class Node:
    """One server of the cluster."""

    name: str
    host: str
    port: int
    route_port: int
    monitor_port: int
    """0: none."""
    store: Path

    @property
    def url(self) -> str:
        """Where clients connect to it."""
        return f"nats://{probe.bracketed(probe.reachable(self.host))}:{self.port}"

    @property
    def route(self) -> str:
        """Where other servers connect to it."""
        return f"nats://{LOOPBACK}:{self.route_port}"

    def argv(self, nodes: list[Node]) -> tuple[str, ...]:
        """The server's command line: the repository's configuration, and what makes it one of these nodes."""
        return (
            *(str(nats_server.binary()), "-c", str(nats_server.shipped("nats.conf")), "-n", self.name),
            *("-a", self.host, "-p", str(self.port), "-m", str(self.monitor_port), "-sd", str(self.store)),
            *("--cluster_name", NAME, "--cluster", self.route, "--routes", ",".join(n.route for n in nodes)),
        )


def nodes(settings: Settings) -> list[Node]:
    """The servers, on the configured ports and those after them; a port 0 is any free one, or no monitoring."""
    at, where = settings.nats, folder(settings)
    ports, routes = (_counted(first) for first in (at.port, at.route_port))
    monitors = _counted(at.monitor_port) if at.monitor_port else [0] * SERVERS
    return [
        Node(f"nats-{i + 1}", at.host, ports[i], routes[i], monitors[i], where / f"nats-{i + 1}")
        for i in range(SERVERS)
    ]


def _counted(first: int) -> list[int]:
    return [first + i for i in range(SERVERS)] if first else free_ports(SERVERS)


def folder(settings: Settings) -> Path:
    """The cluster's own part of the data directory: a system of `up` may have the rest."""
    return settings.data_dir.absolute() / "cluster"


def programs(wanted: list[Node]) -> list[Program]:
    """The servers' processes."""
    return [
        Program(n.name, n.argv(wanted), ready=probe.jetstream([n.url]), stage=Stage.BROKER, quiet=True) for n in wanted
    ]


def listens(wanted: list[Node]) -> list[Listen]:
    """Every port that the servers are going to take."""
    found = []
    for node in wanted:
        found += [
            Listen(node.host, node.port, ("nats", "port")),
            Listen(LOOPBACK, node.route_port, ("nats", "route_port")),
        ]
        if node.monitor_port:
            found.append(Listen(node.host, node.monitor_port, ("nats", "monitor_port")))
    return found


async def run(settings: Settings, *, verbose: bool = False) -> int:
    """Run the cluster until a signal stops it.

    Returns:
        The exit status, see `until_stopped`.

    Raises:
        Refused: it cannot start here; nothing was started.
        NotInstalled: a part of it is missing.
    """
    interrupt = Interrupt()
    with interrupt.listening():
        wanted = nodes(settings)
        servers = programs(wanted)
        if problems := check_ports(listens(wanted)):
            raise Refused("\n".join(problems))
        with claim(folder(settings), "cluster"):
            screen = Screen(verbose=verbose)
            try:
                supervisor = Supervisor(servers, screen.watcher)
                interrupt.on_second = supervisor.kill
                return await until_stopped(supervisor, interrupt, screen, _start(supervisor, wanted, settings, screen))
            finally:
                screen.close()


async def _start(supervisor: Supervisor, wanted: list[Node], settings: Settings, screen: Screen) -> None:
    reminding = asyncio.create_task(_remind(supervisor, screen))
    try:
        await supervisor.start()
    finally:
        reminding.cancel()
    screen.block(welcome(wanted, settings))


async def _remind(supervisor: Supervisor, screen: Screen) -> None:
    """Say what a slow start waits for."""
    while True:
        await asyncio.sleep(REMIND_EVERY_SECONDS)
        for name, reason in supervisor.waiting().items():
            screen.say(f"still waiting for {name}: {reason}", "yellow")


def welcome(wanted: list[Node], settings: Settings) -> list[str]:
    """How to use it, once it is there."""
    url = ",".join(node.url for node in wanted)
    lines = [
        f"{len(wanted)} NATS servers are one cluster",
        "",
        f"Use it    NATS_URL={url} QINGYU_BUS__REPLICAS={len(wanted)} make up",
        "          in another terminal; every process of a system needs both",
        f"NATS_URL  {url}",
    ]
    if wanted[0].monitor_port:
        at = probe.bracketed(probe.reachable(wanted[0].host))
        lines.append(f"Leaders   http://{at}:{wanted[0].monitor_port}/jsz?streams=1 (who leads which stream)")
    return [*lines, f"Data      {folder(settings)}", "Stop      Ctrl-C"]
