"""What it costs to know who calls: a token that was seen, a new one, proof for a tool; and a whole call with and without
(`make bench`).

The first table is CPU time of one process in loops over a thousand tokens, alternating. The second is that of a bridge process
under load, with authentication off and on in alternating rounds, beside the same worker; both are sent the same tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import structlog
import uvloop
from rich.table import Table

from bench.measuring import Peer, alternate, chat, console, environment, search
from bench.processes import Processes
from bench.timed_bridge import TIMES
from bridge.doors import Doors
from qingyu_ai import routes
from qingyu_ai.cli.preflight import free_ports
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.identity.tool_tokens import Signer, ToolVerifier
from qingyu_ai.settings import Bridge, env_name
from tests.tokens import AUDIENCE, ISSUER, SECRET, bearer, private_key, private_pem, public_pem, token

TOKENS = 1000
"""Callers whose tokens come in turn, so that none is always in the processor's caches."""

FEW = 50
"""Under load: each is new once a minute, and that is to be no part of what a call with a known one costs."""

TARGET = 15.0
"""µs of CPU for a call with a token that was seen before."""

ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")


def settings(folder: Path, algorithm: str) -> Bridge:
    """A bridge's that wants tokens of this algorithm."""
    held: dict[str, object] = {"token_issuer": ISSUER, "token_audience": AUDIENCE, "authentication": "required"}
    if algorithm == "HS256":
        return Bridge(**held, token_key=SECRET)  # type: ignore[arg-type]
    path = folder / f"{algorithm}.pem"
    path.write_text(public_pem(private_key(algorithm)))
    return Bridge(**held, token_key_file=path)  # type: ignore[arg-type]


def callers(algorithm: str, count: int = TOKENS) -> list[tuple[tuple[str, str], ...]]:
    """Metadata of callers, as a backend sends it."""
    return [
        (
            ("user-agent", "grpc-go/1.76"),
            *bearer(token(algorithm=algorithm, sub=f"user-{n}", jti=f"{n:032x}", roles=["writer"], name="沈砚")),
            ("x-request-id", f"req_{n}"),
        )
        for n in range(count)
    ]


async def each(work: Callable[[int], Awaitable[object]], count: int) -> float:
    """µs of CPU of one of `count` pieces of work."""
    before = time.process_time()
    for n in range(count):
        await work(n)
    return (time.process_time() - before) / count * 1e6


async def alone(rounds: int) -> None:
    """Print the first table."""
    table = Table(
        title="Tokens, µs of CPU",
        caption="above what a call without authentication takes",
        title_justify="left",
        caption_justify="left",
    )
    for head in ("", "seen before", "new", "not good"):
        table.add_column(head, justify="left" if not head else "right")
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in ALGORITHMS:
            own = settings(Path(folder), algorithm)
            given = callers(algorithm)
            bad = [(*one[:1], (one[1][0], one[1][1][:-6] + "AAAAAA"), *one[2:]) for one in given]
            costs: dict[str, list[float]] = {"seen": [], "new": [], "bad": [], "off": []}
            off = await Doors.open(Bridge())
            for _ in range(rounds):
                doors = await Doors.open(own)
                costs["new"].append(await each(lambda n: doors.visitor(given[n]), TOKENS))  # noqa: B023  # used at once
                costs["seen"].append(await each(lambda n: doors.visitor(given[n]), TOKENS))  # noqa: B023
                costs["off"].append(await each(lambda n: off.visitor(given[n]), TOKENS))  # noqa: B023
                costs["bad"].append(await each(lambda n: _refused(doors, bad[n]), TOKENS))  # noqa: B023
                await doors.close()
            median = {name: statistics.median(values) for name, values in costs.items()}
            seen, new, wrong = (f"{median[name] - median['off']:.1f}" for name in ("seen", "new", "bad"))
            table.add_row(algorithm, seen, new, wrong)
        console.print(table)
        await proof(Path(folder), rounds)


async def _refused(doors: Doors, metadata: tuple[tuple[str, str], ...]) -> None:
    try:
        await doors.visitor(metadata)
    except Exception:
        return
    raise AssertionError("a token that is not good was let in")


async def proof(folder: Path, rounds: int) -> None:
    """Print what a call of a tool for verified users costs more."""
    (folder / "sign.pem").write_text(private_pem(private_key("EdDSA")))
    (folder / "callers.pem").write_text(public_pem(private_key("EdDSA")))
    signer, verifier = Signer.of(folder / "sign.pem"), ToolVerifier.of(folder / "callers.pem")
    await verifier.start()
    signed = [signer.sign(f"{n:032x}", f"user-{n}", "mine") for n in range(TOKENS)]

    async def sign(n: int) -> None:
        signer.sign(f"{n:032x}", f"user-{n}", "mine")

    async def check(n: int) -> None:
        verifier.check(signed[n], call=f"{n:032x}", user=f"user-{n}", tool="mine")

    signs = statistics.median([await each(sign, TOKENS) for _ in range(rounds)])
    checks = statistics.median([await each(check, TOKENS) for _ in range(rounds)])
    await verifier.stop()
    console.print(
        f"proof for a tool: signed in {signs:.1f} µs by who calls, verified in {checks:.1f} µs by the worker\n"
    )


async def whole(rounds: int, scale: float) -> None:
    """Print the second table."""
    with tempfile.TemporaryDirectory() as folder, Processes() as processes:
        nats = processes.nats()
        peers = [start(processes, nats, name, Path(folder)) for name in ("off", "required")]
        for peer in peers:
            await ready(peer)
        table = Table(title="A call, µs of CPU of the bridge", title_justify="left")
        for head in ("", "off", "required", "more"):
            table.add_column(head, justify="left" if not head else "right")
        for name, make in (("rpc row", search), ("job row", chat)):
            costs = await alternate(peers, make, int(4000 * scale), 16, rounds)
            differences = [
                on - off
                for off, on in zip(costs["off"].rounds["server"], costs["required"].rounds["server"], strict=True)
            ]
            off, on = (costs[one.name].median("server") for one in peers)
            table.add_row(name, f"{off:.1f}", f"{on:.1f}", f"{statistics.median(differences):.1f}")
        console.print(table)
        console.print("more: the median of the rounds' differences\n")
        for peer in peers:
            await peer.channel.close()
            processes.stop(peer.name)
        (calls, off), (_, on) = (times(Path(folder), peer.name) for peer in peers)
        console.print(
            f"inside these bridges, over {calls:.0f} calls each: {on:.1f} µs to know who calls, {off:.1f} while that is off; "
            f"{on - off:.1f} more (target: at most {TARGET:g})\n"
        )


def times(folder: Path, name: str) -> tuple[float, float]:
    """What a bridge wrote at its end: calls, µs each."""
    calls, each = (folder / f"{name}.times").read_text().split()
    return float(calls), float(each)


def start(processes: Processes, nats: str, name: str, folder: Path) -> Peer:
    """Start a bridge; both have the same workers."""
    port, metrics = free_ports(2)
    env = environment(nats, port, metrics)
    if name == "off":
        for kind in ("chat", "rag"):
            processes.module(kind, "bench.echo_worker", env={**env, "ECHO_KIND": kind})
    else:
        names = {"authentication", "token_key_file", "token_issuer", "token_audience"}
        own = settings(folder, "EdDSA").model_dump(include=names)
        env |= {env_name(("bridge", key)): str(value) for key, value in own.items()}
    processes.module(name, "bench.timed_bridge", env={**env, TIMES: str(folder / f"{name}.times")})
    processes.wait_ready(name, metrics)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    # Both send a token, so that what is left between them is what the bridge does with it. One user: the request names it.
    given = itertools.cycle([bearer(token(algorithm="EdDSA", sub="u1", jti=f"{n:032x}")) for n in range(FEW)])
    return Peer(name, channel, {"server": processes.pid(name)}, metadata=lambda: next(given))


async def ready(peer: Peer) -> None:
    """Wait until a bridge sees its workers."""
    check = peer.method(routes.HEALTH_CHECK)
    for _ in range(100):
        if (await check(ai.HealthRequest(), timeout=5, metadata=peer.metadata())).status == "healthy":
            return
        await asyncio.sleep(0.1)
    raise RuntimeError("the workers did not come up")


async def main(arguments: argparse.Namespace) -> None:
    """Measure both."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    await alone(arguments.rounds)
    await whole(arguments.rounds, arguments.scale)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of calls")
    chosen = parser.parse_args()
    uvloop.run(main(chosen))
    sys.exit(0)
