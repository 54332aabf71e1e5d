"""`python -m bench.retrieval.ts_rank PATH`: PostgreSQL's own `ts_rank` in the place of BM25, over the same pieces and terms.

PATH as in `bench.retrieval`. What is asked and how it is judged is the same, with the support of the document and without it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from services.rag.ranking import Statistics
from tests.postgres import PostgresProcess

from . import corpus
from .engine import InMemory
from .evaluation import figures, is_chapter, is_passage, ranks
from .parts import Alone

NORMALIZATIONS = {
    0: "as it is",
    1: "by 1 + log(length)",
    2: "by length",
    16: "by 1 + log(different words)",
}
"""What the manual of PostgreSQL offers against long texts (chapter 12.3.3)."""

MOST_PLACES = 255
"""Of one word in a `tsvector`."""


def quoted(term: str) -> str:
    """A word as `tsvector` and `tsquery` read it."""
    return "'" + term.replace("\\", "\\\\").replace("'", "''") + "'"


class Ranked(InMemory):
    """Pieces in a table of a server, with their terms as a `tsvector`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__()
        self._connection = connection
        self.normalization = 0
        self.alone = False

    def index(self, documents: Sequence[corpus.Document]) -> None:
        """Split, take terms, store."""
        super().index(documents)
        self._connection.execute("CREATE TABLE pieces (number integer, words tsvector)")
        with self._connection.cursor().copy("COPY pieces FROM STDIN") as copy:
            for number, times in enumerate(self._tf):
                words = (
                    f"{quoted(term)}:{','.join(map(str, range(1, min(n, MOST_PLACES) + 1)))}"
                    for term, n in times.items()
                )
                copy.write_row((number, " ".join(words)))

    def _ordered(self, scores: dict[int, float]) -> list[int]:
        return Alone._ordered(self, scores) if self.alone else super()._ordered(scores)  # type: ignore[arg-type]

    def _by_words(self, asked: Sequence[str], statistics: Statistics) -> dict[int, float]:
        query = """
            SELECT number, ts_rank(words, query, %s) FROM pieces, to_tsquery('simple', %s) AS query
            WHERE words @@ query ORDER BY number"""
        rows = self._connection.execute(query, (self.normalization, " | ".join(map(quoted, asked)))).fetchall()
        return dict(rows)


def main(path: Path) -> None:
    """Print one table."""
    novel = corpus.documents(path)
    titles, readers = corpus.titles(novel), corpus.readers(novel)
    print("| full text: hit@1 hit@5 MRR | titles | questions, by chapter | questions, by passage |\n|---|---|---|---|")

    def row(name: str, engine: InMemory) -> None:
        by_title = [engine.search(query.text, "full text") for query in titles]
        by_reader = [engine.search(query.text, "full text") for query in readers]
        of = (
            ranks(titles, by_title, is_chapter),
            ranks(readers, by_reader, is_chapter),
            ranks(readers, by_reader, is_passage),
        )
        print(f"| {name} | {' | '.join(str(figures(one)) for one in of)} |", flush=True)

    product = InMemory()
    product.index(novel)
    row("BM25", product)
    server = PostgresProcess()
    server.start()
    try:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            engine = Ranked(connection)
            engine.index(novel)
            for engine.normalization, name in NORMALIZATIONS.items():
                for engine.alone in (False, True):
                    row(f"ts_rank {name}{', without support of the document' if engine.alone else ''}", engine)
    finally:
        server.close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
