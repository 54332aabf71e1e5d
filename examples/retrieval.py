"""A novel that is stored chapter by chapter, searched as a reader would ask, and looked up by an agent while it writes."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import agent
import grpc
from calling import USER, Broken, heading, metadata, new_request_id, painted

from qingyu_ai.contract import rag_pb2
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc, rag_pb2_grpc

NOVEL = Path(__file__).with_name("novel") / "chendengdu.txt"
QUESTIONS = NOVEL.with_name("queries.tsv")

ASKED = ("从河里拉上来的孩子手里握着什么", "闻渡当年用身体的哪个部分换了鲸脂")
"""Two of those questions."""

TASK = "接着写两三句，交代闻渡当年在灯油铺拿什么换了鲸脂。先查资料库。"

SHOWN_RESULTS = 2

SECONDS = 60

HEADING = re.compile(r"^第\S+章 (.+)$", re.MULTILINE)

MARKED = re.compile("⟦(.+?)⟧")
"""What matched, in a highlight."""


@dataclass(frozen=True)
class Chapter:
    """A chapter of the sample novel."""

    number: int
    title: str
    text: str


def tour(rag: rag_pb2_grpc.RAGServiceStub, stub: ai_agent_pb2_grpc.AIAgentServiceStub) -> None:
    """Store the novel, search it, have an agent look something up, and remove it again."""
    novel = chapters()
    project = f"tour-{uuid.uuid4().hex[:8]}"  # of this tour alone: somebody else may take theirs at the same time
    try:
        index(rag, novel, project)
        search(rag, novel, project)
        write(stub, novel, project)
    except (grpc.RpcError, Broken):
        with suppress(grpc.RpcError, Broken):
            remove(rag, novel, project)
        raise
    remove(rag, novel, project)


def chapters() -> list[Chapter]:
    """Read the sample novel."""
    text = NOVEL.read_text(encoding="utf-8")
    begins = list(HEADING.finditer(text))
    ends = [begin.start() for begin in begins[1:]] + [len(text)]
    return [
        Chapter(number, begin[1], text[begin.end() : end].strip())
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True), 1)
    ]


def questions() -> tuple[list[tuple[str, int]], str]:
    """Read the questions about it, each with the chapter that answers it, and the names of its people."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    [names] = [line.split()[2:] for line in lines if line.startswith("# names:")]
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(row[2], int(row[0])) for row in rows], "、".join(names)


def document_id(project: str, number: int) -> str:
    """The name of a chapter: the same one again replaces it."""
    return f"{project}/{number}"


def index(rag: rag_pb2_grpc.RAGServiceStub, novel: list[Chapter], project: str) -> None:
    """Store all chapters in one call. A bad one would not fail the others: it would be named in the answer."""
    heading("六、把一部小说存进资料库", "BatchIndex")
    _, names = questions()

    def documents() -> Iterator[rag_pb2.IndexRequest]:
        for chapter in novel:
            yield rag_pb2.IndexRequest(
                document_id=document_id(project, chapter.number),
                content=chapter.text,
                content_type="chapter",
                user_id=USER,
                project_id=project,
                # `characters` brings invented names into the project's dictionary, so that they are found as words.
                metadata={"chapter": str(chapter.number), "title": chapter.title, "characters": names},
            )

    began = time.monotonic()
    # With its request id a batch that is sent again stores nothing twice.
    answer = rag.BatchIndex(documents(), timeout=SECONDS, metadata=(("x-request-id", new_request_id()),))
    took = time.monotonic() - began
    size = sum(len(chapter.text) for chapter in novel)
    print(f"《沉灯渡》{len(novel)} 章，{size} 字；人物 · names: {names}")
    print(f"存好 {answer.success_count} 章 · {answer.success_count} of {answer.total} stored, {took:.2f} s")
    if answer.total != len(novel) or answer.failed_count or answer.success_count != len(novel):
        raise Broken(f"没有全部存好 · not all were stored: {', '.join(answer.failed_ids) or answer}")


def search(rag: rag_pb2_grpc.RAGServiceStub, novel: list[Chapter], project: str) -> None:
    """Ask as readers do, in other words than the book's."""
    heading("七、检索", "Search, hybrid with rerank")
    answers = dict(questions()[0])
    for question in ASKED:
        request = rag_pb2.SearchRequest(
            query=question,
            user_id=USER,
            project_id=project,
            top_k=SHOWN_RESULTS,
            options=rag_pb2.SearchOptions(enable_hybrid=True, enable_rerank=True),
            metadata=metadata(new_request_id()),
        )
        found = rag.Search(request, timeout=SECONDS)
        print(f"问 · asks: {question}？")
        for result in found.results:
            show(result)
        print(f"  共 {found.total_count} 段 · passages in all, {found.duration_ms} 毫秒 · ms\n")
        wanted = document_id(project, answers[question])
        if not found.results or found.results[0].document_id != wanted:
            title = novel[answers[question] - 1].title
            raise Broken(f"没有找到 · the chapter that answers this, {title}, is not the first result")


def show(result: rag_pb2.SearchResult) -> None:
    """Print where it is, how near it is, and the best of its highlights."""
    print(f"  {result.score:.2f}  第 {result.metadata['chapter']} 章 {result.metadata['title']}")
    if not result.highlights or not MARKED.search(result.highlights[0]):
        raise Broken(f"没有标出 · nothing is marked in a result of {result.document_id}")
    best = " ".join(result.highlights[0].split())
    print(f"        …{MARKED.sub(lambda match: painted('match', match[0]), best)}…")


def write(stub: ai_agent_pb2_grpc.AIAgentServiceStub, novel: list[Chapter], project: str) -> None:
    """Have an agent look something up in the novel before it writes. It finds what its own user may find, and no more."""
    heading("八、会查资料的智能体", "ExecuteAgentStream, tool search_knowledge")
    opening = novel[-1].text.partition("\n")[0]
    agent.run(
        stub,
        agent.Work(
            task=TASK,
            without_tools=TASK,
            context={"前文": opening},
            tools=("search_knowledge",),
            project=project,
        ),
    )


def remove(rag: rag_pb2_grpc.RAGServiceStub, novel: list[Chapter], project: str) -> None:
    """Leave nothing behind."""
    removed = 0
    for chapter in novel:
        request = rag_pb2.DeleteRequest(document_id=document_id(project, chapter.number), user_id=USER)
        removed += rag.DeleteDocument(request, timeout=SECONDS).success
    print(f"\n  删除 · DeleteDocument: {removed} of {len(novel)}")
    if removed != len(novel):
        raise Broken("没有全部删除 · not all chapters were there to be removed")
