"""What must hold before anything is started. Each problem is a sentence that names the setting to change."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qingyu_ai.settings import Settings

from .programs import Listen

LOCK = "up.lock"
LAST_PORT = 65535


class Refused(Exception):
    """The system cannot start here. The message has one line for each problem."""


def check_copies(settings: Settings) -> list[str]:
    """The server that `up` starts is a single one, and keeps everything once."""
    copies = settings.bus.replicas
    if settings.nats.url or copies == 1:
        return []
    return [
        f"QINGYU_BUS__REPLICAS is {copies}, and `up` starts a single NATS server: "
        f"set it to 1, or NATS_URL to a cluster of your own with at least {copies} servers"
    ]


def check_ports(ports: Iterable[Listen]) -> list[str]:
    """Try each port, and hold it while the others are tried, so that two settings with one value are found as well."""
    problems = []
    with ExitStack() as held:
        for listen in ports:
            try:
                held.enter_context(hold(listen.host, listen.port))
            except (OSError, OverflowError) as e:
                problems.append(_port_problem(listen, e))
    return problems


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Choose ports that nobody has now. Somebody else can still take one before it is used."""
    with ExitStack() as held:
        return [held.enter_context(hold(host, 0)).getsockname()[1] for _ in range(count)]


@contextmanager
def claim(data_dir: Path, command: str = "up") -> Iterator[None]:
    """Keep a data directory for this system alone: a second nats-server on the same files would destroy them.

    The kernel releases the lock when this process ends, however it ends.

    Args:
        command: who claims it, and so who else could have.

    Raises:
        Refused: it cannot be written, or another such command uses it.
    """
    where = data_dir.absolute()
    try:
        where.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(where / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise Refused(f"cannot write to {where} ({e.strerror}): set QINGYU_DATA_DIR to a directory of yours") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused(
                f"another `qingyu-ai {command}` uses {where}: stop it, or set QINGYU_DATA_DIR to another directory"
            ) from None
        yield
    finally:
        os.close(descriptor)


def hold(host: str, port: int) -> socket.socket:
    """Listen on a port.

    SO_REUSEADDR, because without it a port whose last connections have only just closed would count as taken. No
    SO_REUSEPORT: bridges share their port with it, and one that runs already must be noticed.

    Raises:
        OverflowError: there is no such port; `getaddrinfo` would take it modulo 65,536.
        OSError: the port or the host cannot be had.
    """
    if port > LAST_PORT:
        raise OverflowError(port)
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1)
    except BaseException:
        sock.close()
        raise
    return sock


def _port_problem(listen: Listen, error: OSError | OverflowError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return f"port {listen.port} is taken: set {listen.setting} to a free one"
    if number == errno.EACCES:
        return f"port {listen.port} needs more rights than this user has: set {listen.setting} to one above 1023"
    if isinstance(error, OverflowError):
        return f"port {listen.port} does not exist: set {listen.setting} lower, it counts up with each process"
    at = f"{listen.host}:{listen.port}"
    return f"cannot listen on {at} ({error.strerror}): set {listen.host_setting} to an address of this machine"
