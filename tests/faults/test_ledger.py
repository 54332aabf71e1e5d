"""The ledger finds what it is kept for: each fault below is one that a test of faults must not overlook."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.ledger import Attempt, Received, delivered, generated, overspent, wrongs
from tests.faults.tokens import Ask, Token, last_sentence, read

CALL = "沈1"


def said(request: int, first: int, after: int, call: str = CALL) -> str:
    return "".join(str(Token(call, request, count)) for count in range(first, after))


WHOLE = said(1, 0, 7) + said(2, 7, 20)

ATTEMPTS = [
    Attempt(CALL, 1, "", 0, 0.0, wrote=9, ended="closed"),
    Attempt(CALL, 2, said(1, 0, 7), 7, 0.0, wrote=13, ended="complete"),
]


def received(text: str, *, ok: bool = True) -> Received:
    return Received(CALL, text, finals=int(ok), final_last=ok, ok=ok)


def test_text_of_two_requests_that_join_is_right() -> None:
    """Also what the first one wrote and nobody received: seven of its nine tokens were taken."""
    assert wrongs(received(WHOLE), ATTEMPTS, 20) == []


def test_beginning_of_it_is_right_if_the_call_failed() -> None:
    assert wrongs(received(said(1, 0, 4), ok=False), ATTEMPTS, 20) == []
    assert wrongs(received("", ok=False), [], 20) == []


WRONG = {
    "gap": said(1, 0, 4) + said(1, 5, 7) + said(2, 7, 20),
    "gap: 沈1第2遍8": said(1, 0, 7) + said(2, 8, 20),
    "repeat": said(1, 0, 7) + said(1, 6, 7) + said(2, 7, 20),
    "repeat: 沈1第2遍7": said(1, 0, 7) + said(2, 7, 8) + said(2, 7, 20),
    "gap: 沈1第1遍3，": said(1, 0, 2) + said(1, 3, 4) + said(1, 2, 3) + said(1, 4, 7) + said(2, 7, 20),
    "middle of a request": said(1, 0, 7) + said(2, 7, 10) + said(1, 10, 11) + said(2, 11, 20),
    "other text before": said(1, 0, 6) + said(3, 6, 7) + said(2, 7, 20),
    "was written by nobody": said(1, 0, 7) + said(4, 7, 20),
    "was not written": said(1, 0, 10),
    "is no token: '沈1第2遍'": WHOLE + "沈1第2遍",
    "is no token: '1遍": WHOLE[3:],
    "is of another call": said(1, 0, 7) + said(2, 7, 20, call="沈2"),
    "short": said(1, 0, 7) + said(2, 7, 19),
    "long": WHOLE + said(2, 20, 21),
}


@pytest.mark.parametrize(("finding", "text"), WRONG.items())
def test_wrong_text_is_found(finding: str, text: str) -> None:
    """A gap, a repeat, a swap, a token of a request whose part is not there, a half token, and what is of nobody."""
    third = Attempt(CALL, 3, said(1, 0, 6), 6, 0.0, wrote=2, ended="closed")
    assert any(finding in wrong for wrong in wrongs(received(text), [*ATTEMPTS, third], 20))


def test_every_swap_of_two_tokens_is_found() -> None:
    tokens = read(WHOLE)[0]
    for i in range(len(tokens) - 1):
        swapped = [*tokens[:i], tokens[i + 1], tokens[i], *tokens[i + 2 :]]
        assert wrongs(received("".join(map(str, swapped))), ATTEMPTS, 20), swapped


def test_every_token_that_is_missing_or_there_twice_is_found() -> None:
    tokens = read(WHOLE)[0]
    for i in range(len(tokens)):
        for others in ([*tokens[:i], *tokens[i + 1 :]], [*tokens[:i], tokens[i], *tokens[i:]]):
            assert wrongs(received("".join(map(str, others))), ATTEMPTS, 20), (i, others)


def test_final_chunk_is_there_once_and_last() -> None:
    for finals, last in ((0, False), (2, True), (1, False)):
        [wrong] = wrongs(Received(CALL, WHOLE, finals=finals, final_last=last), ATTEMPTS, 20)
        assert "final chunks" in wrong
    [wrong] = wrongs(Received(CALL, WHOLE, finals=1, final_last=True, ok=False), ATTEMPTS, 20)
    assert "final chunk in a call that failed" in wrong
    assert wrongs(Received(CALL, WHOLE, finals=1, final_last=True, ok=False, cut=True), ATTEMPTS, 20) == []
    assert wrongs(Received(CALL, WHOLE[:-6], finals=1, final_last=True, ok=False, cut=True), ATTEMPTS, 20) != []


def test_whole_text_whose_last_request_was_cut_is_found() -> None:
    cut = [ATTEMPTS[0], replace(ATTEMPTS[1], ended="closed")]
    assert ["the end of request 2" in wrong for wrong in wrongs(received(WHOLE), cut, 20)] == [True]


def test_request_that_had_nothing_to_add_may_end_a_text_that_was_whole() -> None:
    cut = [ATTEMPTS[0], replace(ATTEMPTS[1], ended="closed")]
    assert wrongs(received(WHOLE), [*cut, Attempt(CALL, 3, WHOLE, 20, 0.0, ended="complete")], 20) == []
    [wrong] = wrongs(received(WHOLE), [*cut, Attempt(CALL, 3, WHOLE[:-3], 20, 0.0, ended="complete")], 20)
    assert "the end of request 2" in wrong


def test_what_was_generated_for_nobody_is_bounded_by_a_window_an_interruption() -> None:
    assert generated(ATTEMPTS) == 22
    assert delivered([received(WHOLE)]) == 20
    assert overspent(ATTEMPTS, [received(WHOLE)], 1, window=2) == []
    [wrong] = overspent(ATTEMPTS, [received(WHOLE)], 1, window=1)
    assert "overspent: 22 tokens generated, 20 delivered, 21 allowed" in wrong


def test_ask_is_found_in_its_own_words() -> None:
    ask = Ask("沈a1", 120, 30, 0.5, 2)
    assert Ask.find(f"背景。{ask}") == ask
    assert Ask.find("请接着写。") is None
    breaks = Ask("沈a1", 120, 30, 0.5, 2, breaks=1, breaks_after=7)
    assert Ask.find(str(breaks)) == breaks


def test_last_sentence_is_what_was_begun_or_the_whole_one_before_the_end() -> None:
    assert last_sentence(said(1, 0, 7)) == said(1, 5, 7)
    assert last_sentence(said(1, 0, 10)) == said(1, 5, 10)
    assert last_sentence(said(1, 0, 3)) == said(1, 0, 3)
    assert last_sentence("") == ""
