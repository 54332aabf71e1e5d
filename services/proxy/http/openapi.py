"""The OpenAPI 3.1 document, and a page for people, from the table and the models."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from qingyu_ai.routes import AGENT_TYPES
from services.proxy import models

from .operations import OPERATIONS, Operation

VERSION = "1"
ABOUT = (
    "Agents, chat, retrieval and tools for browsers and backends. 供浏览器与后端使用的智能体、对话、检索与工具接口。"
)
REFERENCE = "#/components/schemas/{model}"

EVENTS: dict[str, Any] = {"text/event-stream": {}}


class FieldError(BaseModel):
    """What is wrong with a field."""

    field: str
    description: str


class ErrorDetails(BaseModel):
    """A failure. Switch on `code`."""

    code: str
    category: str
    message: str
    """In Chinese."""
    messageEn: str  # a name of the wire
    httpStatus: int
    service: str
    retryable: bool
    requestId: str
    cause: str = ""
    retryAfterSeconds: float | None = None
    fields: list[FieldError] = Field(default_factory=list)


class ErrorAnswer(BaseModel):
    """Every answer that is no success."""

    error: ErrorDetails


def document() -> bytes:
    """The document as JSON."""
    return json.dumps(as_dict(), ensure_ascii=False, indent=1).encode()


def as_dict() -> dict[str, Any]:
    """The document."""
    answers: list[Any] = [(op.reply, "serialization") for op in OPERATIONS if op.reply]
    answers += [(models.BatchIndexResponse, "serialization"), (ErrorAnswer, "serialization")]
    asked: list[Any] = [(op.request, "validation") for op in OPERATIONS if op.request]
    _, schemas = models_json_schema(list(dict.fromkeys(answers + asked)), by_alias=True, ref_template=REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for op in OPERATIONS:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "青羽 AI Proxy",
            "version": VERSION,
            "description": ABOUT,
        },
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "backend": {"type": "apiKey", "in": "header", "name": "X-Backend-Key"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def _operation(op: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": op.name,
        "summary": f"{op.summary} · {op.chinese}",
        "parameters": [*_parameters(op)],
        "responses": {**_success(op), "default": _content(ErrorAnswer, "An error · 错误")},
    }
    if op.request:
        content = {"application/json": {"schema": _reference(op.request)}}
        if op.batches:
            content["application/x-ndjson"] = {"schema": {"type": "string"}}
        found["requestBody"] = {"required": True, "content": content}
    if not op.public:
        found["security"] = [{"token": []}, {"backend": []}, {"ticket": []}, {}]
    return found


def _parameters(op: Operation) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"{(\w+)}", op.path):
        schema: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 128}
        if name == "type":
            schema = {"type": "string", "enum": list(AGENT_TYPES)}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    found += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in op.parameters]
    return found


def _success(op: Operation) -> dict[str, Any]:
    if op.streams:
        return {"200": {"description": "Events: message, error, done", "content": EVENTS}}
    if op.reply is None:
        return {"204": {"description": "Done"}} if op.method == "DELETE" else {"200": {"description": "Text"}}
    if not op.batches:
        found = _content(op.reply, op.summary)
        if op.may_stream:
            found["content"] |= EVENTS
        return {"201" if op.name == "ticket" else "200": found}
    both = {"anyOf": [_reference(op.reply), _reference(models.BatchIndexResponse)]}
    return {"200": {"description": op.summary, "content": {"application/json": {"schema": both}}}}


def _content(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _reference(model)}}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def page() -> bytes:
    """The document for people: no script, nothing from elsewhere."""
    described = as_dict()
    rows = []
    for path, methods in described["paths"].items():
        for method, op in methods.items():
            body = op.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            named = body.get("$ref", "").rpartition("/")[2]
            link = f'<a href="#{named}">{named}</a>' if named else ""
            rows.append(
                f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
                f"<td>{html.escape(op['summary'])}</td><td>{link}</td></tr>"
            )
    schemas = "".join(
        f'<h3 id="{html.escape(name)}">{html.escape(name)}</h3>'
        f"<pre>{html.escape(json.dumps(schema, ensure_ascii=False, indent=2))}</pre>"
        for name, schema in described["components"]["schemas"].items()
    )
    return (
        '<!doctype html><html lang="zh-CN"><meta charset="utf-8"><title>青羽 AI Proxy</title>'
        "<style>body{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
        "td{padding:.2em 1em .2em 0;vertical-align:top}pre{background:#f4f4f4;padding:1em;overflow:auto}</style>"
        f"<h1>青羽 AI Proxy</h1><p>{html.escape(described['info']['description'])} "
        f'<a href="/openapi.json">OpenAPI 3.1</a></p><table>{"".join(rows)}</table>{schemas}</html>'
    ).encode()
