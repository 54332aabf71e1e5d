"""What can go wrong with a tool: in its definition (a defect of ours, at import), and with a call (safe to show)."""

from __future__ import annotations

from dataclasses import dataclass


class DefinitionError(Exception):
    """A tool is written wrongly. Raised when its module is imported; the message names the tool and what to change."""


class Refusal(ValueError):
    """A rule of a parameter model's own was broken. Raised in a pydantic validator; both sentences go to the caller.

    Args:
        english: what is accepted, as in `must not be before start`.
        chinese: the same, as in `不能早于 start`.
    """

    def __init__(self, english: str, chinese: str) -> None:
        super().__init__(english)
        self.english = english
        self.chinese = chinese


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one parameter."""

    parameter: str
    """As `words[2]` or `range.start`; empty: the parameters as a whole."""
    english: str
    chinese: str


class ToolError(Exception):
    """A call that did not end well. Safe to show, in English and Chinese.

    `reason` never changes: callers switch on it.
    """

    reason = "TOOL_ERROR"

    def __init__(self, english: str, chinese: str) -> None:
        super().__init__(english)
        self.english = english
        self.chinese = chinese


class InvalidParameters(ToolError):
    """The parameters are not what the tool declares; the tool did not run."""

    reason = "INVALID_PARAMETERS"

    def __init__(self, tool: str, violations: tuple[Violation, ...]) -> None:
        super().__init__(
            f"The parameters of {tool} are not valid: " + "; ".join(v.english for v in violations),
            f"工具 {tool} 的参数无效：" + "；".join(v.chinese for v in violations),
        )
        self.violations = violations


class ToolFailed(ToolError):
    """The tool ran and says why it has no result. Tools raise this on purpose, and nothing else."""

    reason = "TOOL_FAILED"


class ToolDefect(ToolError):
    """The tool raised something else. The log has its story under this id; the caller gets the id only."""

    reason = "TOOL_DEFECT"

    def __init__(self, tool: str, error_id: str) -> None:
        super().__init__(
            f"The tool {tool} failed with internal error {error_id}; please report this id",
            f"工具 {tool} 发生内部错误 {error_id}，请将此编号告知我们",
        )
        self.error_id = error_id


class ToolTimeout(ToolError):
    """The tool ran longer than it may, and was ended."""

    reason = "TOOL_TIMEOUT"

    def __init__(self, tool: str, seconds: float) -> None:
        super().__init__(
            f"The tool {tool} was ended: it ran longer than its limit of {seconds:g} seconds",
            f"工具 {tool} 运行超过 {seconds:g} 秒的上限，已被终止",
        )
        self.seconds = seconds


class ToolDied(ToolError):
    """The process that ran the tool ended: it crashed, or the system ended it."""

    reason = "TOOL_DIED"

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"The process that ran the tool {tool} ended before it had a result",
            f"运行工具 {tool} 的进程在得出结果之前中断",
        )


class OutOfMemory(ToolError):
    """The tool wanted more memory than it may have."""

    reason = "TOOL_OUT_OF_MEMORY"

    def __init__(self, tool: str, limit: int) -> None:
        super().__init__(
            f"The tool {tool} needs more memory than its limit of {limit} bytes",
            f"工具 {tool} 所需内存超过 {limit} 字节的上限",
        )
        self.limit = limit


class OutputTooLarge(ToolError):
    """The result is larger than the tool may return."""

    reason = "OUTPUT_TOO_LARGE"

    def __init__(self, tool: str, size: int, limit: int) -> None:
        super().__init__(
            f"The result of the tool {tool} is {size} bytes; the limit is {limit}. Ask for less",
            f"工具 {tool} 的结果为 {size} 字节，超过上限 {limit} 字节，请缩小请求范围",
        )
        self.size = size
        self.limit = limit


class SandboxUnavailable(ToolError):
    """No process for tools can be started now. Trying again may help."""

    reason = "SANDBOX_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(
            "No process for tools can be started; try again in a moment", "暂时无法启动工具进程，请稍后重试"
        )


class SandboxBusy(ToolError):
    """All processes for tools were in use for as long as a call may wait. The tool did not run."""

    reason = "SANDBOX_BUSY"

    def __init__(self, children: int, seconds: float) -> None:
        super().__init__(
            f"All {children} processes for tools were in use for {seconds:g} seconds",
            f"全部 {children} 个工具进程在 {seconds:g} 秒内都没有空闲",
        )


class ToolServerAway(ToolError):
    """The server behind the tool is not there now, or went away during the call. Trying again may help.

    It is not known whether a call during which it went away has done something.
    """

    reason = "TOOL_SERVER_AWAY"

    def __init__(self, tool: str, server: str) -> None:
        super().__init__(
            f"The MCP server {server} of the tool {tool} cannot be reached; try again in a moment",
            f"工具 {tool} 所在的 MCP 服务 {server} 暂时无法连接，请稍后重试",
        )
        self.server = server
