"""What an upstream model does wrong, as faults that a caller may see. The table is the whole of it.

An upstream's own words are logged, without keys, and never shown: they name accounts, hosts and prices.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from qingyu_ai.bus.errors import Code, Fault

NOT_AVAILABLE = "5004"
"""The AI proxy's error code for a model that cannot be had."""


class Row(NamedTuple):
    """One kind of failure."""

    code: Code
    english: str
    chinese: str
    here: bool
    """Whether the same request may go through at the same upstream a little later."""
    elsewhere: bool
    """Whether another model may take it."""
    trips: bool
    """Whether it says that the upstream is unwell, so that its breaker counts it."""


class Upstream(Enum):
    """Kinds of failure; the name, with MODEL_ before it, is the `ErrorInfo.reason`."""

    CONTEXT_TOO_LONG = Row(
        Code.INVALID_ARGUMENT, "the text is longer than the model's context; shorten it", "文本超出模型的上下文长度，请缩短",
        here=False, elsewhere=True, trips=False,
    )  # fmt: skip
    REFUSED_REQUEST = Row(
        Code.INVALID_ARGUMENT, "the endpoint takes the request for invalid", "上游认为请求无效",
        here=False, elsewhere=False, trips=False,
    )  # fmt: skip
    CONTENT_REFUSED = Row(
        Code.INVALID_ARGUMENT, "the endpoint does not take this content", "上游拒绝处理该内容",
        here=False, elsewhere=False, trips=False,
    )  # fmt: skip
    KEY_REFUSED = Row(
        Code.FAILED_PRECONDITION, "the endpoint does not accept this deployment's key", "上游拒绝了本服务的密钥",
        here=False, elsewhere=True, trips=False,
    )  # fmt: skip
    NOT_AVAILABLE = Row(
        Code.NOT_FOUND, "the endpoint does not offer it", "上游没有这个模型",
        here=False, elsewhere=True, trips=False,
    )  # fmt: skip
    BUSY = Row(
        Code.RESOURCE_EXHAUSTED, "too many requests at once; try again in a moment", "请求过多，请稍后重试",
        here=True, elsewhere=True, trips=False,
    )  # fmt: skip
    QUOTA_USED_UP = Row(
        Code.RESOURCE_EXHAUSTED, "this deployment's quota there is used up", "本服务在上游的额度已用完",
        here=False, elsewhere=True, trips=False,
    )  # fmt: skip
    FULL = Row(
        Code.RESOURCE_EXHAUSTED, "all connections to it are in use; try again in a moment", "到该模型的连接已用满，请稍后重试",
        here=False, elsewhere=True, trips=False,
    )  # fmt: skip
    FAILED = Row(
        Code.UNAVAILABLE, "the endpoint failed; try again in a moment", "上游出错，请稍后重试",
        here=True, elsewhere=True, trips=True,
    )  # fmt: skip
    UNREACHABLE = Row(
        Code.UNAVAILABLE, "there is no connection to the endpoint", "无法连接上游",
        here=True, elsewhere=True, trips=True,
    )  # fmt: skip
    TLS_FAILED = Row(
        Code.UNAVAILABLE, "the endpoint's certificate or TLS is not accepted", "上游的证书或加密连接无法通过校验",
        here=False, elsewhere=True, trips=True,
    )  # fmt: skip
    CONNECT_TIMEOUT = Row(
        Code.UNAVAILABLE, "no connection in time", "连接上游超时",
        here=True, elsewhere=True, trips=True,
    )  # fmt: skip
    FIRST_TOKEN_TIMEOUT = Row(
        Code.DEADLINE_EXCEEDED, "it had not begun to answer in time", "模型未能及时开始回答",
        here=False, elsewhere=True, trips=True,
    )  # fmt: skip
    IDLE_TIMEOUT = Row(
        Code.DEADLINE_EXCEEDED, "it fell silent in the middle of its answer", "模型回答中途没有了声音",
        here=False, elsewhere=True, trips=True,
    )  # fmt: skip
    TOTAL_TIMEOUT = Row(
        Code.DEADLINE_EXCEEDED, "its answer took too long", "模型回答用时过长",
        here=False, elsewhere=False, trips=False,
    )  # fmt: skip
    STREAM_CUT = Row(
        Code.UNAVAILABLE, "its answer was cut by the endpoint", "回答被上游中断",
        here=True, elsewhere=True, trips=True,
    )  # fmt: skip
    ANSWER_BROKEN = Row(
        Code.UNAVAILABLE, "the endpoint's answer cannot be read", "上游的回答无法读取",
        here=True, elsewhere=True, trips=True,
    )  # fmt: skip
    ANSWER_TOO_LARGE = Row(
        Code.UNAVAILABLE, "the endpoint's answer is larger than any answer may be", "上游的回答过大",
        here=False, elsewhere=True, trips=True,
    )  # fmt: skip
    ANSWER_EMPTY = Row(
        Code.UNAVAILABLE, "its answer was empty", "模型的回答是空的",
        here=True, elsewhere=True, trips=False,
    )  # fmt: skip
    RESTING = Row(
        Code.UNAVAILABLE, "it failed several times and is left in peace for a while", "该模型连续出错，暂停使用",
        here=False, elsewhere=True, trips=False,
    )  # fmt: skip


class UpstreamFault(Fault):
    """A model could not answer, or no further.

    Args:
        kind: a row of the table.
        model: the alias under which the deployment offers it.
        retry_seconds: when the upstream wants to be asked again; None: it did not say.
        detail: for the log; never shown.
    """

    def __init__(self, kind: Upstream, model: str, *, retry_seconds: float | None = None, detail: str = "") -> None:
        row = kind.value
        waiting = row.here or kind in (Upstream.RESTING, Upstream.FULL)
        facts = {"model": model}
        if row.code in (Code.NOT_FOUND, Code.FAILED_PRECONDITION) or kind in (Upstream.UNREACHABLE, Upstream.RESTING):
            facts["code"] = NOT_AVAILABLE
        super().__init__(
            row.code,
            f"MODEL_{kind.name}",
            f"Model {model!r}: {row.english}",
            f"模型 {model!r}：{row.chinese}",
            retry_seconds=retry_seconds if retry_seconds is not None else 1.0 if waiting else None,
            facts=facts,
        )
        self.kind = kind
        self.asked_seconds = retry_seconds
        """What the upstream itself said in Retry-After."""
        self.detail = detail
        self.after_text = False
        """Whether something had been said: then nobody may begin anew."""
