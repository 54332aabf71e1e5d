"""The sections of the settings that are about models (docs/models.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FilePath, SecretStr, model_validator

from .sections import Seconds, Section

DEFAULT_ALIAS = "default"
OFFLINE = "offline"
"""The name of the model that is always there."""


class Offline(Section):
    """The model that is always there. It computes its answers from the prompt and says so."""

    first_delay_seconds: Annotated[float, Field(ge=0)] = 0.15
    deltas_per_second: Annotated[float, Field(ge=0)] = 50.0
    """0: as fast as it can."""


class Endpoint(Section):
    """A model server that speaks the OpenAI protocol, and one model of it."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
    """Up to and with the version: https://api.deepseek.com/v1"""
    model: str = ""
    """The server's own name for the model; empty: the first one that it lists."""
    api_key: SecretStr = SecretStr("")
    """Better `api_key_env`: a key does not belong into a file that is kept."""
    api_key_env: str = ""
    """The environment variable that holds the key."""
    connections: Annotated[int, Field(ge=1)] = 256
    """Requests that one process has open at this server at once; more of them wait, up to `first_token_seconds`. Aliases with one
    `base_url` and one key are one server; the first of them decides."""
    connect_seconds: Seconds = 5.0
    """Until there is a connection."""
    first_token_seconds: Seconds = 60.0
    """From the request to the first token, of thought or of text."""
    idle_seconds: Seconds = 30.0
    """Between two tokens."""
    total_seconds: Seconds = 600.0
    """For a whole answer, however many requests it takes. No time is ever longer than what the caller has left."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Requests for one answer before its first token, all told."""
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    """Failures in a row after which the server is left in peace for `breaker_seconds`."""
    breaker_seconds: Seconds = 20.0
    http2: bool = True
    """Whether HTTP/2 is used where the server offers it."""
    ca_file: FilePath | None = None
    """Certificates to trust instead of the well-known ones, PEM."""
    send_traceparent: bool = False
    """Whether requests carry the trace that they are of, for a server whose spans go to the same collector."""


class ChatModel(Endpoint):
    """A model that chats, under an alias that requests name."""

    context_tokens: Annotated[int, Field(ge=0)] = 0
    """What prompt and answer may have together; the oldest turns go when they have more. 0: not known, nothing goes."""
    request_tokens: Annotated[int, Field(ge=0)] = 0
    """The most that the server gives for one request; a longer answer is continued. 0: not known."""
    answer_tokens: Annotated[int, Field(ge=1)] = 8192
    """For a whole answer whose caller did not say how long it may be."""
    continuation: Literal["turn", "prefix", "partial", "continue_final_message"] = "turn"
    """How the server is told to go on with an answer (docs/models.md)."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_usage: bool = True
    """Whether to ask for usage in streams; a few servers refuse the option."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request."""
    fallbacks: tuple[str, ...] = ()
    """Aliases of the models that answer when this one cannot, in this order."""
    prompt_price: Annotated[float, Field(ge=0)] = 0.0
    completion_price: Annotated[float, Field(ge=0)] = 0.0
    """For a million tokens, in the currency that you pay; it counts in the metric qingyu_model_cost."""


class Llm(Section):
    """The models of this deployment. Two variables are enough: the base URL and the key of one server."""

    base_url: Annotated[str, Field(pattern=r"^(https?://[^\s@?#]+)?$")] = ""
    api_key: SecretStr = SecretStr("")
    model: str = ""
    """With `base_url`: the server's name for its model; empty: the first one that it lists."""
    models: dict[str, ChatModel] = Field(default_factory=dict)
    """By alias, instead of `base_url`."""
    default: str = ""
    """The alias for requests that name none; empty: the first one."""
    words_file: Path | None = None
    """Words that no answer may show, UTF-8, one a line. None: nothing is checked."""
    words_action: Literal["mask", "stop"] = "mask"

    @model_validator(mode="after")
    def _aliases_are_there(self) -> Llm:
        if self.base_url and self.models:
            raise ValueError("set base_url or models, not both")
        for alias, model in self.models.items():
            for other in model.fallbacks:
                if other not in self.models:
                    raise ValueError(f"models.{alias}.fallbacks names {other!r}, which is no alias of models")
        if self.api_key.get_secret_value() and not self.base_url:
            raise ValueError("api_key is set, and base_url, which it is for, is not")
        if self.model and not self.base_url:
            raise ValueError("model is set, and base_url, which it is for, is not")
        if {"", OFFLINE} & set(self.models):
            raise ValueError(f"an alias of models must have a name, and not {OFFLINE!r}, which is always there")
        if self.default and self.default not in {*self.aliases, OFFLINE}:
            raise ValueError(f"default names {self.default!r}, which is no model here")
        return self

    @property
    def aliases(self) -> dict[str, ChatModel]:
        """All models by alias; the two variables make one with its own name, or `default` where the server names it."""
        if not self.base_url:
            return self.models
        return {self.model or DEFAULT_ALIAS: ChatModel(base_url=self.base_url, api_key=self.api_key, model=self.model)}
