"""The table covers the contract, descriptor for descriptor."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor

from qingyu_ai import routes
from qingyu_ai.bus import topology
from qingyu_ai.contract import ai_agent_pb2, control_pb2, rag_pb2, tool_pb2
from qingyu_ai.routes import Edge, Job, JobStream, Route, Rpc, StreamJob


def contract() -> dict[str, MethodDescriptor]:
    """Every RPC of the contract by its path."""
    return {
        f"/{service.full_name}/{method.name}": method
        for module in (ai_agent_pb2, rag_pb2, tool_pb2, control_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def test_every_rpc_is_a_row_and_every_row_an_rpc() -> None:
    assert [route.path for route in routes.ROUTES] == list(dict.fromkeys(route.path for route in routes.ROUTES))
    assert {route.path for route in routes.ROUTES} == set(contract())
    assert len(routes.ROUTES) == 14


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda r: r.method)
def test_row_has_the_types_and_the_cardinality_of_its_rpc(route: Route[Any, Any]) -> None:
    method = contract()[route.path]
    assert route.request.DESCRIPTOR is method.input_type
    assert route.reply.DESCRIPTOR is method.output_type
    assert isinstance(route, StreamJob) == method.server_streaming
    assert isinstance(route, JobStream) == method.client_streaming


@pytest.mark.parametrize("route", routes.ROUTES, ids=lambda r: r.method)
def test_row_has_the_subject_of_its_kind(route: Route[Any, Any]) -> None:
    match route:
        case Rpc():
            assert re.fullmatch(rf"ai\.rpc\.{route.worker}\.[a-z]+", route.subject)
        case Job() | StreamJob():
            assert re.fullmatch(rf"ai\.job\.{route.worker}\.[a-z]+", route.subject)
            assert topology.QUEUES[route.worker].subject == f"ai.job.{route.worker}.>"
        case JobStream():
            assert route.item is routes.INDEX_DOCUMENT
        case Edge():
            assert route.subject == ""


def test_token_of_a_subject_is_a_field_of_its_request() -> None:
    for route in routes.ROUTES:
        if route.token:
            assert route.token in route.request.DESCRIPTOR.fields_by_name
    request = ai_agent_pb2.AgentRequest(agent_type="plot")
    assert routes.EXECUTE_AGENT.subject_of(request) == "ai.job.agent.execute.plot"
    assert routes.EXECUTE_AGENT.interest == "ai.job.agent.execute.*"


def test_services_know_the_workers_behind_them() -> None:
    assert routes.services() == {
        routes.AGENT_SERVICE: ("agent", "chat"),
        routes.RAG_SERVICE: ("rag",),
        routes.TOOL_SERVICE: ("tool",),
        routes.CONTROL_SERVICE: (),
    }
