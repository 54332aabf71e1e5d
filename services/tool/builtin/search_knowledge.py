"""The tool search_knowledge: asks the knowledge base, as the user whom the tool serves."""

from __future__ import annotations

from pydantic import BaseModel, Field

from qingyu_ai import routes
from qingyu_ai.contract import rag_pb2 as rag
from services.tool.definition import Parameters, ToolCaller, tool

LONGEST_QUERY = 500
MOST_RESULTS = 20


class SearchKnowledgeParameters(Parameters):
    """What to look for."""

    query: str = Field(description="要查的内容，一句话或几个关键词", min_length=1, max_length=LONGEST_QUERY)
    top_k: int = Field(default=5, description="最多返回几段", ge=1, le=MOST_RESULTS)


class Passage(BaseModel):
    """A passage of a document."""

    document_id: str
    content: str
    score: float = Field(description="0 到 1，越高越相关")


class KnowledgeFound(BaseModel):
    """What was found."""

    passages: list[Passage] = Field(description="最相关的在前")


@tool(category="knowledge", seconds=15.0, in_worker=True, max_output_bytes=256 * 1024)
async def search_knowledge(parameters: SearchKnowledgeParameters, caller: ToolCaller) -> KnowledgeFound:
    """在作者自己的资料库（设定集、已写章节、人物卡等）中检索，返回最相关的若干段原文。只能查到该作者自己的资料。"""
    request = rag.SearchRequest(
        query=parameters.query,
        user_id=caller.user,
        project_id=caller.project,
        top_k=parameters.top_k,
        # As it finds best, measured: docs/retrieval.md.
        options=rag.SearchOptions(enable_hybrid=True, enable_rerank=True),
    )
    found = rag.SearchResponse.FromString(await caller.ask(routes.SEARCH.path, request.SerializeToString()))
    return KnowledgeFound(
        passages=[
            Passage(document_id=one.document_id, content=one.content, score=round(one.score, 4))
            for one in found.results
        ]
    )
