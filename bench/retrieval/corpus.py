"""What is searched, and questions with known answers. Knows nothing of how it is searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.text import chapters

READERS = Path(__file__).with_name("queries.tsv")


@dataclass(frozen=True, slots=True)
class Document:
    """A chapter, without its heading: a query must not contain its own answer."""

    number: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A question, and the chapter that answers it."""

    text: str
    number: int
    evidence: str = ""
    """A phrase of the passage that answers it; empty: the whole chapter does."""


def documents(path: Path) -> list[Document]:
    """Read the chapters of a novel: UTF-8, each headed by a line such as `第一回 …`, numbered in order."""
    text = path.read_text(encoding="utf-8")
    found = [one for one in chapters.split(text) if one.kind == "chapter"]
    return [Document(one.number or 0, one.title, text[one.body : one.end]) for one in found]


def titles(novel: list[Document]) -> list[Query]:
    """Each chapter's title as a query, without the space between its halves."""
    return [Query("".join(one.title.split()), one.number) for one in novel]


@dataclass(frozen=True, slots=True)
class ReaderQuery:
    """A row of `queries.tsv`."""

    number: int
    title: str
    text: str
    evidence: str


def reader_rows(path: Path = READERS) -> tuple[list[ReaderQuery], list[str]]:
    """Read the questions of readers, and the names of persons that may stand in a question and in its title."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [name for line in lines if line.startswith("# names: ") for name in line.split()[2:]]
    cells = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [ReaderQuery(int(number), title, text, evidence) for number, title, text, evidence in cells], names


def readers(novel: list[Document], path: Path = READERS) -> list[Query]:
    """The questions of readers, each checked against the novel.

    Raises:
        ValueError: the novel is another one: a title or an evidence phrase is not where the file says.
    """
    by_number = {one.number: one for one in novel}
    rows, _ = reader_rows(path)
    for row in rows:
        chapter = by_number.get(row.number)
        if chapter is None or chapter.title != row.title or row.evidence not in chapter.text:
            raise ValueError(
                f"{path.name}: chapter {row.number} of this novel is not “{row.title}” with “{row.evidence}”"
            )
    return [Query(row.text, row.number, row.evidence) for row in rows]
