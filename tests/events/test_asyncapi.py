"""docs/asyncapi.json is what the code says, and AsyncAPI."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qingyu_ai.events import asyncapi
from qingyu_ai.events.kinds import KINDS
from tests.optional import ROOT, require_npm, require_package

PATH = ROOT / "docs" / "asyncapi.json"


def references(node: Any) -> Iterator[str]:
    match node:
        case dict():
            for name, value in node.items():
                if name == "$ref":
                    yield value
                else:
                    yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def test_the_committed_document_is_what_the_code_says() -> None:
    assert PATH.read_text(encoding="utf-8") == asyncapi.text(), f"run python -m qingyu_ai.events.asyncapi {PATH.name}"


def test_every_event_has_a_channel_an_operation_and_a_message() -> None:
    document = asyncapi.document()
    names = {kind.name for kind in KINDS}
    assert set(document["channels"]) == names
    assert {operation["channel"]["$ref"] for operation in document["operations"].values()} == {
        f"#/channels/{name}" for name in names
    }
    assert len(document["components"]["messages"]) == len(KINDS)


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()
    found = set(references(document))
    assert len(found) > len(KINDS)
    for reference in found:
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_the_document_is_asyncapi_3() -> None:
    require_package("jsonschema")
    schemas = require_npm("@asyncapi/specs") / "@asyncapi/specs/schemas"
    schema = json.loads((schemas / "3.0.0-without-$id.json").read_text(encoding="utf-8"))
    validator = importlib.import_module("jsonschema").Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(asyncapi.document())] == []
    broken = asyncapi.document()
    broken["channels"]["completed"]["adress"] = broken["channels"]["completed"].pop("address")
    assert list(validator.iter_errors(broken))


def test_program_without_a_file_says_how_it_is_run(tmp_path: Path) -> None:
    assert asyncapi.main([]) == 2
    assert asyncapi.main([str(tmp_path / "out.json")]) == 0
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == asyncapi.text()
