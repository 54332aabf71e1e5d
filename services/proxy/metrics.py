"""What the caller's side counts: names, labels and buckets are fixed, because dashboards are written for them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .protection import Protection

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKENS = (100, 500, 1000, 2000, 5000, 10000)
UNKNOWN = "unknown"
"""Counts for names that are no tool: otherwise callers could make as many labels as they like."""


class Metrics:
    """The meters of one `AIProxyService`.

    Args:
        registry: of its own, so that several live in one process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "ai_agent_requests_total", "Agent calls by outcome", ["agent_type", "status"], registry=registry
        )
        self._seconds = Histogram(
            "ai_agent_duration_seconds", "Duration of agent calls", ["agent_type"], buckets=SECONDS, registry=registry
        )
        self._tokens = Histogram(
            "ai_agent_tokens_used", "Tokens of agent calls", ["agent_type"], buckets=TOKENS, registry=registry
        )
        self._tools = Counter(
            "ai_tool_calls_total", "Calls of tools, made by callers and by agents", ["tool_name", "status"],
            registry=registry,
        )  # fmt: skip
        self.streams = Gauge("ai_proxy_streams", "Streams that are open now", registry=registry)
        self.resumed = Counter(
            "ai_proxy_streams_resumed_total", "How often a stream was asked for again", registry=registry
        )
        self._known: set[str] = set()

    def watch(self, protection: Protection) -> None:
        """Show where limiter, breaker and retries stand."""
        for name, what, value in (
            ("breaker_state", "0 closed, 1 half-open, 2 open", lambda: protection.breaker.state.value),
            ("breaker_failures", "Failures in a row", lambda: protection.breaker.failures),
            ("limited", "Calls that the limiter refused", lambda: protection.limited),
            ("retries", "Attempts beyond the first of their calls", lambda: protection.retries),
        ):
            Gauge(f"ai_proxy_{name}", what, registry=self.registry).set_function(value)

    def agent(self, agent_type: str, status: str, seconds: float, tokens: int | None) -> None:
        """Count an agent's call; None: it is not known what it took."""
        self._requests.labels(agent_type, status).inc()
        self._seconds.labels(agent_type).observe(seconds)
        if tokens is not None:
            self._tokens.labels(agent_type).observe(tokens)

    def tool(self, name: str, *, success: bool, exists: bool = True) -> None:
        """Count a tool's call. A name becomes a label once a tool of that name has answered."""
        if exists:
            self._known.add(name)
        self._tools.labels(name if name in self._known else UNKNOWN, "success" if success else "failed").inc()
