"""Which tools a worker has: those of the modules that its settings name."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qingyu_ai.settings import SettingsError
from qingyu_ai.settings import Tool as ToolSettings
from services.text.word_list import WordList

from .definition import Tool
from .errors import DefinitionError

VARIABLE = "QINGYU_TOOL__MODULES"

WORDS_TOOL = "sensitive_words"

SHIPPED_WORDS = Path(__file__).parent / "builtin" / "words.txt"
"""The list of this release, where a deployment names none."""


def load(modules: Iterable[str]) -> list[Tool[Any, Any]]:
    """Import modules and gather the tools that they have, by name.

    A module is looked for where the process was started, too, as `python -m` does.

    Raises:
        SettingsError: a module cannot be imported, has no tools, or has one that is written wrongly.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: dict[str, Tool[Any, Any]] = {}
    for name in modules:
        try:
            module = importlib.import_module(name)
        except DefinitionError as e:
            raise SettingsError(f"{VARIABLE}: {name}: {e}") from None
        except ImportError as e:
            raise SettingsError(
                f"{VARIABLE}: {name} cannot be imported ({e}); name Python modules that hold tools"
            ) from None
        except (Exception, SystemExit) as e:  # whatever a team's module does when it is imported
            raise SettingsError(f"{VARIABLE}: {name} fails when it is imported: {_last_line(e)}") from None
        tools = [value for value in vars(module).values() if isinstance(value, Tool)]
        if not tools:
            raise SettingsError(
                f"{VARIABLE}: {name} has no tools; decorate functions with services.tool.definition.tool"
            )
        found |= {tool.name: tool for tool in tools}
    return [found[name] for name in sorted(found)]


def _last_line(error: BaseException) -> str:
    """What and where, as the end of a traceback has it."""
    *_, at = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno})"


def settings_of(own: ToolSettings) -> dict[str, object]:
    """What tools are given in each child, by tool.

    Raises:
        SettingsError: the word list cannot be read.
    """
    file = own.words_file or SHIPPED_WORDS
    try:
        words = WordList.read(file).words
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"QINGYU_TOOL__WORDS_FILE: {file} cannot be read as UTF-8 text ({e})") from None
    return {WORDS_TOOL: words}
