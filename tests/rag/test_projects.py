"""A caller whose token opens some projects only: nothing of the others is found, changed or removed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qingyu_ai.bus.errors import Code, Denied
from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import rag_pb2 as rag
from services.rag.database import Database
from services.rag.service import RagService
from tests.rag.parts import service
from tests.rag.test_service import call

LAMP = "沈砚点亮了灯。"


def restricted(*projects: str, sequence: int = 1, project: str = "") -> Call:
    return replace(call(sequence=sequence), projects=projects, project=project)


def document(name: str, project: str, content: str = LAMP, **more: Any) -> rag.IndexRequest:
    return rag.IndexRequest(document_id=name, user_id="u", project_id=project, content=content, **more)


@pytest.fixture
async def served(database: Database) -> RagService:
    """With a document in each of two projects, and one in none."""
    made = service(database)
    for number, (name, project) in enumerate((("one", "p1"), ("two", "p2"), ("none", "")), start=1):
        await made.index(call(sequence=number), document(name, project))
    return made


async def found(served: RagService, asks: Call, project: str = "", *, hybrid: bool = True) -> set[str]:
    options = rag.SearchOptions(enable_hybrid=hybrid)
    answer = await served.search(asks, rag.SearchRequest(query="灯", project_id=project, options=options, top_k=50))
    assert answer.total_count == len(answer.results)
    return {one.document_id for one in answer.results}


@pytest.mark.parametrize("hybrid", [True, False])
async def test_only_open_projects_are_searched(served: RagService, hybrid: bool) -> None:
    assert await found(served, call(), hybrid=hybrid) == {"one", "two", "none"}
    assert await found(served, restricted("p1"), hybrid=hybrid) == {"one"}
    assert await found(served, restricted("p1", "p2", "p3"), hybrid=hybrid) == {"one", "two"}
    assert await found(served, restricted("p2"), "p2", hybrid=hybrid) == {"two"}
    assert await found(served, restricted(), hybrid=hybrid) == set()


@pytest.mark.parametrize("asks", [restricted("p1"), restricted(), restricted("p1", project="p2")])
async def test_search_that_names_a_closed_project_is_denied(served: RagService, asks: Call) -> None:
    named = "" if asks.project else "p2"
    with pytest.raises(Denied) as denied:
        await found(served, asks, named)
    assert denied.value.code is Code.PERMISSION_DENIED
    assert "p2" not in denied.value.message + denied.value.chinese


async def test_filters_do_not_open_a_closed_project(served: RagService) -> None:
    await served.index(call(sequence=9), document("four", "p2", metadata={"project_id": "p1"}))
    request = rag.SearchRequest(query="灯", options=rag.SearchOptions(filters={"project_id": "p1"}), top_k=50)
    assert not (await served.search(restricted("p1"), request)).results


@pytest.mark.parametrize(
    ("name", "project"), [("new", "p2"), ("new", ""), ("two", "p1"), ("none", "p1"), ("two", "p2")]
)
async def test_document_of_a_closed_project_is_neither_made_nor_replaced(
    served: RagService, name: str, project: str
) -> None:
    with pytest.raises(Denied):
        await served.index(restricted("p1", sequence=20), document(name, project, "灯灭了。"))
    assert await found(served, call()) == {"one", "two", "none"}
    assert await found(served, call(), "p2") == {"two"}
    # The refusal took no place in the order: an older submission than it is still carried out.
    answer = await served.index(call(sequence=10), document(name, "p2", "新的灯。"))
    assert (answer.success, answer.message) == (True, "")


async def test_document_of_a_closed_project_is_not_there_to_be_removed(served: RagService) -> None:
    for name in ("two", "none", "never"):
        answer = await served.delete(restricted("p1", sequence=20), rag.DeleteRequest(document_id=name))
        assert not answer.success
        assert answer.message == f"there is no document {name!r} / 没有文档 {name!r}"
    assert await found(served, call()) == {"one", "two", "none"}
    assert (await served.delete(call(sequence=10), rag.DeleteRequest(document_id="two"))).success
    assert (await served.delete(restricted("p1", sequence=21), rag.DeleteRequest(document_id="one"))).success


async def test_open_project_is_written_to_as_always(served: RagService) -> None:
    answer = await served.index(restricted("p1", sequence=20), document("new", "p1"))
    assert answer.success
    answer = await served.index(restricted("p1", sequence=21, project="p1"), document("one", "", "灯又亮了。"))
    assert answer.success
    assert await found(served, restricted("p1")) == {"one", "new"}
