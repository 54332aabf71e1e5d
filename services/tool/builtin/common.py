"""What the tools for texts share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LONGEST_TEXT = 200_000
"""Characters: some forty chapters of a web novel, and 600 KB of UTF-8."""

Text = Annotated[str, Field(max_length=LONGEST_TEXT, description="要处理的正文，至多 20 万字符。")]

POSITIONS = "位置从 0 起，按 Unicode 字符（码点）计。"
"""How positions are counted, for descriptions."""
