"""What can go wrong with a call, as values that carry their facts and write their own sentence, in English and Chinese.

A `Fault` (see `fault`) is safe to show to the caller. Anything else that is raised is a defect of ours: logged once, shown as
`Internal` with an id.
"""

from __future__ import annotations

from collections.abc import Iterable

from .fault import Code as Code
from .fault import Fault as Fault
from .fault import retryable as retryable
from .in_chinese import in_chinese
from .transport_errors import Disconnected, PayloadTooLarge, ReplyTimeout, StoreRefused, TransportError


class Invalid(Fault):
    """The request breaks a rule; each violation names the field.

    Args:
        violations: (field, what is wrong with it), or the same and what is wrong in Chinese; else `in_chinese` knows it.
    """

    def __init__(self, *violations: tuple[str, str] | tuple[str, str, str]) -> None:
        said = "; ".join(f"{field}: {what}" for field, what, *_ in violations)
        chinese = "；".join(f"{field}：{known[0] if known else in_chinese(what)}" for field, what, *known in violations)
        super().__init__(
            Code.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            f"The request is not valid: {said}",
            f"请求无效：{chinese}",
            violations=[(field, what) for field, what, *_ in violations],
        )


class NoWorker(Fault):
    """Nobody answers for this kind of work."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "NO_WORKER",
            f"No {kind} worker is running; try again in a moment",
            f"没有可用的 {kind} 服务，请稍后重试",
            retry_seconds=1.0,
            facts={"worker": kind},
        )


class BusDown(Fault):
    """The bridge has no connection to the broker, or the broker does not store."""

    def __init__(self, what: str) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "BUS_UNAVAILABLE",
            f"The message bus is not available ({what}); try again in a moment",
            "消息总线暂时不可用，请稍后重试",
            retry_seconds=1.0,
        )

    @classmethod
    def of(cls, error: TransportError) -> BusDown:
        """Say what the broker did not do, without its words: they name our streams and subjects."""
        match error:
            case Disconnected():
                return cls("there is no connection to it")
            case ReplyTimeout():
                return cls("it does not answer in time")
            case StoreRefused():
                return cls("it does not store")
            case _:
                return cls("it did not do what was asked")


class Overloaded(Fault):
    """A limit is reached; the same call may go through later."""

    def __init__(self, what: str, chinese: str, limit: int = 0, *, retry_seconds: float = 1.0) -> None:
        super().__init__(
            Code.RESOURCE_EXHAUSTED,
            "OVERLOADED",
            f"{what}{f' (limit {limit})' if limit else ''}; try again in a moment",
            f"{chinese}{f'（上限 {limit}）' if limit else ''}，请稍后重试",
            retry_seconds=retry_seconds,
            facts={"limit": str(limit)} if limit else None,
        )


class TooLarge(Fault):
    """Something is larger than what can be carried; waiting does not help."""

    def __init__(self, what: str, chinese: str, size: int, limit: int) -> None:
        super().__init__(
            Code.RESOURCE_EXHAUSTED,
            "TOO_LARGE",
            f"{what} is {size} bytes; the limit is {limit}",
            f"{chinese}为 {size} 字节，超过上限 {limit} 字节",
            facts={"size": str(size), "limit": str(limit)},
        )


class Expired(Fault):
    """The caller's deadline passed before the work was done."""

    def __init__(self) -> None:
        super().__init__(
            Code.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
            "The deadline passed before the work was done",
            "未能在截止时间内完成",
        )


class Cancelled(Fault):
    """The caller withdrew the call."""

    def __init__(self) -> None:
        super().__init__(Code.CANCELLED, "CANCELLED", "The caller cancelled the call", "请求已取消")


class Interrupted(Fault):
    """A worker died or was stopped on a call that had already said something."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "WORKER_LOST",
            "The worker on this call was lost before it finished; try again with another request id",
            "处理该请求的服务中断，请换一个请求号重试",
        )


class GaveUp(Fault):
    """A job was the end of several workers, and was put aside."""

    def __init__(self, deaths: int) -> None:
        super().__init__(
            Code.INTERNAL,
            "DEAD_LETTER",
            f"This request was put aside after {deaths} workers were lost over it; please report its request id",
            f"该请求已导致 {deaths} 个服务进程中断，现已搁置；请将请求号告知我们",
            facts={"deaths": str(deaths)},
        )


class Lost(Fault):
    """Part of a stream is gone. What was shown so far is right; what would follow is not complete."""

    def __init__(self, what: str, chinese: str = "流的记录已不完整") -> None:
        super().__init__(
            Code.DATA_LOSS,
            "STREAM_INCOMPLETE",
            f"Part of this stream is lost ({what}); what you received, if anything, is right, but not all",
            f"部分内容丢失（{chinese}）；已收到的内容（如有）无误，但不完整",
        )


class SameIdOtherBody(Fault):
    """A request id was used before, for another request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            Code.ALREADY_EXISTS,
            "REQUEST_ID_REUSED",
            f"Request id {request_id!r} was used before for a request with another body; use a new id",
            f"请求号 {request_id!r} 已用于内容不同的请求，请使用新的请求号",
            facts={"request_id": request_id},
        )


class Unauthenticated(Fault):
    """What is asked for needs a user whom the edge has verified."""

    def __init__(self, what: str, chinese: str) -> None:
        super().__init__(Code.UNAUTHENTICATED, "UNAUTHENTICATED", what, chinese)


class Denied(Fault):
    """A verified caller may not do what it asks for. It is not said why: that would tell what there is."""

    def __init__(self) -> None:
        super().__init__(
            Code.PERMISSION_DENIED,
            "PERMISSION_DENIED",
            "Your token does not allow this: it names a user or a project that is not yours",
            "您的令牌不允许此操作：请求中的用户或项目不属于您",
        )


class SentAway(Fault):
    """The bridge stops before the call has ended. The call goes on."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "BRIDGE_STOPS",
            "This bridge is stopping; your call goes on: ask again with the same request id, a stream with x-resume-from",
            "该服务节点正在停止，您的请求仍在继续：请用同一请求编号重试，流式调用请附上 x-resume-from",
            retry_seconds=0.1,
        )


class NotFound(Fault):
    """A thing that the request names does not exist."""

    def __init__(self, what: str, chinese: str, name: str) -> None:
        super().__init__(
            Code.NOT_FOUND,
            "NOT_FOUND",
            f"There is no {what} named {name!r}",
            f"没有名为 {name!r} 的{chinese}",
            facts={"name": name},
        )


class ModelNotAvailable(Fault):
    """The request names a model that this deployment does not offer (error 5004 of the AI proxy)."""

    def __init__(self, model: str, offered: Iterable[str]) -> None:
        names = ", ".join(sorted(offered))
        super().__init__(
            Code.NOT_FOUND,
            "MODEL_NOT_AVAILABLE",
            f"Model {model!r} is not available; this deployment offers: {names}",
            f"模型 {model!r} 不可用；可用模型：{names}",
            facts={"model": model, "code": "5004"},
        )


class OtherVersion(Fault):
    """The two ends of the bus speak versions that are too far apart."""

    def __init__(self, theirs: str, ours: int) -> None:
        super().__init__(
            Code.FAILED_PRECONDITION,
            "PROTOCOL_VERSION",
            f"This worker speaks bus protocol {ours}, the request {theirs}; deploy both from neighbouring releases",
            f"总线协议版本不兼容（{theirs} 与 {ours}），请部署相邻版本",
            facts={"theirs": theirs, "ours": str(ours)},
        )


class Internal(Fault):
    """A defect of ours. The log has its story under this id; the caller gets the id only."""

    def __init__(self, error_id: str) -> None:
        super().__init__(
            Code.INTERNAL,
            "INTERNAL",
            f"Internal error {error_id}; please report this id",
            f"内部错误 {error_id}，请将此编号告知我们",
            facts={"error_id": error_id},
        )


def fault_of(error: TransportError) -> Fault:
    """Translate at the border: what the broker did not do, as the caller may see it."""
    match error:
        case PayloadTooLarge():
            return TooLarge("The request", "请求", error.size, error.limit)
        case StoreRefused(full=True):
            return Overloaded("The job queue is full", "任务队列已满")
        case _:
            return BusDown.of(error)
