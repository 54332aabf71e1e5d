"""The model of the fault suite says what its ledger says, and goes on in its two ways."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.tokens import Ask, Token, read
from tests.faults.upstream import PREFIX, RESTART
from tests.faults.upstream_process import Model
from tests.waiting import eventually_sync

ASK = Ask("沈7", 12, 0)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model() as running:
        yield running


@pytest.fixture(autouse=True)
def forgets(model: Model) -> None:
    model.forget()


def ask(model: Model, name: str, *messages: tuple[str, str]) -> Any:
    """Make a request, and leave its answer to be read."""
    base_url = json.loads(model.settings["QINGYU_LLM__MODELS"])[name]["base_url"]
    body = {"model": name, "stream": True, "messages": [{"role": r, "content": c} for r, c in messages]}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode()), timeout=10)


def text(answer: Any) -> str:
    """Read an answer to its end."""
    with answer:
        events = [e[6:] for e in answer.read().decode().split("\n\n") if e[6:] not in ("", "[DONE]")]
    return "".join(c["delta"].get("content", "") for event in events for c in json.loads(event)["choices"])


def test_no_two_requests_say_the_same(model: Model) -> None:
    first, second = (text(ask(model, PREFIX, ("user", str(ASK)))) for _ in range(2))
    numbers = [token.request for token in read(first)[0]][:1] + [token.request for token in read(second)[0]][:1]
    assert numbers[1] == numbers[0] + 1
    assert [len(read(said)[0]) for said in (first, second)] == [12, 12]
    assert [(a.wrote, a.ended) for a in model.ledger()["沈7"]] == [(12, "complete")] * 2


def test_text_goes_on_where_it_was_cut(model: Model) -> None:
    begun = "".join(str(Token("沈7", 1, n)) for n in range(7))
    rest = read(text(ask(model, PREFIX, ("user", str(ASK)), ("assistant", begun))))[0]
    assert [token.place for token in rest] == list(range(7, 12))
    [attempt] = model.ledger()["沈7"]
    assert (attempt.given, attempt.first, attempt.repeated, attempt.wrote) == (begun, 7, 0, 5)


def test_text_goes_on_with_its_last_sentence_again(model: Model) -> None:
    begun = "".join(str(Token("沈7", 1, n)) for n in range(7))
    answer = text(ask(model, RESTART, ("user", str(ASK)), ("assistant", begun), ("user", "请继续。")))
    assert answer.startswith("".join(str(Token("沈7", 1, n)) for n in (5, 6)))
    assert [token.place for token in read(answer)[0]] == [5, 6, *range(7, 12)]
    [attempt] = model.ledger()["沈7"]
    assert (attempt.first, attempt.repeated, attempt.wrote) == (7, 2, 5)


def test_only_the_last_question_is_answered(model: Model) -> None:
    """What a session brings along is not what is asked."""
    turns = ("user", str(Ask("沈6", 3, 0))), ("assistant", "".join(str(Token("沈6", 1, n)) for n in range(3)))
    assert [t.call for t in read(text(ask(model, PREFIX, *turns, ("user", str(ASK)))))[0]] == ["沈7"] * 12


def test_client_that_leaves_is_noticed(model: Model) -> None:
    answer = ask(model, PREFIX, ("user", str(Ask("沈8", 1000, 50))))
    answer.read(1)
    answer.close()
    eventually_sync(lambda: model.ledger()["沈8"][0].ended == "closed")
    assert 1 <= model.ledger()["沈8"][0].wrote < 1000
