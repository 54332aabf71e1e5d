"""Proxy processes beside a system of tests/running.py."""

from __future__ import annotations

from pathlib import Path

from qingyu_ai.settings import env_name
from tests.ports import free_port
from tests.process import Running
from tests.running import System
from tests.waiting import eventually

KEY = "k" * 40


class RunningProxy(Running):
    """A proxy process. It keeps its port when it is started again."""

    def __init__(self, system: System, folder: Path, name: str = "proxy", **settings: str) -> None:
        self.port = free_port()
        own = {
            env_name(("ai", "proxy", "python_addr")): "ipv4:" + ",".join(bridge.target for bridge in system.bridges),
            env_name(("proxy", "port")): str(self.port),
            env_name(("proxy", "metrics_port")): "0",
            env_name(("proxy", "ticket_key")): KEY,
            env_name(("proxy", "drain_seconds")): "2",
            **settings,
        }
        super().__init__(name, "services.proxy", {**system.env, **own}, folder)

    @property
    def origin(self) -> str:
        """Where it is called."""
        return f"http://127.0.0.1:{self.port}"

    async def ready(self) -> None:
        """Wait until it serves."""
        await eventually(lambda: self.said('"proxy_started"') or self.crashed, timeout=30)
        assert not self.crashed, self.crashed

    def stop(self) -> None:
        """End it, and see that it ended well."""
        if self.alive:
            self.terminate()
            assert self.wait() == 0, self.tail
