"""The short form of the abuse suite, and that it sees holes. `make abuse` makes every attempt."""

from __future__ import annotations

from typing import Any

import pytest

from qingyu_ai.routes import ROUTES
from tests.abuse.__main__ import abused
from tests.abuse.fields import text_fields, with_text
from tests.abuse.requests import good_requests
from tests.abuse.rounds import RoundOf, anothers_ids, closed_projects, forged_tokens

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("worker faults")]

EVERY = 17
"""Of so many attempts one is made. It shares no factor with the numbers of ids and forgeries, so that all have their turn."""


@pytest.mark.timeout(180)
async def test_nothing_leaks_or_breaks() -> None:
    rounds = await abused(EVERY)
    assert [one.name for one in rounds if not one.calls] == []
    assert {one.name: one.wrong for one in rounds if one.wrong} == {}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("hole", "by", "sign"),
    [
        ("signature", forged_tokens, "OK, not one of UNAUTHENTICATED"),
        ("owner", anothers_ids, "leaked"),
        ("projects", closed_projects, "the document leaked"),
    ],
)
async def test_hole_is_seen(hole: str, by: RoundOf, sign: str) -> None:
    [found] = await abused(EVERY, hole, [by])
    assert any(sign in finding for finding in found.wrong), found


def test_every_row_is_called_and_every_text_field_of_it_is_found() -> None:
    requests = good_requests("u")
    assert set(requests) == set(ROUTES)
    paths = {route.method: [path for path, _ in text_fields(request)] for route, request in requests.items()}
    assert paths["Cancel"] == [
        "method",
        "request_id",
        "metadata.request_id",
        "metadata.user_id",
        "metadata.project_id",
        "metadata.extra.key",
        "metadata.extra.value",
    ]
    assert {"tools[]", "context.key", "options.model", "task"} <= set(paths["ExecuteAgent"])
    assert {"messages[].content", "messages[].metadata.value", "session_id"} <= set(paths["Chat"])


def test_text_goes_into_a_copy() -> None:
    for route, request in good_requests("u").items():
        before = request.SerializeToString()
        for path, put in text_fields(request):
            changed: Any = with_text(request, put, "sprung")
            assert b"sprung" in changed.SerializeToString(), (route.method, path)
        assert request.SerializeToString() == before
