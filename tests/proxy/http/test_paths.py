"""Paths are found by their segments, as they were sent."""

from __future__ import annotations

import pytest
from starlette.responses import Response

from services.proxy.http.operations import OPERATIONS
from services.proxy.http.paths import Paths, sent_path


def table() -> Paths:
    paths = Paths()
    for op in OPERATIONS:
        paths.add((op.method,), op.path, Response(op.name))
    return paths


def test_every_row_is_found_by_its_path_and_no_row_by_anothers() -> None:
    paths = table()
    for op in OPERATIONS:
        answers, parameters = paths.find(op.path.replace("{", "<").replace("}", ">"))
        answer = answers[op.method]
        assert isinstance(answer, Response)
        assert answer.body == op.name.encode()
        assert all(value == f"<{name}>" for name, value in parameters.items())


@pytest.mark.parametrize(
    "path", ["", "/", "/api", "/api/v1/ai/tools/", "/api/v1/ai//tools", "/api/v1/ai/tools/a/b", "/health/", "//health"]
)
def test_other_paths_are_nowhere(path: str) -> None:
    assert table().find(path) == ({}, {})


def test_parameters_are_decoded_after_the_path_was_split() -> None:
    assert table().find("/api/v1/ai/calls/r%2F1%20%E7%81%AF/stream")[1] == {"requestId": "r/1 灯"}
    assert table().find("/api/v1/ai/tools/%FF")[1] == {"name": "\ufffd"}


def test_server_that_does_not_say_what_was_sent_is_done_without() -> None:
    assert sent_path({"path": "/a b/灯", "raw_path": b"/a%20b/%E7%81%AF"}) == "/a%20b/%E7%81%AF"
    assert sent_path({"path": "/a b/灯"}) == "/a%20b/%E7%81%AF"
