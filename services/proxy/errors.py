"""What can go wrong, as the caller's side is told: one small hierarchy, and one table from gRPC statuses to it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from qingyu_ai.bus.fault import Code, Fault

CATEGORY = "ai"
SERVICE = "ai_proxy"
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Kind:
    """A kind of failure. Clients switch on `code`, so it never changes."""

    code: str
    http: int
    chinese: str = ""
    """Empty: what the other side says."""
    english: str = ""
    waiting_helps: bool = False
    """Whether the same request may be sent again."""


RATE_LIMIT = Kind("RATE_LIMIT", 429, "请求过于频繁，请稍后再试", "Too many requests; try again in a moment", True)
CIRCUIT_OPEN = Kind(
    "SERVICE_UNAVAILABLE",
    503,
    "AI服务暂时不可用，请稍后再试",
    "The AI service rests after failures; try again later",
    True,
)
TIMEOUT = Kind("TIMEOUT", 504, "AI服务响应超时", "The AI service did not answer in time", True)
UNAVAILABLE = Kind("SERVICE_UNAVAILABLE", 503, "AI服务不可用", "The AI service is not available", True)
EXHAUSTED = Kind("RATE_LIMIT", 429, "AI服务资源耗尽", "The AI service has no room for more", True)
VALIDATION = Kind("VALIDATION", 400)
UNAUTHENTICATED = Kind("UNAUTHENTICATED", 401)
PERMISSION_DENIED = Kind("PERMISSION_DENIED", 403)
NOT_FOUND = Kind("NOT_FOUND", 404)
ALREADY_EXISTS = Kind("ALREADY_EXISTS", 409)
CANCELLED = Kind("CANCELLED", 499, "请求已取消", "The request was cancelled")
NO_STATUS = Kind("INTERNAL", 500, "AI服务调用失败", "The call of the AI service failed")
INTERNAL = Kind("INTERNAL", 500)
AGENT_FAILED = Kind("5001", 500, "智能体执行失败", "The agent failed")
RAG_FAILED = Kind("5002", 500, "检索服务失败", "Retrieval failed")
TOOL_FAILED = Kind("5003", 500, "工具执行失败", "The tool failed")
NO_MODEL = Kind("5004", 503)

METHOD_NOT_ALLOWED = Kind("METHOD_NOT_ALLOWED", 405, "该地址不支持此请求方法", "This path does not take this method")
NO_UPGRADE = Kind("UPGRADE_REQUIRED", 426, "该地址只接受 WebSocket", "This path is a WebSocket")
SLOW_CLIENT = Kind("REQUEST_TIMEOUT", 408, "请求发送超时", "The request did not arrive in time")
TOO_LARGE = Kind("TOO_LARGE", 413)
UNSUPPORTED_MEDIA = Kind("UNSUPPORTED_MEDIA_TYPE", 415)
STOPPING = Kind("SERVICE_UNAVAILABLE", 503, "服务正在重启，请重试", "This proxy is stopping; try again", True)

FROM_STATUS: dict[Code, Kind] = {
    Code.DEADLINE_EXCEEDED: TIMEOUT,
    Code.UNAVAILABLE: UNAVAILABLE,
    Code.INVALID_ARGUMENT: VALIDATION,
    Code.RESOURCE_EXHAUSTED: EXHAUSTED,
    Code.UNAUTHENTICATED: UNAUTHENTICATED,
    Code.PERMISSION_DENIED: PERMISSION_DENIED,
    Code.NOT_FOUND: NOT_FOUND,
    Code.ALREADY_EXISTS: ALREADY_EXISTS,
    Code.CANCELLED: CANCELLED,
}
"""Every other status is INTERNAL."""

TRIPS = frozenset((Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS))
"""What the breaker counts."""

CODES = {code.value[0]: Code(code.value[0]) for code in grpc.StatusCode}
EXCEPTIONS = ("Unexpected <class ", "Exception calling application: ")
"""How gRPC's servers begin the status of an exception that nobody caught (UNKNOWN): what follows is for no caller."""


class AIProxyError(Exception):
    """A call failed. Safe to show.

    Args:
        kind: what kind of failure it is.
        message: in Chinese; empty: what its kind says.
        english: the same in English.
        status: of gRPC; None: the failure is the caller's side's own.
        reason: `ErrorInfo.reason` of the other side.
        retry_seconds: when it makes sense to try again.
        fields: (field, what is wrong with it).
        retryable: None: as its kind says.
    """

    category = CATEGORY
    service = SERVICE

    def __init__(
        self,
        kind: Kind,
        message: str = "",
        english: str = "",
        *,
        status: Code | None = None,
        reason: str = "",
        retry_seconds: float | None = None,
        fields: Iterable[tuple[str, str]] = (),
        retryable: bool | None = None,
    ) -> None:
        self.kind = kind
        self.code = kind.code
        self.http_status = kind.http
        self.message = message or kind.chinese
        self.english = english or kind.english or self.message
        super().__init__(f"{self.message} / {self.english}")
        self.status = status
        self.reason = reason
        self.retry_seconds = retry_seconds
        self.fields = tuple(fields)
        self.retryable = kind.waiting_helps if retryable is None else retryable
        self.request_id = ""

    @property
    def trips(self) -> bool:
        """Whether the breaker counts it."""
        return self.status in TRIPS

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON has it."""
        found: dict[str, Any] = {
            "code": self.code,
            "category": self.category,
            "message": self.message,
            "messageEn": self.english,
            "httpStatus": self.http_status,
            "service": self.service,
            "retryable": self.retryable,
            "requestId": self.request_id,
        }
        if self.reason:
            found["cause"] = self.reason
        if self.retry_seconds is not None:
            found["retryAfterSeconds"] = self.retry_seconds
        if self.fields:
            found["fields"] = [{"field": field, "description": what} for field, what in self.fields]
        return found


class Invalid(AIProxyError):
    """A request breaks a rule; each violation names the field."""

    def __init__(self, *fields: tuple[str, str], chinese: str = "") -> None:
        said = "; ".join(f"{field}: {what}" for field, what in fields)
        super().__init__(
            VALIDATION, f"请求无效：{chinese or said}", f"The request is not valid: {said}", fields=fields
        )  # fmt: skip


def failure(kind: Kind, said: str, reason: str = "", request_id: str = "") -> AIProxyError:
    """Make an error of an answer that says that the work failed.

    Args:
        kind: what failed.
        said: why, as answers have it: English, or `English / Chinese`.
    """
    english, _, chinese = said.partition(" / ")
    error = AIProxyError(
        kind,
        f"{kind.chinese}：{chinese or english}" if said else "",
        f"{kind.english}: {english}" if said else "",
        reason=reason,
    )
    error.request_id = request_id
    return error


def from_grpc(error: grpc.RpcError) -> AIProxyError:
    """Translate what gRPC raised, by the table; it becomes the cause."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return _caused(AIProxyError(NO_STATUS), error)
    code = CODES[error.code().value[0]]
    fault = _details(error)
    words = (error.details() or code.name.lower().replace("_", " "), "")
    if fault is not None:
        words = fault.message, fault.chinese
    kind = FROM_STATUS.get(code, INTERNAL)
    if fault is not None and fault.facts.get("code") == NO_MODEL.code:
        kind = NO_MODEL
    elif code is Code.UNKNOWN and words[0].startswith(EXCEPTIONS):
        words = NO_STATUS.english, NO_STATUS.chinese
    # Who answered with details and no delay has said that waiting does not help; a timeout may just need another try.
    final = fault is not None and fault.retry_seconds is None and code is not Code.DEADLINE_EXCEEDED
    translated = AIProxyError(
        kind,
        "" if kind.chinese else words[1] or words[0],
        "" if kind.chinese and fault is None else words[0],
        status=code,
        reason=fault.reason if fault is not None else code.name,
        retry_seconds=fault.retry_seconds if fault is not None else None,
        fields=[(_camel(field), what) for field, what in fault.violations] if fault is not None else (),
        retryable=kind.waiting_helps and not final,
    )
    return _caused(translated, error)


def _details(error: grpc.aio.AioRpcError) -> Fault | None:
    encoded = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if not isinstance(encoded, bytes):
        return None
    try:
        return Fault.from_status(encoded)
    except DecodeError:
        return None


def _camel(field: str) -> str:
    """A field as the caller's side calls it: `options.max_tokens` is `options.maxTokens`. Keys of maps stay as they are."""
    if field.partition(".")[0] in ("parameters", "context", "metadata"):
        return field
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), field)


def _caused(error: AIProxyError, cause: BaseException) -> AIProxyError:
    error.__cause__ = cause
    return error
