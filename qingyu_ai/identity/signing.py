"""How a process comes to its key for signing, if it has one."""

from __future__ import annotations

from pathlib import Path

from qingyu_ai.settings import SettingsError, env_name

from .keys import BadKeys
from .tool_tokens import Sign, Signer


def signing(path: Path | None, setting: tuple[str, str]) -> Sign | None:
    """Read the private key of a process that calls tools.

    Args:
        path: None: it has none, and calls no tools for verified users.
        setting: that gave the path.

    Raises:
        SettingsError: it cannot be used.
    """
    if path is None:
        return None
    try:
        return Signer.of(path).sign
    except BadKeys as e:
        raise SettingsError(f"{env_name(setting)}: {e}") from None
