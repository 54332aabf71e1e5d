"""A RAGService that keeps documents in memory and knows the sample novel's answers, and breaks one promise if asked to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc

from qingyu_ai.contract import rag_pb2
from qingyu_ai.contract.stubs import rag_pb2_grpc

QUESTIONS = Path(__file__).parents[2] / "examples" / "novel" / "queries.tsv"

Context = grpc.ServicerContext


def evidence() -> dict[str, str]:
    """The phrase that answers each question."""
    rows = [line.split("\t") for line in QUESTIONS.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    return {question: phrase for _, _, question, phrase in rows}


class FakeRag(rag_pb2_grpc.RAGServiceServicer):
    """Keeps its promises, but for the one named in `fault`."""

    def __init__(self, fault: str = "") -> None:
        """Prepare it."""
        self.fault = fault
        self.documents: dict[tuple[str, str], rag_pb2.IndexRequest] = {}
        self._evidence = evidence()

    def IndexDocument(self, request: rag_pb2.IndexRequest, context: Context) -> rag_pb2.IndexResponse:
        """Not part of the tour."""
        raise NotImplementedError

    def BatchIndex(self, requests: Iterator[rag_pb2.IndexRequest], context: Context) -> rag_pb2.BatchIndexResponse:
        """Keep documents."""
        given = list(requests)
        failed = [given[-1].document_id] if self.fault == "a document fails" else []
        self.documents |= {(one.user_id, one.document_id): one for one in given if one.document_id not in failed}
        stored = len(given) - len(failed)
        return rag_pb2.BatchIndexResponse(
            total=len(given), success_count=stored, failed_count=len(failed), failed_ids=failed
        )

    def Search(self, request: rag_pb2.SearchRequest, context: Context) -> rag_pb2.SearchResponse:
        """Find the chapter with the answer first."""
        phrase = self._evidence[request.query]
        mine = [one for (user, _), one in self.documents.items() if user == request.user_id]
        mine = [one for one in mine if one.project_id == request.project_id]
        mine.sort(key=lambda one: (phrase in one.content) == (self.fault == "another chapter"))
        found = [self._result(one, phrase) for one in mine[: request.top_k]]
        return rag_pb2.SearchResponse(results=found, total_count=len(mine), duration_ms=2)

    def _result(self, document: rag_pb2.IndexRequest, phrase: str) -> rag_pb2.SearchResult:
        marked = phrase if self.fault == "no marks" else f"⟦{phrase}⟧"
        return rag_pb2.SearchResult(
            document_id=document.document_id,
            content=document.content,
            score=0.5,
            metadata=document.metadata,
            highlights=[marked],
        )

    def DeleteDocument(self, request: rag_pb2.DeleteRequest, context: Context) -> rag_pb2.DeleteResponse:
        """Remove a document."""
        if self.fault == "nothing to delete":
            return rag_pb2.DeleteResponse(success=False, message="there is no such document")
        return rag_pb2.DeleteResponse(
            success=self.documents.pop((request.user_id, request.document_id), None) is not None
        )
