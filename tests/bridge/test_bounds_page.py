"""docs/bounds.md names settings, metrics, streams and tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from qingyu_ai.bus import topology
from qingyu_ai.events.publishing import Publisher
from qingyu_ai.process import observe, watch_events
from qingyu_ai.settings import Bridge as BridgeSettings
from qingyu_ai.settings import Bus, Chat, ChatModel, Rag
from qingyu_ai.tracing.recording import counter
from services.llm.meters import Meters
from services.rag.database import Database
from services.rag.meters import show
from tests.bridge.conftest import Bridge

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {"bridge": BridgeSettings, "bus": Bus, "chat": Chat, "rag": Rag}


def test_settings_are_there() -> None:
    named = re.findall(r"`(bridge|bus|chat|rag)\.(\w+)`", PAGE)
    assert len(named) > 20
    assert [f"{section}.{name}" for section, name in named if name not in SECTIONS[section].model_fields] == []
    assert re.findall(r"`llm\.models\.<alias>\.(\w+)`", PAGE) == ["connections"]
    assert "connections" in ChatModel.model_fields


def test_every_size_has_a_line() -> None:
    sizes = {name for name in Bus.model_fields if name.endswith(("_bytes", "_frames", "_readers", "_calls"))}
    assert {name for name in sizes if f"`bus.{name}`" not in PAGE} == set()


async def test_metrics_are_there(bridge: Bridge) -> None:
    named = set(re.findall(r"`(qingyu_\w+)`", PAGE))
    mine = CollectorRegistry()
    observe(await bridge.worker(), mine)
    Meters(mine)
    show(Database("", Rag()), mine)
    counter(mine)
    watch_events(Publisher(bridge.bus, bridge.settings.bus), mine)
    there = {metric.name for registry in (bridge.registry, mine) for metric in registry.collect()}
    assert named - there == set()


def test_streams_and_tests_are_there() -> None:
    streams = {plan.name for plan in topology.plans(Bus())}
    assert set(re.findall(r"`((?:AI|KV)_\w+)`", PAGE)) <= streams
    assert [path for path in re.findall(r"`(tests/\S+\.py)`", PAGE) if not (ROOT / path).is_file()] == []
