"""What a client sends: bounded in size and time, and every mistake named by its field."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from qingyu_ai.bus.deadline import Deadline
from services.proxy.errors import SLOW_CLIENT, TOO_LARGE, UNSUPPORTED_MEDIA, AIProxyError, Invalid
from services.proxy.who import REQUEST_ID_KEY, new_request_id

Model = TypeVar("Model", bound=BaseModel)

REMAINING_KEY = "x-remaining-ms"
JSON, NDJSON = "application/json", "application/x-ndjson"
MOST_FIELDS = 20
"""Mistakes that one answer names."""

LONGEST_ID = 128
BOM = b"\xef\xbb\xbf"

CHINESE = {
    "missing": "必填",
    "extra_forbidden": "没有这个字段",
    "string_type": "须为文本",
    "string_too_short": "不能为空",
    "string_too_long": "过长",
    "string_unicode": "含有无效字符",
    "string_pattern_mismatch": "格式不正确",
    "int_type": "须为整数",
    "int_from_float": "须为整数",
    "float_type": "须为数字",
    "bool_type": "须为 true 或 false",
    "list_type": "须为列表",
    "dict_type": "须为对象",
    "model_type": "须为对象",
    "model_attributes_type": "须为对象",
    "literal_error": "不在可选值之内",
    "too_short": "不能为空",
    "greater_than_equal": "过小",
    "less_than_equal": "过大",
    "finite_number": "须为有限的数字",
    "json_invalid": "不是有效的 JSON",
    "union_tag_not_found": "必填",
    "union_tag_invalid": "不在可选值之内",
}
"""What pydantic finds, in Chinese; the rest is 无效."""

TAGS = "union_tag_"
"""How pydantic calls what is wrong with the field `type` of a WebSocket's message."""


async def body_of(request: Request, limit: int, seconds: float, *types: str) -> bytes:
    """Read a body.

    Args:
        types: media types that are taken.

    Raises:
        AIProxyError: it is of another type, too large, or too slow.
        ClientDisconnect: the client has gone.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in types:
        wanted = " or ".join(types)
        shown = given[:80] or "none"
        english = f"The content type must be {wanted}, not {shown}"
        raise AIProxyError(UNSUPPORTED_MEDIA, f"内容类型须为 {wanted}，而不是 {shown}", english)
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise AIProxyError(SLOW_CLIENT) from None
    return bytes(body)


def _too_large(limit: int) -> AIProxyError:
    return AIProxyError(
        TOO_LARGE, f"请求体超过上限 {limit} 字节", f"The body is larger than the limit of {limit} bytes"
    )


def parsed(model: type[Model], body: bytes | str, under: str = "") -> Model:
    """Read JSON into a model.

    Args:
        under: where in the request it stands, for the names of fields.

    Raises:
        Invalid: it does not fit; each field is named.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as e:
        if isinstance(body, bytes):
            _check_encoding(body, under or "body")
        raise invalid(e, under) from None


def _check_encoding(body: bytes, field: str) -> None:
    """Tell who sends GBK or UTF-16 that it is not the JSON that is wrong."""
    try:
        body.decode()
    except UnicodeDecodeError as e:
        what = f"must be UTF-8; byte {e.start} is not"
        raise Invalid((field, what), chinese=f"{field}：须为 UTF-8 编码，第 {e.start} 字节不是") from None
    if body.startswith(BOM):
        what = "must begin with its JSON, not with a byte order mark"
        raise Invalid((field, what), chinese=f"{field}：须以 JSON 开头，不能带 BOM")


def invalid(error: ValidationError, under: str = "") -> Invalid:
    """Say what does not fit, without showing the values."""
    found = error.errors(include_url=False, include_input=False)[:MOST_FIELDS]
    fields = [(_path(under, _location(e)), _sentence(e)) for e in found]
    chinese = "；".join(
        f"{_path(under, _location(e))}：{CHINESE.get(e['type'], '无效')}" for e in found
    )  # fmt: skip
    return Invalid(*fields, chinese=chinese)


def _location(error: ErrorDetails) -> tuple[Any, ...]:
    """Where it is wrong: of messages that are told apart by a field, that field."""
    return (*error["loc"], "type") if error["type"].startswith(TAGS) else error["loc"]


def _sentence(error: ErrorDetails) -> str:
    if error["type"].startswith(TAGS):
        # Without what was sent, which the words of pydantic would show.
        tags = error.get("ctx", {}).get("expected_tags")
        return f"must be one of {tags}" if tags else "field required"
    message = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _path(under: str, location: tuple[Any, ...]) -> str:
    path = under
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)[:LONGEST_ID]
    return path or "body"


def request_id_of(request: Request) -> str:
    """The id that the client has chosen, or a new one.

    Raises:
        Invalid: it cannot be one.
    """
    given = request.headers.get(REQUEST_ID_KEY)
    return new_request_id() if given is None else checked_id("X-Request-Id", given)


def checked_id(field: str, given: str) -> str:
    """Check a request id.

    Raises:
        Invalid: it cannot be one.
    """
    if not given or len(given) > LONGEST_ID or not all("!" <= c <= "~" for c in given):
        what = f"must be 1 to {LONGEST_ID} visible ASCII characters"
        raise Invalid((field, what), chinese=f"{field}：须为 1 到 {LONGEST_ID} 个可见 ASCII 字符")
    return given


def deadline_of(request: Request) -> Deadline | None:
    """How long the client waits, if it says so.

    Raises:
        Invalid: that is no time.
    """
    given = request.headers.get(REMAINING_KEY, "")
    if not given:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= 9):
        what = "must be a whole number of milliseconds"
        raise Invalid((REMAINING_KEY, what), chinese=f"{REMAINING_KEY}：须为整数毫秒")
    return Deadline.after(int(given) / 1000)


async def gone(request: Request) -> None:
    """Wait until the client has gone. Its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs, and wait for its end. Whoever wanted to know an error has asked."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
