"""What a server answered, as the JSON text that our callers get."""

from __future__ import annotations

import json
from typing import Any

from mcp import types

from services.tool.errors import OutputTooLarge, ToolFailed

LONGEST_REASON = 2000
"""Characters of a server's error that are passed on."""


def json_of(tool: str, result: types.CallToolResult, max_output_bytes: int) -> str:
    """Write a result: its structured content if there is one, else its texts as `{"text": …}`.

    What has no form in a text (images, sounds) is named in `left_out`, by its media type.

    Raises:
        ToolFailed: the server says that the tool failed.
        OutputTooLarge: it is longer than `max_output_bytes`, in UTF-8.
    """
    if result.is_error:
        raise failed(tool, "\n".join(_texts(result)[0]))
    plain: Any = result.structured_content
    if plain is None:
        texts, left_out = _texts(result)
        plain = {"text": "\n".join(texts), **({"left_out": left_out} if left_out else {})}
    try:
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except ValueError:  # a NaN, or half a surrogate pair
        raise ToolFailed(
            f"The answer of the tool {tool} is no JSON", f"工具 {tool} 返回的结果不是合法的 JSON"
        ) from None
    if size > max_output_bytes:
        raise OutputTooLarge(tool, size, max_output_bytes)
    return text


def failed(tool: str, reason: str) -> ToolFailed:
    """The error of a tool whose server says why."""
    reason = " ".join(reason.encode("utf-8", "replace").decode().split())[:LONGEST_REASON]
    if not reason:
        return ToolFailed(f"The tool {tool} failed and gave no reason", f"工具 {tool} 执行失败，未说明原因")
    return ToolFailed(f"The tool {tool} failed: {reason}", f"工具 {tool} 执行失败：{reason}")


def _texts(result: types.CallToolResult) -> tuple[list[str], list[str]]:
    """The texts, and the media types of what is none."""
    texts: list[str] = []
    left_out: list[str] = []
    for block in result.content:
        match block:
            case types.TextContent():
                texts.append(block.text)
            case types.EmbeddedResource(resource=types.TextResourceContents() as inner):
                texts.append(inner.text)
            case types.EmbeddedResource():
                left_out.append(block.resource.mime_type or "resource")
            case types.ResourceLink():
                texts.append(block.uri)
            case types.ImageContent() | types.AudioContent():
                left_out.append(block.mime_type)
    return texts, left_out
