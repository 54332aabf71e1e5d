"""The gRPC server around the handlers: options, health, reflection, start and drain."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from qingyu_ai.doors.certificates import Files, Pem, Rotating
from qingyu_ai.process import AddressTaken
from qingyu_ai.routes import services
from qingyu_ai.settings import Bridge

from .handlers import Edge
from .health import Health

QUIET_TURNS = 5
QUIET_SECONDS = 0.002
"""A turn of the loop, and how many of them without a new call are a quiet moment."""

SETTLE_SECONDS = 1.0
"""How long a quiet moment is waited for; the drain begins with it, so that a call that came last has all of it."""

SLACK = 64 * 1024
"""Bytes over the message limit that gRPC lets pass, so that we can refuse them with a precise status."""


def options(settings: Bridge) -> list[tuple[str, Any]]:
    """Channel options, each with its reason."""
    age = round(settings.connection_age_seconds * 1000)
    return [
        # The Go backend pings every 10 s, also while idle; a default server ends its channel after 40 s of that.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        # A frozen client is noticed within 40 s.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # One value for both: between a soft and a hard limit, metadata is refused at random.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_receive_message_length", settings.max_message_bytes + SLACK),
        ("grpc.max_send_message_length", settings.max_message_bytes + SLACK),
        # A GOAWAY, after which calls that run have all the time they want: gRPC's own grace has no end.
        *([("grpc.max_connection_age_ms", age)] if age else []),
        # Several bridge processes share a port only when told to: otherwise a second one must fail.
        ("grpc.so_reuseport", 1 if settings.processes > 1 else 0),
    ]


def credentials(settings: Bridge) -> grpc.ServerCredentials | None:
    """What the bridge shows, and wants to see; read anew for each connection. None: no TLS.

    Raises:
        SettingsError: the certificates do not hold.
    """
    if settings.cert_file is None:
        return None
    files = Files("QINGYU_BRIDGE", settings.client_ca_file, settings.cert_file, settings.key_file, "CLIENT_CA_FILE")
    rotating = Rotating(files, _configuration)
    shown = [rotating.current]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        before, shown[0] = shown[0], rotating.current
        return None if shown[0] is before else shown[0]

    return grpc.dynamic_ssl_server_credentials(
        shown[0],
        fetch,  # type: ignore[arg-type]  # None says that nothing has changed, which the stubs do not know
        require_client_authentication=settings.client_ca_file is not None,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca or None)


async def start(edge: Edge, checks: Health, settings: Bridge) -> tuple[grpc.aio.Server, int]:
    """Listen.

    Returns:
        The server and its port.

    Raises:
        AddressTaken: the address cannot be had.
        SettingsError: the certificates do not hold.
    """
    secret = credentials(settings)
    server = grpc.aio.server(options=options(settings))
    server.add_generic_rpc_handlers((edge.generic_handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(checks.servicer, server)
    if settings.authentication == "off":  # who has no token need not know what there is
        reflection.enable_server_reflection((*services(), health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"{settings.host}:{settings.port}"
    try:
        port = server.add_secure_port(address, secret) if secret else server.add_insecure_port(address)
    except RuntimeError:
        raise AddressTaken(
            f"cannot listen on {address}: it is taken, or no address of this machine; "
            "set QINGYU_BRIDGE__PORT or QINGYU_BRIDGE__HOST"
        ) from None
    await server.start()
    return server, port


async def quiet(edge: Edge) -> None:
    """Wait for a moment in which nobody calls: the one to stop in.

    gRPC's core hands calls over one at a time, a turn of the loop for each. A call of a burst that still stands there
    when the server stops ends as CANCELLED, which no client tries again.
    """
    loop = asyncio.get_running_loop()
    latest = loop.time() + SETTLE_SECONDS
    arrived, turns = edge.arrived, 0
    while turns < QUIET_TURNS and loop.time() < latest:
        await asyncio.sleep(QUIET_SECONDS)
        turns = turns + 1 if edge.arrived == arrived else 0
        arrived = edge.arrived
