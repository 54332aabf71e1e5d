"""Alerts are raised by what they are meant for, name metrics that there are, and are explained to who is woken up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.manifests import ROOT, Document, of_kind
from tests.optional import require_tool

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
METRIC = re.compile(r"\b((?:qingyu|ai|process)_[a-z_]+)\b")

# By alert: series with a value for each minute, and the labels of the alert that they must raise (promtool's notation).
RAISED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "QingyuNoWorkers": ({'qingyu_bridge_workers{kind="tool"}': "1 0x30"}, {"kind": "tool"}),
    "QingyuNoBridges": ({"qingyu_bridge_bus_connected": "0x30"}, {}),
    "QingyuBridgeCutOff": ({'qingyu_bridge_bus_connected{pod="b1"}': "1 0x30"}, {"pod": "b1"}),
    "QingyuCallsFail": (
        {
            'qingyu_bridge_calls_total{method="Chat",code="OK"}': "0+60x20",
            'qingyu_bridge_calls_total{method="Chat",code="INTERNAL"}': "0+3x20",
        },
        {"method": "Chat"},
    ),
    "QingyuDataLoss": (
        {'qingyu_bridge_calls_total{method="ChatStream",code="DATA_LOSS"}': "0x17 1x20"},
        {"method": "ChatStream"},
    ),
    "QingyuCallsRefused": ({"qingyu_bridge_refused_total": "0+1x20"}, {}),
    "QingyuJobsWait": ({'qingyu_queue_waiting{queue="chat"}': "51x20"}, {"queue": "chat"}),
    "QingyuStreamNearlyFull": (
        {
            'qingyu_stream_bytes{stream="AI_JOBS"}': "81x20",
            'qingyu_stream_max_bytes{stream="AI_JOBS"}': "100x20",
        },
        {"stream": "AI_JOBS"},
    ),
    "QingyuFirstChunkSlow": (
        {
            'qingyu_bridge_first_chunk_seconds_bucket{method="Chat",le="10"}': "0+9x30",
            'qingyu_bridge_first_chunk_seconds_bucket{method="Chat",le="30"}': "0+10x30",
            'qingyu_bridge_first_chunk_seconds_bucket{method="Chat",le="+Inf"}': "0+10x30",
        },
        {"method": "Chat"},
    ),
    "QingyuDeadLetters": ({'qingyu_stream_bytes{stream="AI_DEAD"}': "500x20"}, {}),
    "QingyuDeadLettersLost": ({"qingyu_worker_dead_letters_lost": "1x20"}, {}),
    "QingyuSuspects": ({'qingyu_worker_suspects{component="rag"}': "1x20"}, {"component": "rag"}),
    "QingyuProcessRestarts": (
        {'process_start_time_seconds{component="chat",pod="c1"}': "1 2 3 4 5x20"},
        {"component": "chat", "pod": "c1"},
    ),
    "QingyuBreakerOpen": ({'ai_proxy_breaker_state{pod="p1"}': "2x20"}, {"pod": "p1"}),
    "QingyuModelFails": (
        {'qingyu_model_errors_total{model="deepseek",reason="timeout"}': "0+60x20"},
        {"model": "deepseek", "reason": "timeout"},
    ),
}

# The same series, a little short of what is meant.
QUIET: dict[str, dict[str, str]] = {
    "QingyuNoWorkers": {
        'qingyu_bridge_workers{kind="tool",pod="b1"}': "0x20",
        'qingyu_bridge_workers{kind="tool",pod="b2"}': "1x20",
    },
    "QingyuNoBridges": {'qingyu_bridge_bus_connected{pod="b1"}': "0x20", 'qingyu_bridge_bus_connected{pod="b2"}': "1x20"},
    "QingyuCallsFail": {
        'qingyu_bridge_calls_total{method="Chat",code="OK"}': "0+60x20",
        'qingyu_bridge_calls_total{method="Chat",code="INVALID_ARGUMENT"}': "0+30x20",
    },
    "QingyuStreamNearlyFull": {
        'qingyu_stream_bytes{stream="AI_LOG"}': "99x20",
        'qingyu_stream_max_bytes{stream="AI_LOG"}': "100x20",
    },
    "QingyuJobsWait": {'qingyu_queue_waiting{queue="chat"}': "51 51 51 0x20"},
    "QingyuDeadLetters": {'qingyu_stream_bytes{stream="AI_DEAD"}': "0x20"},
    "QingyuProcessRestarts": {'process_start_time_seconds{component="chat",pod="c1"}': "1 2x20"},
}  # fmt: skip


def rules(prod: list[Document]) -> dict[str, Document]:
    [described] = of_kind(prod, "PrometheusRule")
    return {rule["alert"]: rule for group in described["spec"]["groups"] for rule in group["rules"]}


def told(folder: Path, prod: list[Document], cases: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Have promtool evaluate the rules over series."""
    [described] = of_kind(prod, "PrometheusRule")
    (folder / "rules.yaml").write_text(yaml.safe_dump(described["spec"], allow_unicode=True))
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases}
    (folder / "test.yaml").write_text(yaml.safe_dump(test, allow_unicode=True))
    command = [require_tool("promtool"), "test", "rules", "test.yaml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def case(alert: str, series: dict[str, str], raised: list[dict[str, str]]) -> dict[str, Any]:
    """Whether an alert is raised after 20 minutes, and with which labels."""
    firing = {"__name__": "ALERTS", "alertname": alert, "alertstate": "firing"}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                "eval_time": "20m",
                "exp_samples": [{"labels": _selector({**firing, **labels}), "value": 1} for labels in raised],
            }
        ],
    }


def _selector(labels: dict[str, str]) -> str:
    named = ",".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__")
    return f"{labels['__name__']}{{{named}}}"


def test_every_alert_is_raised_by_what_it_is_meant_for(prod: list[Document], tmp_path: Path) -> None:
    assert set(RAISED) == set(rules(prod))
    cases = [
        case(alert, RAISED[alert][0], [{**rule["labels"], **RAISED[alert][1]}]) for alert, rule in rules(prod).items()
    ]
    done = told(tmp_path, prod, cases)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_raised_by_less(prod: list[Document], tmp_path: Path) -> None:
    done = told(tmp_path, prod, [case(alert, series, []) for alert, series in QUIET.items()])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["alerts", "scaling"])
def test_metrics_are_those_that_the_processes_make(prod: list[Document], what: str) -> None:
    """Of a system that runs: tests/deploy/test_processes.py asks one."""
    found = queried(prod, what)
    assert len(found) >= {"alerts": 12, "scaling": 4}[what]


def queried(prod: list[Document], what: str) -> set[str]:
    """The metrics that alerts, or the autoscaler, ask for."""
    if what == "alerts":
        return {name for rule in rules(prod).values() for name in METRIC.findall(rule["expr"])}
    scaled = of_kind(prod, "ScaledObject")
    queries = [trigger["metadata"]["query"] for one in scaled for trigger in one["spec"]["triggers"]]
    return {name for query in queries for name in METRIC.findall(query)}


def test_every_alert_has_a_section_that_its_annotation_leads_to(prod: list[Document]) -> None:
    anchors = {
        re.sub(r"[^\w-]", "", title.strip().lower().replace(" ", "-")) for title in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    for alert, rule in rules(prod).items():
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, f"{alert} has no section"
    explained = set(re.findall(r"^#+ (Qingyu\w+)$", PAGE, re.M))
    assert explained == set(rules(prod))
