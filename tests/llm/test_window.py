from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.llm.model import ToolCall, Turn
from services.llm.tokens import estimate_tokens
from services.llm.window import TURN_TOKENS, fit

SYSTEM = Turn("system", "你是编辑。")


def exchange(n: int) -> tuple[Turn, Turn]:
    return Turn("user", f"第{n}问" + "问" * 50), Turn("assistant", f"第{n}答" + "答" * 50)


LONG = (SYSTEM, *exchange(1), *exchange(2), *exchange(3), Turn("user", "最后一问"))


def cost(turns: tuple[Turn, ...]) -> int:
    return sum(estimate_tokens(turn.content) + TURN_TOKENS for turn in turns)


def test_what_fits_is_left_alone() -> None:
    assert fit(LONG, cost(LONG)) == LONG
    assert fit(LONG, 0) == LONG


def test_oldest_question_goes_with_its_answer_and_the_system_stays() -> None:
    assert fit(LONG, cost(LONG) - 1) == (SYSTEM, *LONG[3:])


def test_last_question_stays_whatever_its_size() -> None:
    assert fit(LONG, 1) == (SYSTEM, LONG[-1])


def test_tools_of_a_turn_go_with_it() -> None:
    called = Turn("assistant", "", tool_calls=(ToolCall("1", "statistics", "{}"),))
    turns = (
        Turn("user", "数一数" * 30),
        called,
        Turn("tool", "{}", tool_call_id="1"),
        Turn("assistant", "好"),
        Turn("user", "谢"),
    )
    assert fit(turns, 20) == turns[-1:]


def test_interrupted_answer_stays_with_its_question() -> None:
    turns = (*exchange(1), Turn("user", "续写"), Turn("assistant", "他推开门"))
    assert fit(turns, 30) == turns[2:]


@given(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=12), st.integers(0, 200))
def test_what_is_left_is_in_order_and_ends_alike(roles: list[str], room: int) -> None:
    turns = tuple(Turn(role, f"{i}" * 10) for i, role in enumerate(roles))  # type: ignore[arg-type]
    kept = fit(turns, room)
    assert [turn for turn in turns if turn in kept] == list(kept)
    assert [turn for turn in kept if turn.role == "system"] == [turn for turn in turns if turn.role == "system"]
    if turns and any(turn.role == "user" for turn in turns):
        assert kept[-1] == turns[-1]
