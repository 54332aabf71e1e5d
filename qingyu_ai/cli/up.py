"""`qingyu-ai up`: the whole system on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping

from qingyu_ai.doors.login import Login
from qingyu_ai.settings import Settings, broker_setting, load, without_password

from . import guarded, postgres, probe
from .console import Screen
from .foreground import until_stopped
from .interrupt import Interrupt
from .preflight import Refused, check_copies, check_ports, claim, free_ports
from .programs import as_environment, broker_url, listens, merged, programs
from .supervisor import Supervisor

REMIND_EVERY_SECONDS = 10.0
BROKER_REMIND_SECONDS = 1.5
"""A broker that somebody else runs is either there or not: what it lacks is said soon, and then as often as the rest."""


def _python() -> str:
    """The interpreter that has what the tour needs, as one types it from here."""
    near = os.path.relpath(sys.executable)
    return sys.executable if near.startswith("..") else near


async def run(settings: Settings, *, verbose: bool = False) -> int:
    """Run the system until a signal stops it.

    Returns:
        The exit status: 0 after a clean stop, 1 when a process had to be killed or failed while it stopped, 2 when one
        gave up before it was ever ready, because its settings do not hold.

    Raises:
        Refused: it cannot start here; nothing was started.
        NotInstalled: a part of it is missing.
    """
    interrupt = Interrupt()
    with interrupt.listening():
        return await _run(settings, interrupt, verbose=verbose)


async def _run(settings: Settings, interrupt: Interrupt, *, verbose: bool) -> int:
    left_out = postgres.left_out(settings)
    settings = load(**left_out) if left_out else settings
    overrides = merged(left_out, _choose_zero_ports(settings))
    settings = load(**overrides) if overrides else settings
    settings = guarded.with_passwords(settings)
    wanted = programs(settings, as_environment(overrides))
    if problems := check_copies(settings) + check_ports(listens(settings)):
        raise Refused("\n".join(problems))
    with claim(settings.data_dir):
        guarded.write_configuration(settings)
        screen = Screen(verbose=verbose)
        try:
            if left_out:
                screen.say(postgres.LEFT_OUT, "yellow")
            external = settings.nats.url
            if external:
                where = ", ".join(without_password(s) for s in settings.nats.servers)
                screen.say(f"uses the NATS server at {where} ({broker_setting(settings)}); starts none of its own")
            supervisor = Supervisor(wanted, screen.watcher, before=_external(settings) if external else None)
            interrupt.on_second = supervisor.kill
            return await until_stopped(supervisor, interrupt, screen, _start(supervisor, settings, screen))
        finally:
            screen.close()


def _external(settings: Settings) -> probe.Probe:
    return probe.jetstream(settings.nats.servers, Login.of(guarded.SETUP, settings.nats))


async def _start(supervisor: Supervisor, settings: Settings, screen: Screen) -> None:
    reminding = asyncio.create_task(_remind(supervisor, settings, screen))
    try:
        await supervisor.start()
    finally:
        reminding.cancel()
    screen.block(welcome(settings))


async def _remind(supervisor: Supervisor, settings: Settings, screen: Screen) -> None:
    """Say what a slow start waits for."""
    await asyncio.sleep(BROKER_REMIND_SECONDS)
    if supervisor.before_reason:
        screen.say(_advice(supervisor.before_reason, settings), "yellow")
    while True:
        await asyncio.sleep(REMIND_EVERY_SECONDS)
        if supervisor.before_reason:
            screen.say(_advice(supervisor.before_reason, settings), "yellow")
            continue
        for name, reason in supervisor.waiting().items():
            screen.say(f"still waiting for {name}: {reason}", "yellow")


def _advice(reason: str, settings: Settings) -> str:
    setting = broker_setting(settings)
    return (
        f"waiting for the NATS server that {setting} names: {reason}. "
        f"Start that server, or correct {setting}; without it `up` starts a server of its own"
    )


def welcome(settings: Settings) -> list[str]:
    """Where everything is, once it is there."""
    bridge = settings.bridge
    target = f"{probe.bracketed(probe.reachable(bridge.host))}:{bridge.port}"
    proxy, at = settings.proxy, ""
    lines = []
    if proxy.processes:
        at = f"http://{probe.bracketed(probe.reachable(proxy.host))}:{proxy.port}"
        lines.append(f"The AI Proxy listens on {proxy.host}:{proxy.port} (HTTP, no TLS; {at}/docs lists its routes)")
    with_proxy = f" --proxy {at}" if at and proxy.authentication == "off" else ""
    lines += [
        f"The bridge listens on {bridge.host}:{bridge.port} (gRPC, {'TLS' if bridge.cert_file else 'no TLS'})",
        "",
        f"Try it    {_python()} examples/tour.py --target {target}{with_proxy}{' --ca FILE' if bridge.cert_file else ''}",
        f"          grpcurl {'-cacert FILE' if bridge.cert_file else '-plaintext'} {target} "
        "qingyu.ai.agent.AIAgentService/HealthCheck",
    ]
    if bridge.metrics_port:
        metrics = f"{probe.bracketed(probe.reachable(bridge.metrics_host))}:{bridge.metrics_port}"
        lines.append(f"Metrics   http://{metrics}/metrics")
    shown = ", ".join(without_password(s) for s in broker_url(settings).split(","))
    lines += [
        f"NATS      {shown}",
        f"Data      {settings.data_dir.absolute()}",
        "Stop      Ctrl-C",
    ]
    return lines


def _choose_zero_ports(settings: Settings) -> Mapping[str, Mapping[str, object]]:
    """A port 0 asks for any free one. It is chosen here, because every process must know it."""
    zero = [listen for listen in listens(settings) if listen.port == 0]
    chosen: dict[str, dict[str, int]] = {}
    for listen, port in zip(zero, free_ports(len(zero)), strict=True):
        section, name = listen.path
        chosen.setdefault(section, {})[name] = port
    return chosen
