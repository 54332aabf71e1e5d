"""The NATS server that `up` starts when QINGYU_NATS__PERMISSIONS is on: a user for each kind of process."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from qingyu_ai.doors.rendering import password_variable, render
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import Settings, env_name

from . import nats_server
from .process import Program

_MONITORING = re.compile(r"^http_port: \d+$", re.MULTILINE)

SETUP = "setup"
"""The role that makes the streams, and asks whether JetStream answers."""


def wanted(settings: Settings) -> bool:
    """Whether `up` starts a server that asks for passwords."""
    return settings.nats.permissions and not settings.nats.url


def with_passwords(settings: Settings) -> Settings:
    """Make the passwords that are not set. They are kept nowhere: the next start makes others."""
    if not wanted(settings):
        return settings
    made = {
        name: getattr(settings.nats.passwords, name).get_secret_value() or f"p{secrets.token_hex(24)}" for name in NAMES
    }
    passwords = type(settings.nats.passwords).model_validate(made)
    nats = settings.nats.model_copy(update={"passwords": passwords, "user": "", "password": SecretStr("")})
    return settings.model_copy(update={"nats": nats, "bus": settings.bus.model_copy(update={"make_streams": False})})


def configuration(settings: Settings) -> Path:
    """The server's configuration file."""
    if not wanted(settings):
        return nats_server.shipped("nats.conf")
    return settings.data_dir.absolute() / "nats-permissions.conf"


def write_configuration(settings: Settings) -> None:
    """Put nats.conf and the users behind it into one file. There is no secret in it."""
    if wanted(settings):
        shipped = nats_server.shipped("nats.conf").read_text(encoding="utf-8")
        if not settings.nats.monitor_port:  # a server does not reload a file that has a port where its flags say none
            shipped = _MONITORING.sub("", shipped)
        configuration(settings).parent.mkdir(parents=True, exist_ok=True)
        configuration(settings).write_text(f"{shipped}\n{render(settings)}", encoding="utf-8")


def server_environment(settings: Settings) -> dict[str, str]:
    """What the server gets: all passwords."""
    return {password_variable(name): _password(settings, name) for name in NAMES} if wanted(settings) else {}


def environment(settings: Settings, kind: str) -> dict[str, str]:
    """What a process of a kind gets: its own password and nobody else's, also of those that `up` was given itself."""
    if not wanted(settings):
        return {}
    own = {password_variable(name): _password(settings, name) if name == kind else "" for name in NAMES}
    before = {env_name(("nats", "previous_passwords", name)): "" for name in NAMES}
    of_another_server = {env_name(("nats", "user")): "", env_name(("nats", "password")): ""}
    return {**own, **before, **of_another_server, env_name(("bus", "make_streams")): "false"}


def streams(settings: Settings, env: Mapping[str, str]) -> list[Program]:
    """The process that makes the streams, where the others may not."""
    if not wanted(settings):
        return []
    argv = (sys.executable, "-m", "qingyu_ai.streams", "--stay")
    return [Program("streams", argv, env={**env, **environment(settings, SETUP)})]


def _password(settings: Settings, name: str) -> str:
    return str(getattr(settings.nats.passwords, name).get_secret_value())
