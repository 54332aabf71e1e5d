from __future__ import annotations

import pytest

from services.llm.faults import Upstream as Kind
from services.llm.faults import UpstreamFault
from services.llm.vectors import Embedder, Reranker, RerankStyle
from tests.upstream.replies import error
from tests.upstream.script import Reply

from .conftest import Lab

TEXTS = ["林黛玉进贾府", "宝玉摔玉", "刘姥姥一进荣国府", "黛玉葬花", "晴雯撕扇"]


async def test_vectors_come_in_the_order_of_their_texts_over_any_number_of_requests(lab: Lab) -> None:
    server = lab.remote("bge").server
    whole = await Embedder(server, lab.meters, batch=100).embed(TEXTS)
    assert len(whole) == len(TEXTS)
    assert len({tuple(vector) for vector in whole}) == len(TEXTS)
    lab.upstream.clear()
    assert await Embedder(server, lab.meters, batch=2).embed(TEXTS) == whole
    assert [len(seen.body["input"]) for seen in lab.upstream.seen()] == [2, 2, 1]
    assert await Embedder(server, lab.meters).embed([]) == []


async def test_dimensions_are_asked_for(lab: Lab) -> None:
    vectors = await Embedder(lab.remote("bge").server, lab.meters, dimensions=8).embed(TEXTS)
    assert {len(vector) for vector in vectors} == {8}


async def test_embeddings_are_asked_for_again_and_fail_as_chats_do(lab: Lab) -> None:
    embedder = Embedder(lab.remote("bge", error(503, "busy"), attempts=2).server, lab.meters)
    with pytest.raises(UpstreamFault) as fault:
        await embedder.embed(TEXTS)
    assert fault.value.kind is Kind.FAILED
    assert len(lab.upstream.seen()) == 2
    assert lab.metric("qingyu_model_retries_total", model="bge") == 1


NO_EMBEDDINGS = [
    "<html>",
    "{}",
    '{"data": []}',
    '{"data": [{"index": 5, "embedding": [1]}]}',
    '{"data": [{"index": 0, "embedding": "?"}]}',
]


@pytest.mark.parametrize("body", NO_EMBEDDINGS)
async def test_answer_that_is_no_embedding_is_refused(lab: Lab, body: str) -> None:
    reply = Reply(body=body, content_type="application/json")
    with pytest.raises(UpstreamFault) as fault:
        await Embedder(lab.remote("bge", reply).server, lab.meters).embed(["一"])
    assert fault.value.kind is Kind.ANSWER_BROKEN


@pytest.mark.parametrize(("style", "at"), [("jina", "/v1"), ("tei", "")])
async def test_texts_are_scored_in_their_order(lab: Lab, style: RerankStyle, at: str) -> None:
    server = lab.remote("reranker", base_url=lab.upstream.url + at).server
    scores = await Reranker(server, lab.meters, style).scores("黛玉葬花", TEXTS)
    assert len(scores) == len(TEXTS)
    assert max(scores) == scores[3]
    assert await Reranker(server, lab.meters, style).scores("黛玉", []) == []


async def test_scores_that_miss_a_text_are_refused(lab: Lab) -> None:
    reply = Reply(body='{"results": [{"index": 0, "relevance_score": 0.5}]}', content_type="application/json")
    with pytest.raises(UpstreamFault) as fault:
        await Reranker(lab.remote("reranker", reply).server, lab.meters).scores("黛玉", TEXTS)
    assert fault.value.kind is Kind.ANSWER_BROKEN
