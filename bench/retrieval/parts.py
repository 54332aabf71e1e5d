"""`python -m bench.retrieval.parts PATH`: what each part of full text adds, and how large pieces should be.

PATH as in `bench.retrieval`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import rjieba

from services.rag.lexical import FUNCTION_CHARACTERS
from services.rag.terms import split_letters, terms

from . import corpus
from .engine import DEPTH, InMemory
from .evaluation import figures, is_chapter, is_passage, ranks


class Alone(InMemory):
    """Pieces ordered by their own scores, whatever else their documents hold."""

    def _ordered(self, scores: dict[int, float]) -> list[int]:
        return sorted(scores, key=lambda piece: -scores[piece])[:DEPTH]


def taking(*, words: bool = False, pairs: bool = False, characters: bool = False) -> Callable[[str], list[str]]:
    """Make a function that takes only some kinds of terms."""

    def take(text: str) -> list[str]:
        runs = split_letters(text)
        found = [word for word in rjieba.cut("\n".join(runs)) if len(word) > 1] if words else []
        for run in runs:
            found += [a + b for a, b in pairwise(run)] if pairs else []
            found += run if characters else []
        return found

    return take


def without_function_words(text: str) -> list[str]:
    """The product's terms but for those that only hold characters which say little."""
    return [term for term in terms(text) if not FUNCTION_CHARACTERS.issuperset(term)]


ENGINES: tuple[tuple[str, Callable[[], InMemory]], ...] = (
    ("words", lambda: InMemory(taking(words=True))),
    ("pairs", lambda: InMemory(taking(pairs=True))),
    ("words, pairs", lambda: InMemory(taking(words=True, pairs=True))),
    ("pairs, characters", lambda: InMemory(taking(pairs=True, characters=True))),
    ("words, characters", lambda: InMemory(taking(words=True, characters=True))),
    ("words, pairs, characters (the product)", InMemory),
    ("the same without function words", lambda: InMemory(without_function_words)),
    ("the same without support of the document", lambda: Alone(terms)),
    ("the product, pieces of 200, overlap 40", lambda: InMemory(target=200, overlap=40)),
    ("the product, pieces of 300, overlap 60", lambda: InMemory(target=300, overlap=60)),
    ("the product, pieces of 400, overlap 0", lambda: InMemory(overlap=0)),
    ("the product, pieces of 600, overlap 100", lambda: InMemory(target=600, overlap=100)),
    ("the product, pieces of 800, overlap 160", lambda: InMemory(target=800, overlap=160)),
)


def main(path: Path) -> None:
    """Print one table."""
    novel = corpus.documents(path)
    titles, readers = corpus.titles(novel), corpus.readers(novel)
    print("| full text: hit@1 hit@5 MRR | titles | questions, by chapter | questions, by passage |\n|---|---|---|---|")
    for name, make in ENGINES:
        engine = make()
        engine.index(novel)
        by_title = [engine.search(query.text, "full text") for query in titles]
        by_reader = [engine.search(query.text, "full text") for query in readers]
        rows = (
            figures(ranks(titles, by_title, is_chapter)),
            figures(ranks(readers, by_reader, is_chapter)),
            figures(ranks(readers, by_reader, is_passage)),
        )
        print(f"| {name} | {' | '.join(map(str, rows))} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
