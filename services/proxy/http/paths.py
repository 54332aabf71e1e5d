"""Which row a path belongs to. It is read as it was sent, so that an id in it may hold a slash (`%2F`), as documents' ids do."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Scope


def sent_path(scope: Scope) -> str:
    """The path as the client wrote it, percent-encoded."""
    raw: bytes | None = scope.get("raw_path")
    return raw.decode("latin-1") if raw is not None else quote(scope["path"])


class Paths:
    """A tree of the segments of all paths: finding one costs a look for each segment, however many rows there are."""

    def __init__(self) -> None:
        self._inner: dict[str, Paths] = {}
        self._any: Paths | None = None
        self._name = ""
        """Of the parameter that any other segment is."""
        self._answers: dict[str, ASGIApp] = {}
        self._row = ""
        """What was added here."""

    def add(self, methods: Iterable[str], path: str, answer: ASGIApp) -> None:
        """Add a row.

        Args:
            path: with its parameters in braces.
        """
        at = self
        for segment in _segments(path):
            if segment.startswith("{"):
                at._any = at._any or Paths()
                at._name = segment[1:-1]
                at = at._any
            else:
                at = at._inner.setdefault(segment, Paths())
        at._answers |= dict.fromkeys(methods, answer)
        at._row = path

    def find(self, path: str) -> tuple[dict[str, ASGIApp], dict[str, str]]:
        """Find a path.

        Returns:
            What answers it, by method, none if there is no such path; and the parameters.
        """
        at, parameters = self._walk(path)
        return (at._answers, parameters) if at is not None else ({}, {})

    def row(self, path: str) -> str:
        """The path with its parameters in braces, as it was added; empty: there is no such path."""
        at, _ = self._walk(path)
        return at._row if at is not None else ""

    def _walk(self, path: str) -> tuple[Paths | None, dict[str, str]]:
        at, parameters = self, {}
        for segment in _segments(path):
            inner = at._inner.get(segment)
            if inner is None:
                if at._any is None or not segment:
                    return None, {}
                parameters[at._name] = unquote(segment)
                inner = at._any
            at = inner
        return at, parameters


def _segments(path: str) -> list[str]:
    return path.removeprefix("/").split("/")
