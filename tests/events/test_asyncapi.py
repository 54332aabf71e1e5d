"""docs/asyncapi.json is what the code says, and AsyncAPI."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qingyu_ai.bus import subjects
from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Cancelled, Expired
from qingyu_ai.bus.headers import Envelope, decode
from qingyu_ai.bus.memory import MemoryBus
from qingyu_ai.bus.memory_broker import Broker
from qingyu_ai.bus.observing import Observed, Process
from qingyu_ai.events import asyncapi
from qingyu_ai.events.kinds import BY_NAME, KINDS
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.settings import Bus as BusSettings
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


class Noting(MemoryBus):
    """Notes the headers of what is published, by event."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker)
        self.noted: dict[str, set[str]] = {}

    def publish(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"") -> None:
        """Note it."""
        if subject.startswith(subjects.EVENTS):
            self.noted[subject.split(".")[4]] = set(decode(headers))
        super().publish(subject, data, reply=reply, headers=headers)


async def test_headers_are_those_that_are_sent() -> None:
    broker = Broker()
    bus = Noting(broker)
    publisher = Publisher(bus, BusSettings())
    envelope = Envelope("1" * 32, "req_1", Deadline.after(10), project="p1", traceparent="00-ab-cd-01")
    call, worker = Observed("agent", "ExecuteAgent", "plot", envelope, 4), Process("w", "agent", "1")
    publisher.accepted(call)
    publisher.started(call, "w", 1)
    publisher.first_token(call, 0.1)
    publisher.tool_called(call, 1, "t", 0.1, 0)
    publisher.worker_up(worker, 1)
    publisher.worker_draining(worker, 1)
    publisher.worker_down(worker, lost=True)
    for fault in (None, Expired(), Cancelled()):
        publisher.asked(call, 0.1, fault)
    broker.close()
    messages = asyncapi.document()["components"]["messages"]
    assert len(bus.noted) == 10
    for name, headers in bus.noted.items():
        declared = messages[BY_NAME[name].message.DESCRIPTOR.name]["headers"]
        assert set(declared["required"]) <= headers <= set(declared["properties"]), name


def test_program_without_a_file_says_how_it_is_run(tmp_path: Path) -> None:
    assert asyncapi.main([]) == 2
    assert asyncapi.main([str(tmp_path / "out.json")]) == 0
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == asyncapi.text()
