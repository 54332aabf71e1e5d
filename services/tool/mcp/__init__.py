"""MCP, both ways: tools of MCP servers offered like ours (`servers`), and ours offered to MCP clients (`__main__`).

The package `mcp` is an optional extra and takes a second to import. Nothing here is imported before settings ask for it.
"""

from __future__ import annotations

from qingyu_ai.settings import SettingsError

INSTALL = "pip install 'qingyu-ai[mcp]'"


def require_mcp(why: str) -> None:
    """See that the package is there.

    Args:
        why: what asks for it, as `QINGYU_TOOL__MCP names MCP servers`.

    Raises:
        SettingsError: it is not installed. The message has the command that installs it.
    """
    try:
        import mcp  # noqa: F401
    except ImportError:
        raise SettingsError(f"{why}, and the package mcp is not installed; run: {INSTALL}") from None
