"""Which events a subscription is for, as filters of subjects. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from qingyu_ai.bus import subjects

from .kinds import BY_NAME, CALL_SERVICES


def filters_of(service: str | Iterable[str], event: str | Iterable[str], project: str | Iterable[str]) -> list[str]:
    """Filters for events of these services, of these names, and of these projects; of each an empty one: all.

    Raises:
        ValueError: a name that there is not, or a project id that is no text. In English and Chinese.
    """
    services = _known("service", "服务", service, CALL_SERVICES)
    events = _known("event", "事件", event, BY_NAME)
    tokens = [_token(one) for one in _listed(project)] or ["*"]
    if services == events == tokens == ["*"]:
        return [f"{subjects.EVENTS}.>"]
    return [subjects.event(*one) for one in product(services, events, tokens)]


def let_through(filters: Sequence[str], subject: str) -> bool:
    """Whether one of the filters is for a subject."""
    parts = subject.split(".")
    return any(
        all(wanted in ("*", ">", part) for wanted, part in zip(one.split("."), parts, strict=False)) for one in filters
    )


def _listed(given: str | Iterable[str]) -> list[str]:
    return [given] if isinstance(given, str) and given else list(dict.fromkeys(given))  # the server takes none twice


def _known(what: str, in_chinese: str, given: str | Iterable[str], known: Iterable[str]) -> list[str]:
    names = _listed(given)
    for name in names:
        if name not in known:
            there = ", ".join(known)
            raise ValueError(f"there is no {what} {name!r}; there are {there}。没有名为 {name!r} 的{in_chinese}")
    return names or ["*"]


def _token(project: str) -> str:
    try:
        return subjects.project_token(project)
    except UnicodeEncodeError:
        raise ValueError(f"the project id {project!r} is no UTF-8。项目编号不是 UTF-8 文本") from None
