"""Tools that a laptop may lack, and a CI machine may not; peers that either may lack."""

import importlib.util
import os
import shlex
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def require_tool(name: str) -> str:
    """Return the path of the tool, from PATH or from `tools/bin`; without it skip the test, or fail it under CI=true.

    A test that is skipped everywhere tests nothing: CI is where none may be.
    """
    path = shutil.which(name) or shutil.which(name, path=ROOT / "tools" / "bin")
    if path is not None:
        return path
    reason = f"{name} is not installed: run `make system`"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_npm(*names: str) -> Path:
    """Return the folder that Node finds these packages in (NODE_PATH); without one skip the test, or fail it under CI=true."""
    folder = ROOT / "tools" / "npm" / "node_modules"
    for name in names:
        if not (folder / name).is_dir():
            reason = f"the npm package {name} is not installed: run `make system`"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    return folder


def require_package(name: str) -> None:
    """See that an optional package is installed; without it skip the whole module, or fail it under CI=true.

    To be called before the module's imports of it.
    """
    if importlib.util.find_spec(name) is not None:
        return
    reason = f"the package {name} is not installed: run `pip install -e '.[dev]'`"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def require_peer(variable: str) -> list[str]:
    """Return the command that the environment variable holds; without it skip the test, also in CI.

    A peer is a program that only confirms what other tests hold by themselves, and that is too large to install for each run.
    """
    command = shlex.split(os.environ.get(variable, ""))
    if not command:
        pytest.skip(f"{variable} names no command (docs/models.md)")
    return command


def require_program(name: str) -> str:
    """Return the path of a program that a system's packages have, such as nginx; without it skip the test, also in CI.

    Like a peer it only confirms what other tests hold by themselves.
    """
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: run `make system` as root on Debian, or install it")
    return path
