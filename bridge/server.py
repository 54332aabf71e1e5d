"""The gRPC server around the handlers: options, health, reflection, start and drain."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from qingyu_ai.process import AddressTaken
from qingyu_ai.routes import services
from qingyu_ai.settings import Bridge

from .handlers import Edge
from .health import Health

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


async def start(edge: Edge, checks: Health, settings: Bridge) -> tuple[grpc.aio.Server, int]:
    """Listen.

    Returns:
        The server and its port.

    Raises:
        AddressTaken: the address cannot be had.
    """
    server = grpc.aio.server(options=options(settings))
    server.add_generic_rpc_handlers((edge.generic_handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(checks.servicer, server)
    if settings.authentication == "off":  # who has no token need not know what there is
        reflection.enable_server_reflection((*services(), health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"{settings.host}:{settings.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise AddressTaken(
            f"cannot listen on {address}: it is taken, or no address of this machine; "
            "set QINGYU_BRIDGE__PORT or QINGYU_BRIDGE__HOST"
        ) from None
    await server.start()
    return server, port
