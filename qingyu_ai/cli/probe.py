"""Ask a process whether it is ready.

A probe answers with the reason why not, and with an empty text when it is.
"""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from http.client import HTTPException
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client

from qingyu_ai.doors.login import Login
from qingyu_ai.settings import without_password

Probe = Callable[[], Awaitable[str]]

TIMEOUT_SECONDS = 2.0

# nats-py tries a server sixty times, two seconds apart, before it gives up; whoever probes wants to hear at once.
_ONCE: dict[str, Any] = {
    "name": "qingyu-ai-up",
    "allow_reconnect": False,
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0.05,
    "connect_timeout": int(TIMEOUT_SECONDS),
}


def http_ready(host: str, port: int, path: str = "/readyz") -> Probe:
    """Ready when the operations endpoint answers 200."""
    url = f"http://{bracketed(reachable(host))}:{port}{path}"

    async def probe() -> str:
        return await asyncio.to_thread(_get, url)

    return probe


def accepts(host: str, port: int) -> Probe:
    """Ready when the port accepts a connection."""

    async def probe() -> str:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, writer = await asyncio.open_connection(reachable(host), port)
        except (OSError, TimeoutError):
            return f"port {port} does not accept connections yet"
        writer.close()
        return ""

    return probe


def jetstream(servers: list[str], login: Login | None = None) -> Probe:
    """Ready when a server lets us in and JetStream answers; in a cluster it does so only once a leader is elected.

    Args:
        login: None: what the addresses say.
    """
    login = login or Login("up")
    where = ", ".join(without_password(s) for s in servers)

    async def probe() -> str:
        client = Client()
        refused: list[Exception] = []

        async def remember(e: Exception) -> None:
            refused.append(e)  # nats-py gives the reason only here, and raises "no servers available" in the end

        try:
            tls: dict[str, Any] = {"tls": login.context.current} if login.context is not None else {}
            await client.connect(
                servers, error_cb=remember, inbox_prefix=f"_INBOX.{login.role}", **login.options, **tls, **_ONCE
            )
            await client.jetstream(timeout=TIMEOUT_SECONDS).account_info()
        except nats.js.errors.ServiceUnavailableError:
            return f"JetStream does not answer on {where}: it is off there, or its cluster has no leader yet"
        except (OSError, TimeoutError, nats.errors.Error) as e:
            stage = "JetStream does not answer on" if client.is_connected else "no connection to"
            return f"{stage} {where}: {login.explanation([*refused, e]) or _reason(refused[-1] if refused else e)}"
        finally:
            await client.close()
            # `asyncio.wait_for` of Python 3.11, which nats-py uses, loses a cancellation that meets a refused connection.
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError
        return ""

    return probe


async def alive() -> str:
    """For a process without an endpoint: ready as soon as it runs."""
    return ""


def reachable(host: str) -> str:
    """Where to reach a process that listens on every address."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def bracketed(host: str) -> str:
    """A host as it stands in front of `:port`."""
    return f"[{host}]" if ":" in host else host


def _get(url: str) -> str:
    # Without proxies: the environment's http_proxy is for the world outside, and these addresses are on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            return "" if answer.status == 200 else f"HTTP {answer.status}"
    except urllib.error.HTTPError as e:
        with e:
            lines = e.read(500).decode("utf-8", "replace").strip().splitlines()
        return lines[0] if lines else f"HTTP {e.code}"
    except (OSError, HTTPException) as e:  # URLError is an OSError
        return f"{url} does not answer yet: {_reason(e)}"


def _reason(e: Exception) -> str:
    cause = e.reason if isinstance(e, urllib.error.URLError) else e
    if isinstance(cause, TimeoutError):
        return "timeout"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
