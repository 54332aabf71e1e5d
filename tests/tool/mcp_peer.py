"""An MCP server by the package mcp, for the tests: `python mcp_peer.py` on its pipes, `python mcp_peer.py --http PORT`.

`--before` speaks only the revisions of MCP before 2026-07-28. `--collide` adds a tool whose name is mapped to that of another
one; `--say WORD` adds a tool of that name.
It imports nothing of this project.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

import uvicorn
from mcp import MCPError, types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged

PIXEL = "iVBORw0KGgo="

FILE = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "文件路径", "minLength": 1},
        "lines": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
        "mode": {"$ref": "#/$defs/Mode"},
    },
    "required": ["path"],
    "additionalProperties": False,
    "$defs": {"Mode": {"type": "string", "enum": ["text", "bytes"]}},
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
NUMBER = {"type": "object", "properties": {"number": {"type": "number"}}, "required": ["number"]}
ABROAD = {"type": "object", "properties": {"one": {"$ref": "https://example.com/one.json"}}}

READ = types.ToolAnnotations(read_only_hint=True)


def tool(name: str, schema: dict[str, Any] = NOTHING, hints: types.ToolAnnotations | None = None) -> types.Tool:
    return types.Tool(name=name, description=f"测试：{name}", input_schema=schema, annotations=hints)


class Peer(Server[Any]):
    def __init__(self, *more: str) -> None:
        self.changes = InMemorySubscriptionBus()
        super().__init__(
            "peer",
            version="1",
            on_list_tools=self.list,
            on_call_tool=self.call,
            on_subscriptions_listen=ListenHandler(self.changes),
        )
        self.tools = [
            tool("Read-File", FILE, READ),
            tool("double", NUMBER),
            tool("wait", NUMBER),
            tool("long", NUMBER),
            tool("abroad", ABROAD),
            *(tool(name) for name in ("fail", "die", "environment", "grow", "shrink", "picture", "wrong")),
        ]
        self.tools += [tool(name) for name in more]

    def forget_what_is_new(self) -> None:
        self.add_request_handler("server/discover", types.RequestParams, _unknown)

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        return super().create_initialization_options(NotificationOptions(tools_changed=True))

    async def list(self, context: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=self.tools)

    async def call(self, context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        asked = params.arguments or {}
        match params.name:
            case "double":
                return types.CallToolResult(content=[], structured_content={"double": 2 * asked["number"]})
            case "wait":
                await asyncio.sleep(asked["number"])
            case "long":
                return text("字" * asked["number"])
            case "fail":
                return types.CallToolResult(content=[types.TextContent(text="磁盘已满")], is_error=True)
            case "die":
                os._exit(3)
            case "environment":
                return types.CallToolResult(content=[], structured_content=dict(os.environ))
            case "grow":
                self.tools.append(tool("grown"))
                await self.tell(context)
            case "shrink":
                self.tools = [one for one in self.tools if one.name != "grown"]
                await self.tell(context)
            case "picture":
                image = types.ImageContent(data=PIXEL, mime_type="image/png")
                return types.CallToolResult(content=[types.TextContent(text="一幅画"), image])
            case "wrong":
                raise ValueError("a defect of the server")
        return text(f"{params.name}: {asked}")

    async def tell(self, context: Any) -> None:
        await context.session.send_tool_list_changed()
        await self.changes.publish(ToolsListChanged())


async def _unknown(context: Any, params: Any) -> types.EmptyResult:
    raise MCPError(types.METHOD_NOT_FOUND, "Method not found")


def text(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=said)])


async def pipes(peer: Peer, *, before: bool) -> None:
    async with stdio_server() as (heard, said):
        if before:
            await serve_loop(peer, heard, said, lifespan_state={})
        else:
            await peer.run(heard, said, peer.create_initialization_options())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", type=int)
    parser.add_argument("--before", action="store_true")
    parser.add_argument("--collide", action="store_true")
    parser.add_argument("--say", default="")
    arguments = parser.parse_args()
    one = Peer(*["read.file"] * arguments.collide, *filter(None, [arguments.say]))
    if arguments.before:
        one.forget_what_is_new()
    if arguments.http:
        uvicorn.run(one.streamable_http_app(), host="127.0.0.1", port=arguments.http, log_level="warning")
    else:
        asyncio.run(pipes(one, before=arguments.before))
