"""The document says what there is; tests/e2e/test_proxy_schema.py compares it with what happens."""

from __future__ import annotations

import re
from typing import Any

from jsonschema_rs import validator_for

from services.proxy.http import openapi
from services.proxy.http.face import Face
from services.proxy.http.operations import OPERATIONS
from tests.proxy.http.conftest import Site

SPEC_NAMES = [
    "agentType",
    "task",
    "context",
    "tools",
    "userId",
    "projectId",
    "options",
    "stream",
    "model",
    "temperature",
    "maxTokens",
    "maxRetries",
    "timeoutSeconds",
    "enableReasoning",
    "output",
    "toolCalls",
    "toolName",
    "parameters",
    "result",
    "durationMs",
    "success",
    "status",
    "reasoning",
    "stats",
    "tokensUsed",
    "toolCallsCount",
    "retryCount",
    "error",
]
"""Names of the caller's side that frontends and backends are written for."""


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(part) for part in value.values()))
    return set().union(*(references(part) for part in value)) if isinstance(value, list) else set()


def test_every_reference_leads_to_a_schema_that_holds() -> None:
    document = openapi.as_dict()
    schemas = document["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in references(document)} <= set(schemas)
    for name, schema in schemas.items():
        validator_for({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})
        assert "title" in schema


def test_every_row_is_in_it_and_has_its_handler() -> None:
    paths = openapi.as_dict()["paths"]
    assert {(op.path, op.method.lower()) for op in OPERATIONS} == {(p, m) for p, ms in paths.items() for m in ms}
    for op in OPERATIONS:
        assert callable(getattr(Face, op.name))
        assert re.search("[\u4e00-\u9fff]", op.chinese)


def test_names_are_those_of_the_callers_side() -> None:
    schemas = openapi.as_dict()["components"]["schemas"]
    names = {name for schema in schemas.values() for name in schema.get("properties", {})}
    assert set(SPEC_NAMES) <= names
    assert not [name for name in names if "_" in name]


async def test_document_and_page_are_served(site: Site) -> None:
    document = (await site.client.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    page = await site.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for op in OPERATIONS:
        assert op.path in page.text
    assert not re.search(r"<script|https?://", page.text)
