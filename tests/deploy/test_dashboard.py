"""deploy/grafana/qingyu-ai.json is a dashboard, and asks for metrics that there are."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana.dashboard import FILE, ROWS, encoded
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from qingyu_ai.settings import AiProxy
from services.proxy.metrics import Metrics
from services.proxy.protection import Protection
from tests.collector import Collector
from tests.ports import free_port
from tests.running import System, Worker
from tests.upstream.process import Upstream
from tests.upstream.replies import chat

DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
FIXED = 5
"""Minutes, in place of what Grafana fills in."""


def test_file_is_what_its_program_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == encoded(), "run `make dashboard`"


def test_grafanas_own_models_read_all_of_it() -> None:
    register_default_plugins()
    read = Dashboard.from_json(DASHBOARD)
    assert json.loads(JSONEncoder(sort_keys=True).encode(read)) == DASHBOARD


def test_panels_have_places_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == list(ROWS)


def selectors(node: Any) -> Iterator[Any]:
    """All selectors of an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "args", "param"):
        below = getattr(node, name, None)
        for one in below if isinstance(below, list | tuple) else [below] if below is not None else []:
            yield from selectors(one)


def selected(expression: str) -> list[Any]:
    return list(selectors(promql_parser.parse(expression.replace("$__rate_interval", f"{FIXED}m"))))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_is_promql_over_some_metric(expression: str) -> None:
    assert selected(expression)


def labels_used(expression: str) -> set[str]:
    """That it groups by."""
    return {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}


class Exported:
    """Samples of processes' metrics, by name: the labels that each has."""

    def __init__(self) -> None:
        self.labels: dict[str, set[str]] = {}

    def add(self, text: str) -> None:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.labels.setdefault(sample.name, set()).update(sample.labels)
            # A counter with labels has no sample before it has counted.
            self.labels.setdefault(f"{family.name}_total" if family.type == "counter" else family.name, set())
            if family.type == "histogram":
                self.labels.setdefault(f"{family.name}_bucket", {"le"})


@pytest.fixture(scope="module")
def exported() -> Exported:
    """What a running system exports, traces on, after one answer of a model."""
    found = Exported()
    port = str(free_port())
    with Collector() as collector, Upstream() as upstream:
        worker = Worker("services.chat", "chat", {"QINGYU_CHAT__METRICS_PORT": port})
        settings = {
            "QINGYU_TRACE__ENDPOINT": collector.endpoint,
            "QINGYU_LLM__BASE_URL": upstream.base_url,
            "QINGYU_LLM__MODEL": "novel",
        }
        with System(worker, settings=settings) as system, grpc.insecure_channel(system.target) as channel:
            upstream.script("novel", chat("雨停了。"))
            asked = ai.ChatRequest(messages=[common.Message(role="user", content="续写")])
            stub = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
            assert "".join(chunk.delta for chunk in stub.ChatStream(asked, timeout=40)) == "雨停了。"
            for metrics in (port, str(system.bridges[0].metrics_port)):
                found.add(page(metrics))
    found.add(proxy_page())
    return found


def page(port: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def proxy_page() -> str:
    """What an AI Proxy shows."""
    metrics = Metrics(CollectorRegistry())
    metrics.watch(Protection(AiProxy()))
    return generate_latest(metrics.registry).decode()


SCRAPED = frozenset(("job", "instance"))
"""Labels that Prometheus itself puts on all."""


@pytest.mark.once
@pytest.mark.xdist_group("dashboard")
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_metrics_are_exported_by_a_running_system(expression: str, exported: Exported) -> None:
    for selector in selected(expression):
        assert selector.name in exported.labels
        there = exported.labels[selector.name]
        wanted = {matcher.name for matcher in selector.matchers.matchers if matcher.name != "__name__"}
        wanted |= labels_used(expression) - SCRAPED
        if there - {"le"}:  # it has samples
            assert wanted <= there, selector.name
