"""`python -m services.proxy`: wire an AI Proxy with its HTTP face, run it until it is told to stop, drain it."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import REGISTRY

from qingyu_ai.process import open_operations, run
from qingyu_ai.settings import Settings

from .errors import AIProxyError
from .http.app import Application
from .http.doors import Doors
from .http.face import Face
from .http.server import Server, listen
from .http.tickets import Tickets
from .service import AIProxyService

log = structlog.get_logger(__name__)


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run a proxy until `stop` is set."""
    own = settings.proxy
    listener = listen(own)
    ready = False

    def unready() -> str:
        return "draining" if stop.is_set() else "" if ready else "no connection to the bridge yet"

    operations = open_operations("proxy", own.metrics_host, own.metrics_port, unready) if own.metrics_port else None
    try:
        service = await AIProxyService.start(settings.ai.proxy, REGISTRY)
        try:
            tickets = Tickets(own.ticket_key.get_secret_value())
            if not own.ticket_key.get_secret_value():
                log.warning("tickets_hold_here_only", set="QINGYU_PROXY__TICKET_KEY")
            doors = await Doors.open(own, tickets)
            face = Face(service, own, doors, tickets)
            server = Server(Application(face), own)
            ready = True
            log.info(
                "proxy_started",
                address="{}:{}".format(*listener.getsockname()[:2]),
                bridge=settings.ai.proxy.python_addr,
            )
            try:
                await server.run_until(stop, listener)
            finally:
                await doors.close()
        finally:
            await service.close()
    except AIProxyError as e:
        log.error("bridge_not_available", error=e.english)
        raise SystemExit(1) from None
    finally:
        listener.close()
        if operations is not None:
            operations.stop()
    log.info("proxy_stopped")


if __name__ == "__main__":
    run("proxy", main)
