"""The rules cover the table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.admission import Incoming, admit
from bridge.rules import RULES, check_id
from qingyu_ai import routes
from qingyu_ai.bus.errors import Invalid
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.settings import Settings


def test_every_request_type_has_its_rule() -> None:
    assert {route.request for route in routes.ROUTES} == set(RULES)


@pytest.mark.parametrize("good", ["u1", "用户", "a b", "a.b*>", "507f1f77bcf86cd799439011", "x" * 128, ""])
def test_ids_that_hold(good: str) -> None:
    assert not check_id("f", good)


@pytest.mark.parametrize("bad", [" a", "a ", "\n", "a\nb", "a\x00", "\x7f", "x" * 129, "a\u2028b", "\t"])
def test_ids_that_do_not(bad: str) -> None:
    assert [field for field, _ in check_id("f", bad)] == ["f"]


def test_a_limit_is_written_with_all_its_digits() -> None:
    request = ai.ChatRequest(messages=[common.Message(role="user", content="x")], max_tokens=2_000_000)
    assert RULES[ai.ChatRequest](request) == [("max_tokens", "must be between 0 and 1000000")]


SETTINGS = Settings()
NOTHING = Incoming("", "")


@given(st.binary(max_size=300), st.sampled_from([r for r in routes.ROUTES if not isinstance(r, routes.JobStream)]))
def test_any_bytes_are_admitted_or_refused_and_never_raise_anything_else(body: bytes, route: routes.Route) -> None:  # type: ignore[type-arg]
    from qingyu_ai.bus.errors import Fault

    try:
        admitted = admit(route, body, NOTHING, 5, SETTINGS)
    except Fault:
        return
    assert admitted.envelope.request_id


def test_digest_ignores_metadata_and_notices_everything_else() -> None:
    def digest(**more: object) -> str:
        request = ai.ChatRequest(messages=[common.Message(role="user", content="x")], **more)  # type: ignore[arg-type]
        return admit(routes.CHAT, request.SerializeToString(), NOTHING, 5, SETTINGS).envelope.digest

    assert digest(metadata={"timestamp": 1}) == digest(metadata={"timestamp": 2}) == digest()
    assert digest(max_tokens=1) != digest()
    assert digest(context={"a": "1", "b": "2"}) == digest(context={"b": "2", "a": "1"})


def test_documents_own_metadata_is_part_of_its_digest() -> None:
    def digest(value: str) -> str:
        request = rag.IndexRequest(document_id="d", content="c", user_id="u", metadata={"chapter": value})
        return admit(routes.INDEX_DOCUMENT, request.SerializeToString(), NOTHING, 5, SETTINGS).envelope.digest

    assert digest("1") != digest("2")


def test_deadline_is_the_callers_but_never_longer_than_the_longest() -> None:
    body = rag.SearchRequest(query="q", user_id="u").SerializeToString()
    longest = SETTINGS.bus.longest_deadline_seconds
    for given_seconds, expected in ((3.0, 3.0), (1e9, longest), (None, SETTINGS.bus.default_deadline_seconds)):
        admitted = admit(routes.SEARCH, body, NOTHING, given_seconds, SETTINGS)
        assert abs(admitted.envelope.deadline.remaining - expected) < 1


def test_user_may_stand_in_the_body_or_in_its_metadata() -> None:
    for request in (
        ai.AgentRequest(agent_type="plot", task="t", user_id="u"),
        ai.AgentRequest(agent_type="plot", task="t", metadata=common.Metadata(user_id="u")),
        ai.AgentRequest(agent_type="plot", task="t", user_id="u", metadata=common.Metadata(user_id="u")),
    ):
        admitted = admit(routes.EXECUTE_AGENT, request.SerializeToString(), NOTHING, 5, SETTINGS)
        assert admitted.envelope.user == "u"
    anonymous = ai.AgentRequest(agent_type="plot", task="t").SerializeToString()
    with pytest.raises(Invalid, match="user_id: is required"):
        admit(routes.EXECUTE_AGENT, anonymous, NOTHING, 5, SETTINGS)
