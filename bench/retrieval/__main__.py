"""`python -m bench.retrieval [--grpc] PATH`: how well the offline search finds chapters of the 120-chapter Honglou meng.

PATH is the novel in UTF-8, simplified characters, each chapter headed by a line such as `第一回 …`. Chapters are documents,
without their headings. Queries: the 120 titles, and 60 questions of readers (`queries.tsv`). Everything was tuned on odd
chapters; the rows of even chapters are held out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench.rag_system import rag_system
from services.rag.splitting import Piece, split
from services.rag.terms import terms

from . import corpus
from .corpus import Document, Query
from .engine import MODES, OVERLAP, TARGET, Engine, InMemory, Mode, Result
from .evaluation import figures, is_chapter, is_passage, ranks
from .served import SERVED, OverGrpc


def main(path: Path) -> None:
    """Print the tables of the product's functions in memory."""
    novel = corpus.documents(path)
    engine = InMemory()
    began = time.process_time()
    engine.index(novel)
    taken = time.process_time()
    engine.embed()
    embedded = time.process_time()
    characters = sum(len(one.text) for one in novel)
    print(
        f"{len(novel)} chapters, {characters} characters, {len(engine)} pieces of at most {TARGET}, overlap {OVERLAP}"
    )
    print(
        f"CPU: split, terms and postings {taken - began:.1f} s, vectors {embedded - taken:.1f} s; "
        f"of a million characters: split {_seconds(novel, _split):.2f} s, terms {_seconds(novel, terms):.2f} s"
    )
    evaluate(novel, engine, MODES)


def through_grpc(path: Path) -> None:
    """Print the tables of a whole system: bridge, bus, worker, database."""
    novel = corpus.documents(path)
    with rag_system() as system:
        engine = OverGrpc(system)
        began = time.monotonic()
        engine.index(novel)
        print(f"{len(novel)} chapters in {time.monotonic() - began:.1f} s, through gRPC")
        evaluate(novel, engine, SERVED)


def evaluate(novel: list[Document], engine: Engine, modes: Sequence[Mode]) -> None:
    """Ask everything, and print how it was answered."""
    titles, readers = corpus.titles(novel), corpus.readers(novel)
    found = {mode: [engine.search(query.text, mode) for query in titles + readers] for mode in modes}
    by_title = {mode: results[: len(titles)] for mode, results in found.items()}
    by_reader = {mode: results[len(titles) :] for mode, results in found.items()}
    _table("titles, by chapter", titles, by_title, is_chapter)
    _table("questions of readers, by chapter", readers, by_reader, is_chapter)
    _table("questions of readers, by passage", readers, by_reader, is_passage)
    _scores(readers, by_reader)


def _split(text: str) -> list[Piece]:
    return split(text, TARGET, OVERLAP)


def _seconds(novel: list[Document], work: Callable[[str], object]) -> float:
    began = time.process_time()
    for one in novel:
        work(one.text)
    return (time.process_time() - began) / sum(len(one.text) for one in novel) * 1e6


def _table(
    name: str, queries: list[Query], found: dict[Mode, list[list[Result]]], right: Callable[[Query, Result], bool]
) -> None:
    print(
        f"\n| {name}: hit@1 hit@5 MRR | all {len(queries)} | odd chapters | even chapters, held out |\n|---|---|---|---|"
    )
    for mode, results in found.items():
        of_query = ranks(queries, results, right)
        by_half = {
            half: [rank for rank, query in zip(of_query, queries, strict=True) if query.number % 2 == half]
            for half in (1, 0)
        }
        print(f"| {mode} | {figures(of_query)} | {figures(by_half[1])} | {figures(by_half[0])} |")


def _scores(queries: list[Query], found: dict[Mode, list[list[Result]]]) -> None:
    """Print what scores right and wrong results have."""
    print("\n| score, median over the questions | the passage that answers | the 50th result |\n|---|---|---|")
    for mode, results in found.items():
        right = [
            next((one.score for one in own if is_passage(query, one)), 0.0)
            for query, own in zip(queries, results, strict=True)
        ]
        print(
            f"| {mode} | {median(right):.2f} | {median(own[min(49, len(own) - 1)].score for own in results if own):.2f} |"
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--grpc", given] if not given.startswith("-"):
            through_grpc(Path(given))
        case [given] if not given.startswith("-"):
            main(Path(given))
        case _:
            sys.exit(__doc__)
