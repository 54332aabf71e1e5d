"""What an endpoint's error answer means. Endpoints agree on the status more than on the body, so both are looked at."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from .faults import Upstream

MAX_BODY_BYTES = 64 * 1024
"""Of an error that is read; an HTML page may be longer."""

LONGEST_RETRY_SECONDS = 600.0

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""What reading JSON raises: also for bytes that are no UTF-8, and for what is nested too deeply."""

_CONTEXT = re.compile(
    "context_length|context length|context window|maximum context|max_model_len|too many tokens|prompt is too long"
    "|range of input length|exceed.{0,40}context|input.{0,20}too long|string_above_max_length"
    "|上下文|输入.{0,6}过长|超过.{0,8}长度",
    re.IGNORECASE,
)
_CONTENT = re.compile(
    "content_filter|content_policy|data_inspection_failed|sensitive|risk control|敏感|违规|不安全", re.IGNORECASE
)
_MODEL = re.compile(
    "model_not_found|model.{0,60}(not exist|not found|does not exist|unknown)|no such model|模型不存在|无效的模型",
    re.IGNORECASE,
)
_QUOTA = re.compile(
    "insufficient_quota|insufficient balance|exceeded_current_quota|arrearage|billing|余额|欠费", re.IGNORECASE
)


def kind_of(status: int, text: str) -> Upstream:
    """Which failure a status and the text of an error are."""
    match status:
        case 401 | 403 if not _CONTENT.search(text):
            return Upstream.KEY_REFUSED
        case 402:
            return Upstream.QUOTA_USED_UP
        case 404 | 410 | 501:
            return Upstream.NOT_AVAILABLE
        case 413:
            return Upstream.CONTEXT_TOO_LONG
        case 429:
            return Upstream.QUOTA_USED_UP if _QUOTA.search(text) else Upstream.BUSY
        case 408 | 409 | 425:
            return Upstream.FAILED
        case _ if 400 <= status < 500:
            for pattern, kind in (
                (_CONTEXT, Upstream.CONTEXT_TOO_LONG),
                (_MODEL, Upstream.NOT_AVAILABLE),
                (_CONTENT, Upstream.CONTENT_REFUSED),
            ):
                if pattern.search(text):
                    return kind
            return Upstream.REFUSED_REQUEST
        case _ if 500 <= status < 600:
            return Upstream.FAILED
    return Upstream.ANSWER_BROKEN  # a redirect, or no HTTP at all


def text_of(body: bytes) -> str:
    """The words of an error answer: code, type and message, wherever the endpoint put them."""
    try:
        answer = msgspec.json.decode(body)
    except UNREADABLE:
        return body[:MAX_BODY_BYTES].decode("utf-8", "replace")
    return _words(answer)


def _words(answer: Any) -> str:
    if isinstance(answer, dict):
        if "error" in answer:
            return _words(answer["error"])
        parts = (answer.get(key) for key in ("code", "type", "message", "msg", "detail"))
        return " ".join(part if isinstance(part, str) else str(part) for part in parts if part)
    return str(answer)


def status_in(error: bytes) -> int:
    """The HTTP status that an error inside a stream stands for; 500 if it names none."""
    try:
        answer = msgspec.json.decode(error)
    except UNREADABLE:
        return 500
    for key in ("status", "status_code", "code"):
        value = answer.get(key) if isinstance(answer, dict) else None
        number = int(value) if isinstance(value, int | str) and str(value).isdecimal() else 0
        if 400 <= number < 600:
            return number
    return 400 if _CONTEXT.search(text_of(error)) else 500


def kind_in(body: bytes) -> Upstream:
    """Which failure an error is that came without a status of its own."""
    text = text_of(body)
    return Upstream.QUOTA_USED_UP if _QUOTA.search(text) else kind_of(status_in(body), text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint wants to be left alone: `retry-after-ms`, or Retry-After as seconds or as a date (RFC 9110)."""
    seconds: float
    try:
        if value := headers.get("retry-after-ms"):
            seconds = float(value) / 1000
        elif value := headers.get("retry-after"):
            try:
                seconds = float(value)
            except ValueError:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        else:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_RETRY_SECONDS) if seconds == seconds else None
