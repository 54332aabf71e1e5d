"""How the HTTP face answers: JSON, and errors in one form."""

from __future__ import annotations

import math
import secrets
from typing import Any

import msgspec
import structlog
from starlette.responses import Response

from services.proxy.errors import NO_STATUS, AIProxyError

log = structlog.get_logger(__name__)

encode = msgspec.json.Encoder().encode


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON."""
    return Response(body, status, headers, "application/json")


def error_body(error: AIProxyError) -> bytes:
    """The error as JSON."""
    return encode({"error": error.to_dict()})


def error_response(error: AIProxyError) -> Response:
    """Answer with an error."""
    return json_response(error_body(error), error.http_status, error_headers(error))


def error_headers(error: AIProxyError) -> dict[str, str]:
    """What an error says in headers."""
    headers = {"Cache-Control": "no-store"}
    if error.request_id:
        headers["X-Request-Id"] = error.request_id
    if error.retry_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_seconds)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def defect(**facts: Any) -> AIProxyError:
    """An exception that nobody expected: logged once, shown as an id. Call it while the exception is handled."""
    error_id = secrets.token_hex(6)
    log.exception("proxy_failed", error_id=error_id, **facts)
    return AIProxyError(
        NO_STATUS,
        f"{NO_STATUS.chinese}（编号 {error_id}）",
        f"{NO_STATUS.english}; please report the id {error_id}",
    )
