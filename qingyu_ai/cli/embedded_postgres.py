"""Make a database in a folder, if there is none, and become its server.

    python -I -S embedded_postgres.py PROGRAMS FOLDER HOST PORT

The folder gets `data`, and the passwords of two roles: `postgres`, which owns everything, and `worker`, as which workers come.
It stays this process until it is the server, so whoever started it can stop the server by this process's id.

PostgreSQL does not run as root. Started as root, in a container for instance, this becomes user `nobody` in a user namespace of
its own (user_namespaces(7)), where root's files are its own; where the kernel allows none, it becomes `nobody` for good, and then
the folder above must let that user through. It imports nothing of this package.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

HOPELESS_STATUS = 2
"""See `EXIT_SETTINGS` in qingyu_ai/process.py."""

PASSWORDS = ("postgres", "worker")
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_GET_PDEATHSIG = 1, 2

OPTIONS = (
    "unix_socket_directories=",
    "log_min_error_statement=panic",  # a statement holds what people wrote
    "log_error_verbosity=terse",  # and so does the detail of an error
    "shared_buffers=256MB",
    "max_connections=200",
    "password_encryption=scram-sha-256",
    "timezone=UTC",
    "log_timezone=UTC",
    "jit=off",  # compiling costs more than such queries take
)


def main(argv: list[str]) -> None:
    """Do what the module says; never returns."""
    programs, folder, host, port = Path(argv[1]), Path(argv[2]), argv[3], argv[4]
    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True)
    for role in PASSWORDS:
        _make_password(folder / f"{role}.password")
    given = (folder / "postgres.password").read_text()
    _leave_root(folder)
    data = folder / "data"
    if not (data / "PG_VERSION").is_file():
        _make(programs, folder, data, given)
    _check_version(programs, data)
    server = str(programs / "postgres")
    options = [word for option in (f"listen_addresses={host}", *OPTIONS) for word in ("-c", option)]
    os.execv(server, [server, "-D", str(data), "-p", port, *options])


def _make_password(path: Path) -> None:
    """Write it whole or not at all: a password that was cut would lock everybody out."""
    if path.is_file():
        return
    new = path.with_suffix(".new")
    new.write_text(secrets.token_urlsafe(32))
    new.rename(path)


def _make(programs: Path, folder: Path, data: Path, password: str) -> None:
    """Make the database beside its place, and move it there: one that is half made is never used."""
    new = folder / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    given = folder / "initdb.password"
    given.write_text(password)
    try:
        made = subprocess.run(
            (
                *(str(programs / "initdb"), "-D", str(new), "-U", "postgres", f"--pwfile={given}"),
                *("-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions"),
            ),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    except OSError as e:
        _refuse(f"cannot run {programs / 'initdb'}: {e.strerror}{_as_nobody()}")
    finally:
        given.unlink()
    if made.returncode:
        said = (made.stderr.strip().splitlines() or ["it said nothing"])[-1]
        _refuse(f"the database cannot be made in {folder}: {said}")
    new.rename(data)


def _check_version(programs: Path, data: Path) -> None:
    """The files of one major version cannot be read by another."""
    theirs = (data / "PG_VERSION").read_text().strip()
    said = subprocess.run((str(programs / "postgres"), "--version"), capture_output=True, text=True, check=True).stdout
    ours = said.split()[-1].split(".")[0]
    if theirs != ours:
        _refuse(
            f"{data} was made by PostgreSQL {theirs}, and this Python brings {ours}: start with the Python that made it, "
            "or move that folder away and index the documents again, or set QINGYU_RAG__DSN to a database of yours"
        )


def _leave_root(folder: Path) -> None:
    """Become somebody whom PostgreSQL accepts.

    The order for dying with the supervisor (see tether.py) is given again, because a new user loses it.
    """
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            _refuse(
                f"PostgreSQL wants a user with a name, and user {os.geteuid()} has none in /etc/passwd: add one, "
                "or set QINGYU_RAG__DSN to a database of yours"
            )
        return
    if sys.platform != "linux":
        _refuse("PostgreSQL does not run as root: start as another user, or set QINGYU_RAG__DSN to a database of yours")
    libc = ctypes.CDLL(None, use_errno=True)
    order, supervisor = ctypes.c_int(), os.getppid()
    libc.prctl(PR_GET_PDEATHSIG, ctypes.byref(order), 0, 0, 0)
    nobody = pwd.getpwnam("nobody")
    # In a namespace nobody's own files would be a stranger's: who began without one goes on without.
    if folder.stat().st_uid == nobody.pw_uid or not _own_namespace(libc, nobody):
        _become(nobody, folder)
    if order.value:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            sys.exit(1)


def _own_namespace(libc: ctypes.CDLL, nobody: pwd.struct_passwd) -> bool:
    """Be `nobody` to oneself and to PostgreSQL, and root to the files: whether the kernel allows it."""
    if libc.unshare(CLONE_NEWUSER) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{nobody.pw_uid} 0 1")
    Path("/proc/self/gid_map").write_text(f"{nobody.pw_gid} 0 1")
    return True


def _become(nobody: pwd.struct_passwd, folder: Path) -> None:
    """Give the folder to `nobody` and be that user from now on."""
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    if not all(os.access(path, os.R_OK | os.W_OK | os.X_OK) for path in (folder, folder / "data") if _seen(path)):
        _refuse(
            f"PostgreSQL does not run as root, and user nobody cannot reach {folder}: set QINGYU_DATA_DIR to a directory that "
            "others may pass through, start as another user, or set QINGYU_RAG__DSN to a database of yours"
        )


def _seen(path: Path) -> bool:
    """Whether it is there, or cannot be looked at."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    return True


def _as_nobody() -> str:
    return " (as user nobody, because PostgreSQL does not run as root)" if os.geteuid() else ""


def _refuse(why: str) -> None:
    sys.stderr.write(f"{why}\n")
    sys.exit(HOPELESS_STATUS)


if __name__ == "__main__":
    main(sys.argv)
