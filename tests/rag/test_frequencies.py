"""What is remembered of common words, for whom, and for how long."""

from __future__ import annotations

import pytest

from services.rag import frequencies
from services.rag.frequencies import COMMON, SCOPES, WORDS, Frequencies
from services.rag.searching import Scope

MINE = ("u", "p")


def test_only_common_words_are_remembered_and_only_of_their_scope() -> None:
    known = Frequencies()
    known.learn(MINE, 10_000, {"的": 9000, "剑": COMMON - 1})
    assert known.known(MINE, 10_000, ["的", "剑", "灯"]) == {"的": 9000}
    assert known.known(("other", "p"), 10_000, ["的"]) == {}
    assert known.known(("u", "q"), 10_000, ["的"]) == {}


def test_share_stays_while_few_pieces_come_or_go_and_is_counted_again_after_many() -> None:
    known = Frequencies()
    known.learn(MINE, 10_000, {"的": 9000})
    assert known.known(MINE, 10_100, ["的"]) == {"的": 9090}
    assert known.known(MINE, 9900, ["的"]) == {"的": 8910}
    assert known.known(MINE, 10_201, ["的"]) == {}
    assert known.known(MINE, 10_000, ["的"]) == {}


def test_word_that_is_everywhere_is_never_in_more_pieces_than_there_are() -> None:
    """It was counted when there were more pieces than when the first words were."""
    known = Frequencies()
    known.learn("s", 10_000, {"的": 5_000})
    known.learn("s", 10_200, {"了": 10_200})
    assert known.known("s", 10_200, ["了"]) == {"了": 10_200}


def test_it_is_counted_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Frequencies()
    monkeypatch.setattr(frequencies, "SECONDS", 0.0)
    known.learn(MINE, 10_000, {"的": 9000})
    assert known.known(MINE, 10_000, ["的"]) == {}


def test_memory_is_bounded() -> None:
    known = Frequencies()
    for n in range(SCOPES + 5):
        known.learn(("u", n), 10_000, {f"{n}": 9000})
        known.known(("u", 0), 10_000, [])  # it stays: somebody uses it
    kept = [n for n in range(SCOPES + 5) if known.known(("u", n), 10_000, [f"{n}"])]
    assert len(kept) == SCOPES
    assert 0 in kept
    assert 1 not in kept
    known.learn(MINE, 10_000, {f"{n}": COMMON for n in range(WORDS + 50)})
    assert len(known.known(MINE, 10_000, [f"{n}" for n in range(WORDS + 50)])) == WORDS


def test_scopes_that_hold_other_documents_have_other_keys() -> None:
    scopes = [
        Scope(),
        Scope("p"),
        Scope(projects=()),
        Scope(projects=("p",)),
        Scope("p", projects=("p", "q")),
        Scope(content_types=("p",)),
        Scope(filters={"p": ""}),
        Scope(filters={"": "p"}),
    ]
    assert len({one.key for one in scopes}) == len(scopes)
    assert Scope(content_types=("a", "b"), projects=["q", "p"]).key == Scope("", ("b", "a", "a"), {}, ("p", "q")).key
