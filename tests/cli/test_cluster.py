"""`cluster` as a person runs it, with real servers."""

from __future__ import annotations

import asyncio
import re
import signal

import nats
import psutil
import pytest

from qingyu_ai.cli import cluster
from qingyu_ai.cli.preflight import hold
from qingyu_ai.settings import MIB, load
from tests.cli.command import Command, Run, gone
from tests.ports import free_ports
from tests.waiting import eventually_sync

UP_SECONDS = 30
"""Servers look for each other and vote, which takes about two seconds on an idle machine."""


def ports(**more: str) -> dict[str, str]:
    """Free ports for three servers."""
    names = ("QINGYU_NATS__PORT", "QINGYU_NATS__ROUTE_PORT", "QINGYU_NATS__MONITOR_PORT")
    return {**dict(zip(names, map(str, free_ports(3)), strict=True)), **more}


def started(run: Run, **env: str) -> Command:
    """Start a cluster and wait until it says how to use it."""
    command = run("cluster", module="qingyu_ai.cli", **env)
    eventually_sync(command.says("Stop      Ctrl-C"), timeout=UP_SECONDS)
    return command


def servers(command: Command) -> list[psutil.Process]:
    return [child for child in command.children() if child.name() == "nats-server"]


def copies(url: str) -> tuple[int, int]:
    """Make a stream of three copies and store one message: how many servers have it, and the largest message."""

    async def ask() -> tuple[int, int]:
        client = await nats.connect(url.split(","))
        try:
            js = client.jetstream()
            await js.add_stream(name="S", subjects=["s.>"], num_replicas=3)
            await js.publish("s.x", b"x")
            info = await js.stream_info("S")
            return 1 + len((info.cluster and info.cluster.replicas) or ()), client.max_payload
        finally:
            await client.close()

    return asyncio.run(ask())


def test_three_servers_are_one_cluster_that_says_how_to_use_it_and_stops_on_ctrl_c(run: Run) -> None:
    where = ports()
    command = started(run, **where)
    first = int(where["QINGYU_NATS__PORT"])
    url = ",".join(f"nats://127.0.0.1:{first + i}" for i in range(3))
    assert f"NATS_URL={url} QINGYU_BUS__REPLICAS=3 make up" in command.output
    assert f"http://127.0.0.1:{where['QINGYU_NATS__MONITOR_PORT']}/jsz?streams=1" in command.output
    assert len(servers(command)) == 3
    # Of the repository's configuration, the largest message stands for the rest.
    assert copies(url) == (3, 8 * MIB)
    children = command.children()
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 0, command.output
    assert command.output.rstrip().endswith("stopped")
    assert gone(children)()


def test_a_server_that_is_killed_comes_back_and_the_others_go_on_meanwhile(run: Run) -> None:
    where = ports()
    command = started(run, **where)
    servers(command)[0].kill()
    eventually_sync(command.says("● exited: killed by SIGKILL; restarting in 0.5 s"))
    eventually_sync(lambda: command.output.count("● up") == 4, timeout=UP_SECONDS)
    assert len(servers(command)) == 3
    command.process.terminate()
    assert command.finish() == 0, command.output


@pytest.mark.parametrize("setting", ["PORT", "ROUTE_PORT", "MONITOR_PORT"])
def test_a_taken_port_is_named_with_its_setting_and_nothing_is_started(run: Run, setting: str) -> None:
    where = ports()
    second = int(where[f"QINGYU_NATS__{setting}"]) + 1
    with hold("127.0.0.1", second):
        command = run("cluster", module="qingyu_ai.cli", **where)
        assert command.finish() == 2
    assert command.output == f"port {second} is taken: set QINGYU_NATS__{setting} to a free one\n"
    assert not (command.path.parent / "var").exists()


def test_a_second_cluster_on_the_same_data_directory_is_refused(run: Run) -> None:
    first = started(run, **ports())
    second = run("cluster", module="qingyu_ai.cli", **ports(QINGYU_DATA_DIR=first.env["QINGYU_DATA_DIR"]))
    assert second.finish() == 2
    assert re.match(r"another `qingyu-ai cluster` uses .*/cluster: stop it, or set QINGYU_DATA_DIR", second.output)
    first.process.terminate()
    assert first.finish() == 0, first.output


def test_a_nats_url_of_the_environment_does_not_matter(run: Run) -> None:
    command = started(run, **ports(NATS_URL="nats://nowhere.invalid:4222"))
    assert "nowhere" not in command.output
    command.process.terminate()
    assert command.finish() == 0, command.output


def test_no_two_default_ports_of_a_cluster_collide() -> None:
    wanted = [listen.port for listen in cluster.listens(cluster.nodes(load(nats={"url": ""})))]
    assert len(wanted) == 9
    assert len(set(wanted)) == 9


def test_a_port_zero_is_any_free_one_and_a_monitoring_port_zero_is_none() -> None:
    nodes = cluster.nodes(load(nats={"port": 0, "route_port": 0, "monitor_port": 0}))
    wanted = [port for node in nodes for port in (node.port, node.route_port)]
    assert len(set(wanted)) == 6
    assert 0 not in wanted
    assert [node.monitor_port for node in nodes] == [0, 0, 0]
    assert "jsz" not in "\n".join(cluster.welcome(nodes, load()))
