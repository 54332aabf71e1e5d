"""The section of the gRPC edge."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FilePath, model_validator

from .sections import KIB, MIB, Port, Seconds
from .tokens import LOOPBACK, Tokens


class Bridge(Tokens):
    """The gRPC edge. `authentication` off: whoever calls is believed, on loopback only; required: a verified token."""

    host: str = "127.0.0.1"
    port: Port = 50051
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Bridge processes that `up` starts on the same port (SO_REUSEPORT)."""
    anyone_may_call: bool = False
    """Whether `authentication` may be off where other machines can call: everybody is then whoever they say."""
    trusted_roles: tuple[str, ...] = ()
    """Roles of services that may act for any user: in their calls the user is who the request names."""
    signing_key_file: FilePath | None = None
    """Signs calls of tools with `requires_auth`: a private key, PEM (Ed25519). None: such tools are not called."""
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 9464
    expected_workers: tuple[str, ...] = ("chat", "tool", "agent", "rag")
    """Kinds of worker without which HealthCheck says `unhealthy`. A deployment that runs fewer kinds names those."""
    max_message_bytes: Annotated[int, Field(ge=KIB)] = 4 * MIB
    max_metadata_bytes: Annotated[int, Field(ge=KIB)] = 16 * KIB
    max_calls: Annotated[int, Field(ge=1)] = 4000
    """Calls open at once in one process; one more is refused with RESOURCE_EXHAUSTED."""
    max_batch_in_flight: Annotated[int, Field(ge=1)] = 16
    """Documents of one BatchIndex that are on their way at once."""
    batch_patience_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """For which a BatchIndex that has begun waits when no worker is there; after that its documents fail until there is one."""
    longest_linger_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 120.0
    """A caller may ask that its call go on for a while when it is lost (`x-linger-ms`); a longer while is cut to this one."""
    connection_age_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """How old a caller's connection gets until it is asked to make a new one, give or take a tenth; its calls end in peace. So
    callers of many bridges find one that was added. 0: any age."""
    drain_seconds: Seconds = 30.0

    @model_validator(mode="after")
    def _doors_hold(self) -> Bridge:
        if self.authentication == "required" and not any(self.key_names.values()):
            raise ValueError(f"authentication is required, and none of {', '.join(self.key_names)} is set")
        if self.authentication == "off" and self.host not in LOOPBACK and not self.anyone_may_call:
            raise ValueError(
                f"authentication is off, so host must be an address of this machine only, not {self.host}; "
                "set authentication to required, or say that everybody may call as anybody with anyone_may_call"
            )
        if self.trusted_roles and not self.roles_claim:
            raise ValueError("trusted_roles is set, and roles_claim, which they are read from, is empty")
        return self
