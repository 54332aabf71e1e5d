"""What the models cost and how fast they are, for Prometheus. One instance for each process."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from qingyu_ai.settings import ChatModel

from .model import Usage

FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
RATE_BUCKETS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 400)


class Meters:
    """The metrics.

    Args:
        registry: the process's own, or one for a test.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.first_token = Histogram(
            "qingyu_model_first_token_seconds", "From the question to the first token", ["model"],
            buckets=FIRST_TOKEN_BUCKETS, registry=registry,
        )  # fmt: skip
        self.rate = Histogram(
            "qingyu_model_tokens_per_second", "Completion tokens a second, from the first one on", ["model"],
            buckets=RATE_BUCKETS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "qingyu_model_tokens", "Tokens by kind: prompt, completion, and the part of it that is reasoning",
            ["model", "kind", "estimated"], registry=registry,
        )  # fmt: skip
        self.cost = Counter(
            "qingyu_model_cost", "Tokens times price, in the currency of the settings", ["model"], registry=registry
        )
        self.retries = Counter(
            "qingyu_model_retries", "Requests made again before a first token", ["model"], registry=registry
        )
        self.fallbacks = Counter(
            "qingyu_model_fallbacks", "Answers that another model gave", ["asked", "model"], registry=registry
        )
        self.errors = Counter(
            "qingyu_model_errors", "Failed requests by reason", ["model", "reason"], registry=registry
        )
        self.continued = Counter(
            "qingyu_model_continued", "Answers continued after a limit of length", ["model"], registry=registry
        )
        self.open = Gauge("qingyu_model_open", "Answers that are being given", ["model"], registry=registry)

    def used(self, model: str, usage: Usage, settings: ChatModel) -> None:
        """Count what one request cost."""
        estimated = "true" if usage.estimated else "false"
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if count:
                self.tokens.labels(model, kind, estimated).inc(count)
        price = usage.prompt_tokens * settings.prompt_price + usage.completion_tokens * settings.completion_price
        if price:
            self.cost.labels(model).inc(price / 1e6)
