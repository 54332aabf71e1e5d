"""Writes the dashboard beside it: `make dashboard`. Rows and panels are tables here, so that a change is a line.

Made by Grafana's own models, so that what it writes is a dashboard. A test compares the file with this, and the metrics with
those of a running system.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, SortOrder, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FILE = Path(__file__).with_name("qingyu-ai.json")

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

WIDTH, HEIGHT = 8, 8
"""Of a panel; a row of the grid is 24 wide."""

JOBS = '{stream=~"AI_CHAT|AI_JOBS"}'
RETRIEVAL = '{method=~"Search|IndexDocument|DeleteDocument|BatchIndex"}'

PROCESS = "job, instance"


class Line(NamedTuple):
    """One query."""

    expression: str
    legend: str = ""


class Chart(NamedTuple):
    """One panel."""

    title: str
    unit: str
    lines: list[Line]
    what: str = ""


def rate(counter: str, by: str = "", where: str = "") -> str:
    """A counter's rate, in all processes together."""
    return f"sum{_by(by)} (rate({counter}{where}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str, where: str = "") -> str:
    """A quantile of a histogram, over all processes."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'le, {by}', where)})"


def total(gauge: str, by: str = "", where: str = "") -> str:
    """A gauge of all processes together."""
    return f"sum{_by(by)} ({gauge}{where})"


def quantiles(histogram: str, by: str, where: str = "") -> list[Line]:
    """The usual three."""
    return [Line(quantile(s, histogram, by, where), f"p{s * 100:g} {{{{{by}}}}}") for s in (0.5, 0.95, 0.99)]


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


ROWS: dict[str, list[Chart]] = {
    "Traffic and errors · 调用与错误": [
        Chart("Calls by method", "reqps", [Line(rate("qingyu_bridge_calls_total", "method"), "{{method}}")]),
        Chart(
            "Errors by method and code",
            "reqps",
            [Line(rate("qingyu_bridge_calls_total", "method, code", '{code!~"OK|CANCELLED"}'), "{{method}} {{code}}")],
        ),
        Chart(
            "Share of calls that failed",
            "percentunit",
            [
                Line(
                    rate("qingyu_bridge_calls_total", "method", '{code=~"INTERNAL|UNAVAILABLE|DATA_LOSS|UNKNOWN"}')
                    + " / "
                    + rate("qingyu_bridge_calls_total", "method"),
                    "{{method}}",
                )
            ],
            "INTERNAL, UNAVAILABLE, DATA_LOSS and UNKNOWN: what is ours to mend",
        ),
    ],
    "Latency and first token · 延迟与首字": [
        Chart("Duration of calls", "s", quantiles("qingyu_bridge_call_seconds", "method")),
        Chart("First chunk of a stream", "s", quantiles("qingyu_bridge_first_chunk_seconds", "method")),
        Chart("First token of a model", "s", quantiles("qingyu_model_first_token_seconds", "model")),
    ],
    "Streams · 流": [
        Chart("Open calls", "short", [Line(total("qingyu_bridge_open_calls", "method"), "{{method}}")]),
        Chart(
            "Readers of the log",
            "short",
            [
                Line(total("qingyu_bridge_readers"), "all"),
                Line(total("qingyu_bridge_joined_readers"), "by a consumer of their own"),
                Line(total("qingyu_bridge_lingering"), "calls that wait for their caller"),
            ],
        ),
        Chart("Held for slow callers", "bytes", [Line(total("qingyu_bridge_held_bytes"), "bridges")]),
        Chart(
            "Deltas in a message",
            "short",
            [
                Line(
                    rate("qingyu_bridge_deltas_total", "method") + " / " + rate("qingyu_bridge_chunks_total", "method"),
                    "{{method}}",
                )
            ],
            "Above 1: streams merge while they wait",
        ),
    ],
    "Jobs and streams of the broker · 队列": [
        Chart(
            "Jobs that wait for a worker",
            "short",
            [
                Line(f"sum(max by (stream) (qingyu_stream_messages{JOBS})) - sum(qingyu_worker_running)", "lag"),
                Line(f"max by (stream) (qingyu_stream_messages{JOBS})", "{{stream}}, with those that run"),
            ],
            "The lag also subtracts rpc calls that run at workers: it is a little too low where tools are busy",
        ),
        Chart("Oldest job", "s", [Line(f"max by (stream) (qingyu_stream_oldest_seconds{JOBS})", "{{stream}}")]),
        Chart(
            "How full streams are",
            "percentunit",
            [
                Line(
                    "max by (stream) (qingyu_stream_bytes) / (max by (stream) (qingyu_stream_max_bytes) > 0)",
                    "{{stream}}",
                )
            ],
        ),
        Chart(
            "Jobs put aside",
            "short",
            [
                Line(total("qingyu_worker_dead_letters"), "dead letters"),
                Line(total("qingyu_worker_dead_letters_lost"), "whose letter is lost"),
                Line(total("qingyu_worker_suspects"), "suspects"),
            ],
        ),
    ],
    "Workers · 工作进程": [
        Chart("Workers that are seen", "short", [Line("max by (kind) (qingyu_bridge_workers)", "{{kind}}")]),
        Chart(
            "Slots",
            "short",
            [
                Line(total("qingyu_worker_running", "job"), "running {{job}}"),
                Line(total("qingyu_worker_slots", "job"), "slots {{job}}"),
            ],
        ),
        Chart("Duration of handling", "s", quantiles("qingyu_worker_call_seconds", "method")),
        Chart(
            "Finished calls of workers", "reqps", [Line(rate("qingyu_worker_calls_total", "method"), "{{method}}")]
        ),
        Chart(
            "Waiting inside workers",
            "short",
            [
                Line(total("qingyu_worker_waiting_deltas"), "deltas"),
                Line(total("qingyu_worker_put_back"), "jobs put back for their user's share"),
                Line(total("qingyu_worker_bus_requests"), "requests to NATS"),
            ],
        ),
        Chart("Connections to NATS", "short", [Line("min(qingyu_bridge_bus_connected)", "all bridges connected")]),
    ],
    "Breaker and limiter · 熔断与限流": [
        Chart(
            "Breaker of the AI Proxy",
            "short",
            [
                Line("max(ai_proxy_breaker_state)", "0 closed, 1 half-open, 2 open"),
                Line("max(ai_proxy_breaker_failures)", "failures in a row"),
            ],
        ),
        Chart(
            "Refused",
            "reqps",
            [
                Line("sum(deriv(ai_proxy_limited[$__rate_interval]))", "by the limiter of the AI Proxy"),
                Line(rate("qingyu_bridge_refused_total"), "by full bridges"),
            ],
        ),
        Chart(
            "Agent calls at the AI Proxy",
            "reqps",
            [
                Line(rate("ai_agent_requests_total", "agent_type, status"), "{{agent_type}} {{status}}"),
                Line("sum(deriv(ai_proxy_retries[$__rate_interval]))", "retries"),
            ],
        ),
    ],
    "Model servers · 模型": [
        Chart("Answers that are being given", "short", [Line(total("qingyu_model_open", "model"), "{{model}}")]),
        Chart("Errors by reason", "reqps", [Line(rate("qingyu_model_errors_total", "model, reason"), "{{model}} {{reason}}")]),
        Chart(
            "Asked again, and others that stood in",
            "reqps",
            [
                Line(rate("qingyu_model_retries_total", "model"), "retries {{model}}"),
                Line(rate("qingyu_model_fallbacks_total", "asked, model"), "{{model}} for {{asked}}"),
                Line(rate("qingyu_model_continued_total", "model"), "continued {{model}}"),
            ],
        ),
        Chart("Speed of an answer, tokens a second", "short", quantiles("qingyu_model_tokens_per_second", "model")),
        Chart("Tokens a second", "short", [Line(rate("qingyu_model_tokens_total", "model, kind"), "{{model}} {{kind}}")]),
        Chart("Cost an hour", "short", [Line(f"3600 * {rate('qingyu_model_cost_total', 'model')}", "{{model}}")]),
    ],
    "Retrieval · 检索": [
        Chart("Calls", "reqps", [Line(rate("qingyu_bridge_calls_total", "method, code", RETRIEVAL), "{{method}} {{code}}")]),
        Chart("Duration for callers", "s", quantiles("qingyu_bridge_call_seconds", "method", RETRIEVAL)),
        Chart("Duration at workers", "s", quantiles("qingyu_worker_call_seconds", "method", RETRIEVAL)),
    ],
    "Processes and traces · 进程与链路": [
        Chart("CPU", "percentunit", [Line(rate("process_cpu_seconds_total", PROCESS), "{{job}} {{instance}}")]),
        Chart("Memory", "bytes", [Line(total("process_resident_memory_bytes", PROCESS), "{{job}} {{instance}}")]),
        Chart("Spans", "cps", [Line(rate("qingyu_trace_spans_total", "outcome"), "{{outcome}}")], "Only where traces are on"),
    ],
}  # fmt: skip


def panel(chart: Chart, number: int) -> timeseries.Panel:
    """A chart as Grafana has it."""
    made = timeseries.Panel().id(number).title(chart.title).unit(chart.unit).datasource(SOURCE).min(0)
    made.span(WIDTH).height(HEIGHT).fill_opacity(10)
    made.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if chart.what:
        made.description(chart.what)
    for ref, line in zip(ascii_uppercase, chart.lines, strict=False):
        query = prometheus.Dataquery().expr(line.expression).legend_format(line.legend).range().datasource(SOURCE)
        made.with_target(query.ref_id(ref))
    return made


def encoded() -> str:
    """The dashboard as JSON."""
    made = (
        dashboard.Dashboard("qingyu-ai · 青羽 AI 后端")
        .uid("qingyu-ai")
        .tags(["qingyu-ai"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    ids = count(1)
    for title, charts in ROWS.items():
        made.with_row(dashboard.Row(title).id(next(ids)))
        for chart in charts:
            made.with_panel(panel(chart, next(ids)))
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(made.build()) + "\n"


if __name__ == "__main__":
    FILE.write_text(encoded(), encoding="utf-8")
