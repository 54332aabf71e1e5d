"""One user's hundred jobs do not stand before another's first: the rule alone, and with workers on both brokers."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from qingyu_ai.bus.handler import Call
from qingyu_ai.bus.shares import SOONEST_SECONDS, Shares
from qingyu_ai.contract import ai_agent_pb2 as ai
from tests.bus.system import System, echo
from tests.waiting import eventually


def begin(shares: Shares, user: str, jobs: int) -> int:
    """Offer jobs of a user: how many of them begin."""
    begun = 0
    for n in range(jobs):
        if shares.may_begin(user):
            shares.begin(user, f"{user}{n}")
            begun += 1
        else:
            shares.wait(user, f"{user}{n}")
    return begun


def test_who_is_alone_has_all_slots_but_one() -> None:
    shares = Shares(8)
    assert begin(shares, "甲", 100) == 7
    assert shares.put_back == 93


def test_the_last_free_slot_is_for_who_has_none() -> None:
    shares = Shares(8)
    begin(shares, "甲", 100)
    assert begin(shares, "乙", 5) == 1


def test_users_who_want_more_than_there_is_come_to_have_equally_many() -> None:
    shares = Shares(9)
    begin(shares, "甲", 100)
    begin(shares, "乙", 100)
    held = Counter({"甲": 8, "乙": 1})
    for _ in range(4):
        shares.end("甲")
        held["甲"] -= 1
        held += Counter({user: begin(shares, user, 1) for user in ("甲", "乙")})
    assert held == Counter({"甲": 4, "乙": 4})


def test_a_user_who_waits_no_more_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("qingyu_ai.bus.shares.time.monotonic", lambda: now)
    shares = Shares(4)
    begin(shares, "甲", 2)
    begin(shares, "乙", 1)
    assert begin(shares, "乙", 1) == 0
    shares.end("甲")
    assert begin(shares, "甲", 1) == 1  # both have one
    shares.end("甲")
    shares.end("甲")
    begin(shares, "甲", 1)
    assert begin(shares, "甲", 1) == 1  # 乙 waits, and has no fewer
    shares.end("乙")
    assert begin(shares, "甲", 1) == 0  # 乙 waits, and has none
    now += 10
    assert begin(shares, "甲", 1) == 1


def test_the_more_jobs_wait_the_longer_until_each_is_looked_at_again() -> None:
    shares = Shares(2)
    assert shares.wait("甲", "1") == SOONEST_SECONDS
    waits = [shares.wait("甲", str(n)) for n in range(1, 501)]  # "1" was counted before
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(2.5)


def test_with_one_slot_it_is_first_come_first_served() -> None:
    assert begin(Shares(1), "甲", 1) == 1


class Held:
    """A handler whose calls go on until they are let go."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.go = asyncio.Event()

    async def chat(self, call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        self.begun[call.user] += 1
        if call.user != "新来的":
            await self.go.wait()
        return await echo(call, request)


@pytest.mark.parametrize("workers", [1, 2])
async def test_first_job_of_a_user_does_not_wait_for_a_hundred_of_another(system: System, workers: int) -> None:
    held = Held()
    for _ in range(workers):
        await system.worker(chat=held.chat, slots=4)
    jobs = [asyncio.ensure_future(system.chat(str(n), user="甲", seconds=30)) for n in range(100)]
    await eventually(lambda: held.begun["甲"] == 3 * workers)
    assert (await system.chat("我的第一个", user="新来的")).message.content == "我的第一个"
    assert held.begun["甲"] == 3 * workers
    held.go.set()
    answers = await asyncio.gather(*jobs)
    assert [a.message.content for a in answers] == [str(n) for n in range(100)]
    assert held.begun == Counter({"甲": 100, "新来的": 1})


async def test_control_without_shares_the_first_job_waits_behind_the_hundred(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shares, "may_begin", lambda self, user: True)
    held = Held()
    await system.worker(chat=held.chat, slots=4)
    jobs = [asyncio.ensure_future(system.chat(str(n), user="甲", seconds=30)) for n in range(100)]
    await eventually(lambda: held.begun["甲"] == 4)
    first = asyncio.ensure_future(system.chat("我的第一个", user="新来的", seconds=30))
    await asyncio.sleep(3 * SOONEST_SECONDS)  # nothing is to happen
    assert not held.begun["新来的"]
    held.go.set()
    await asyncio.gather(first, *jobs)


async def test_a_third_user_waits_for_one_job_to_end_and_not_for_those_before_it(system: System) -> None:
    held = Held()
    ends = asyncio.Semaphore(0)

    async def chat(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
        held.begun[call.user] += 1
        if call.user != "新来的":
            await ends.acquire()
        return await echo(call, request)

    await system.worker(chat=chat, slots=3)
    jobs = [asyncio.ensure_future(system.chat(str(n), user=user, seconds=30)) for user in "甲乙" for n in range(20)]
    await eventually(lambda: held.begun.total() == 3)
    first = asyncio.ensure_future(system.chat("我的第一个", user="新来的"))
    ends.release()
    assert (await first).message.content == "我的第一个"
    for _ in jobs:
        ends.release()
    await asyncio.gather(*jobs)
    assert held.begun == Counter({"甲": 20, "乙": 20, "新来的": 1})
