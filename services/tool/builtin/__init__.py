"""The tools that every deployment has, one module each. All but `search_knowledge` are computed: pure, deterministic, bounded."""

from __future__ import annotations

from typing import Any

from services.tool.definition import Tool

from .calculate import calculate
from .character_names import character_names
from .date_arithmetic import date_arithmetic
from .repeated_phrases import repeated_phrases
from .search_knowledge import search_knowledge as search_knowledge
from .sensitive_words import sensitive_words
from .split_chapters import split_chapters
from .text_statistics import text_statistics

TOOLS: tuple[Tool[Any, Any], ...] = (
    calculate,
    character_names,
    date_arithmetic,
    repeated_phrases,
    search_knowledge,
    sensitive_words,
    split_chapters,
    text_statistics,
)
"""By name."""
