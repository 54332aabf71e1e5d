"""What a caller may see of what went wrong, as a value that becomes a `google.rpc.Status` with details (ErrorInfo, RetryInfo,
BadRequest, LocalizedMessage) and is read from one."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from enum import IntEnum

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "qingyu.ai"
"""`ErrorInfo.domain` of every error of this system."""


class Code(IntEnum):
    """The canonical status codes (google/rpc/code.proto), so that only the edge needs to import grpc."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Fault(Exception):
    """An error that the caller may see.

    Args:
        code: the status.
        reason: UPPER_SNAKE_CASE, for `ErrorInfo.reason`; clients switch on it, so it never changes.
        message: one English sentence: what happened, which thing, what to do.
        chinese: the same in Chinese.
        retry_seconds: when it makes sense to try again; None: not by waiting.
        facts: `ErrorInfo.metadata`.
        violations: (field, what is wrong with it), for `BadRequest`.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        message: str,
        chinese: str,
        *,
        retry_seconds: float | None = None,
        facts: dict[str, str] | None = None,
        violations: Iterable[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.chinese = chinese
        self.retry_seconds = retry_seconds
        self.facts = facts or {}
        self.violations = tuple(violations)

    @functools.cached_property
    def status(self) -> bytes:
        """The encoded `google.rpc.Status`."""
        details: list[any_pb2.Any] = [
            _any(error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.facts))
        ]
        if self.retry_seconds is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_seconds * 1000))
            details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
        if self.violations:
            fields = [
                error_details_pb2.BadRequest.FieldViolation(field=field, description=what)
                for field, what in self.violations
            ]
            details.append(_any(error_details_pb2.BadRequest(field_violations=fields)))
        details.append(_any(error_details_pb2.LocalizedMessage(locale="zh-CN", message=self.chinese)))
        status = status_pb2.Status(code=int(self.code), message=self.message, details=details)
        return bytes(status.SerializeToString())

    @classmethod
    def from_status(cls, encoded: bytes) -> Fault:
        """Read back what `status` wrote, perhaps in another release."""
        status = status_pb2.Status.FromString(encoded)
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        localized, bad = error_details_pb2.LocalizedMessage(), error_details_pb2.BadRequest()
        retry_seconds = None
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(localized)
            detail.Unpack(bad)
            if detail.Unpack(retry):
                retry_seconds = retry.retry_delay.ToMilliseconds() / 1000
        try:
            code = Code(status.code)
        except ValueError:
            code = Code.UNKNOWN
        fault = cls(
            code,
            info.reason,
            status.message,
            localized.message,
            retry_seconds=retry_seconds,
            facts=dict(info.metadata),
            violations=[(v.field, v.description) for v in bad.field_violations],
        )
        fault.__dict__["status"] = encoded  # goes on to the caller as it came
        return fault


def retryable(status: bytes) -> bool:
    """Whether trying again may end otherwise: an encoded status that names a delay, or a deadline that was too short."""
    if not status:
        return False
    fault = Fault.from_status(status)
    return fault.retry_seconds is not None or fault.code is Code.DEADLINE_EXCEEDED


def _any(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.RetryInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.LocalizedMessage,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
