"""The loop: the model, the tools that it asks for, the model again, until it has answered. One for the stream and the answer in
one piece, and for an execution that another worker had begun."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired, Fault
from qingyu_ai.bus.handler import Call
from services.llm.faults import Upstream, UpstreamFault
from services.llm.gate import NewGate
from services.llm.model import CUT, FILTERED, LENGTH, STOP, Delta, Model, Prompt, Requests, Turn, Usage
from services.llm.tokens import estimate_tokens

from .calling import Caller, Pieces, history, unknown_outcome
from .checking import By, check
from .chunks import BREAK, Before
from .endings import (
    End,
    answer_stopped,
    call_timed_out,
    context_too_long,
    done,
    no_answer,
    of_fault,
    shape_not_held,
    timed_out,
)
from .events import Asked, Called, Ended, Event, Outcome, Said, Started, Thought
from .hearing import Heard, OutOfTime, hear, turn_tokens
from .prompting import ANSWER_NOW, Task, offered, repair
from .shapes import Shape
from .toolbox import Toolbox

log = structlog.get_logger(__name__)

BACKOFF_FIRST, BACKOFF_LONGEST = 0.5, 8.0
"""Seconds before a failed step is tried again, doubled each time. The model's client has tried by itself before, out of the same
number of requests."""

MARGIN_LONGEST, MARGIN_SHARE = 1.0, 0.1
"""Seconds, and part of the time that is left, before the deadline of the call: an agent that has stopped by then can still give
the text that it has. At the deadline itself the call ends DEADLINE_EXCEEDED, without any."""

LEAST_LEFT = 16
"""Tokens of the answer that must be left so that a cut one is gone on with."""


class Run:
    """One execution.

    Args:
        before: what workers before this one did of it.
    """

    def __init__(
        self, task: Task, model: Model, new_gate: NewGate | None, toolbox: Toolbox, call: Call, before: Before
    ) -> None:
        self._task = task
        self._limits = task.limits
        self._model = model
        self._new_gate = new_gate
        self._flush = call.flush
        self._before = before
        self._began = time.monotonic() - before.elapsed_ms / 1000
        own = Deadline(self._began + task.limits.seconds)
        self._last = call.deadline
        in_time = Deadline(call.deadline.at - min(MARGIN_LONGEST, MARGIN_SHARE * max(0.0, call.deadline.remaining)))
        self._callers_time = in_time <= own
        """Whether the call's time is over before the execution's own."""
        self._deadline = min(in_time, own)
        said_bytes = sum(len(called.result.encode()) for called in before.called)
        self._caller = Caller(call, toolbox, task.tools, task.limits.calls, said_bytes)
        self._tools = offered(task.tools)
        self._turns = list(task.turns)
        self._called = list(before.called)
        self._ids = {asked.id for step in before.steps for asked in step.asked}
        self._spent = before.spent
        self._left = task.limits.answer_tokens - estimate_tokens(before.text)
        """Tokens that the answer may still have."""
        self._step = max((step.number for step in before.steps), default=0)
        self._heard: Heard | None = None
        """What the model says in this step."""
        self._begun = ""
        """The part of the answer that the model is asked to go on with. The caller has it, but for one in JSON of this run."""
        self._said = bool(before.text)
        self._parted = False
        """The next text is the first one after tools: a break comes before it."""
        self._held = ""
        """An answer in JSON that the caller has not been shown: it must hold first."""
        self._repaired: By = ""
        self._spoke, self._finish = model.name, ""

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the work began, without the time between two workers."""
        return round((time.monotonic() - self._began) * 1000)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Work. The last event is the outcome, and the only one.

        Raises:
            Expired: the call's deadline has passed: nobody waits for the text any more.
        """
        end: End
        try:
            async with aclosing(self._work()) as events:
                async for event in events:
                    yield event
            end = done(self._task.missing)
        except (OutOfTime, Expired):
            if self._last.passed:
                raise Expired from None
            self._finish = CUT
            end = call_timed_out() if self._callers_time else timed_out(self._limits.seconds)
        except Fault as e:
            log.info("agent_failed", reason=e.reason, error=e.message)
            self._finish = self._finish or CUT
            end = of_fault(e)
        if self._task.shape is not None:
            held = self._held or self._begun + (self._heard.text if self._heard is not None else "")
            if held:
                yield Said(held)
        yield self._outcome(end)

    def _outcome(self, end: End) -> Outcome:
        return Outcome(
            *end,
            spent=self._spent,
            tool_calls=len(self._called),
            duration_ms=self.elapsed_ms,
            model=self._spoke,
            finish=self._finish,
            repaired=self._repaired,
            missing=self._task.missing,
        )

    async def _work(self) -> AsyncGenerator[Event, None]:
        async with aclosing(self._catch_up()) as events:
            async for event in events:
                yield event
        if self._begun and (self._task.shape is not None or self._left < LEAST_LEFT):
            self._accept()
            return
        if not (self._called or self._begun) and (tokens := turn_tokens(self._turns)) > self._limits.tokens:
            raise context_too_long(tokens, self._limits.tokens)
        while True:
            self._step += 1
            async with aclosing(self._ask(self._prompt(last=self._is_last))) as events:
                async for event in events:
                    yield event
            heard = self._heard
            assert heard is not None
            if calls := self._calls_in(heard):
                async with aclosing(self._call_tools(heard.text, calls)) as events:
                    async for event in events:
                        yield event
            elif heard.finish == LENGTH and heard.prompt.tools and heard.text and self._left >= LEAST_LEFT:
                # The model's client goes on by itself only where there are no tools.
                self._begun += heard.text
                self._tools, self._heard = (), None
            else:
                break
        answer = self._begun + heard.text
        if heard.finish == FILTERED:
            raise answer_stopped()
        if not answer:
            raise no_answer()
        if self._task.shape is not None:
            async with aclosing(self._hold(answer, self._task.shape)) as events:
                async for event in events:
                    yield event

    @property
    def _is_last(self) -> bool:
        usage = self._spent.usage
        used_up = usage.prompt_tokens + usage.completion_tokens >= self._limits.tokens
        return used_up or self._step >= self._limits.steps

    def _prompt(self, *, last: bool) -> Prompt:
        turns = list(self._turns)
        if last and turns[-1].role == "tool":
            turns[-1] = replace(turns[-1], content=turns[-1].content + ANSWER_NOW)
        if self._begun:
            turns.append(Turn("assistant", self._begun))
        return Prompt(tuple(turns), max(1, self._left), self._task.temperature, () if last else self._tools)

    # The model.

    async def _ask(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Ask for one answer, again if that may help and nothing was shown."""
        requests = Requests(self._limits.retries + 1)
        before = self._spent.retries
        for attempt in itertools.count():
            heard = self._heard = Heard(replace(prompt, requests=requests), Pieces(self._limits.kept))
            try:
                async with aclosing(self._hear(heard)) as events:
                    async for event in events:
                        yield event
                return
            except UpstreamFault as e:
                wait = max(e.asked_seconds or 0.0, BACKOFF_FIRST * 2.0**attempt)
                may_help = e.retry_seconds is not None and wait <= min(BACKOFF_LONGEST, self._deadline.remaining)
                if heard.shown or not may_help or requests.left <= 0 or attempt >= self._limits.retries:
                    raise
                log.info("agent_step_again", step=self._step, reason=e.reason, wait_seconds=wait)
            finally:
                self._spend(heard.cost + requests.take_wasted())
                self._spent = replace(self._spent, retries=before + requests.again)
                if heard.text and heard.finish and not heard.pieces:
                    self._left -= heard.cost.completion_tokens
                self._spoke, self._finish = heard.model or self._spoke, heard.finish
            await asyncio.sleep(wait)

    async def _hear(self, heard: Heard) -> AsyncGenerator[Event, None]:
        is_text = self._task.shape is None
        async with aclosing(hear(self._model, heard, self._new_gate, self._deadline)) as deltas:
            async for delta in deltas:
                if delta.reasoning and self._task.reasoning:
                    heard.shown = True
                    yield Thought(delta.reasoning)
                if delta.text and is_text:
                    heard.shown = True
                    yield self._say(delta)
        if not (heard.text or heard.pieces or self._begun) and heard.finish != FILTERED:
            raise UpstreamFault(Upstream.ANSWER_EMPTY, self._model.name)

    def _say(self, delta: Delta) -> Said:
        text = delta.text
        if self._parted:
            text = text if text.startswith("\n") else BREAK + text
            self._parted = False
        self._said = True
        return Said(text)

    def _spend(self, usage: Usage) -> None:
        self._spent = replace(self._spent, usage=self._spent.usage + usage)

    # Tools.

    def _calls_in(self, heard: Heard) -> list[Asked]:
        """What a step wants called. Calls of a model that was offered nothing are no calls."""
        if not heard.prompt.tools or heard.finish == FILTERED:
            return []
        if heard.pieces.left_out:
            log.info("agent_calls_left_out", step=self._step, left_out=heard.pieces.left_out)
        return heard.pieces.asked(self._step, self._ids)

    async def _call_tools(self, text: str, asked: Sequence[Asked]) -> AsyncGenerator[Event, None]:
        self._ids |= {one.id for one in asked}
        self._left -= estimate_tokens(text)
        for one in asked:
            yield Started(one, self._spent)
        if not all(map(self._caller.may_again, asked)):
            # A worker that takes over must know that the tool may have run.
            await self._flush()
        async with aclosing(self._run(asked)) as events:
            async for event in events:
                yield event
        self._remember(self._begun + text, asked)
        self._begun, self._heard = "", None

    async def _run(self, asked: Sequence[Asked]) -> AsyncGenerator[Event, None]:
        async with aclosing(self._caller.run(asked, self._deadline)) as results:
            async for called in results:
                self._called.append(called)
                yield Ended(called, self._spent)
        if self._deadline.passed:
            raise OutOfTime

    def _remember(self, text: str, asked: Sequence[Asked]) -> None:
        """A step is over: the model is told of it from now on."""
        results: dict[str, Called] = {called.asked.id: called for called in self._called}
        self._turns += history(text, [results[one.id] for one in asked])
        self._parted = self._said

    # What another worker had begun.

    async def _catch_up(self) -> AsyncGenerator[Event, None]:
        """Come to where the worker before was lost: what had ended is not done again."""
        ended = {called.asked.id for called in self._called}
        for step in self._before.steps:
            open_calls = [asked for asked in step.asked if asked.id not in ended]
            for asked in open_calls:
                if not self._caller.may_again(asked):
                    called = unknown_outcome(asked)
                    self._called.append(called)
                    yield Ended(called, self._spent)
            again = [asked for asked in open_calls if self._caller.may_again(asked)]
            async with aclosing(self._run(again)) as events:
                async for event in events:
                    yield event
            self._remember(step.text, step.asked)
        if self._before.begun:
            # What the lost request cost is not known.
            lost = turn_tokens(self._prompt(last=False).turns), estimate_tokens(self._before.begun)
            self._spend(Usage(*lost, estimated=True))
            self._begun, self._parted = self._before.begun, False

    def _accept(self) -> None:
        """The caller has all of the answer: a JSON is shown when it is whole, or when it has failed, and a text is as long as
        it may be."""
        begun, self._begun = self._begun, ""
        self._finish = STOP if self._task.shape is not None else LENGTH
        if self._task.shape is not None and (problem := check(self._task.shape, begun).problem):
            raise shape_not_held(problem)

    # Answers in JSON.

    async def _hold(self, answer: str, shape: type[Shape]) -> AsyncGenerator[Event, None]:
        """See that an answer has its shape; the model may put it right once."""
        self._held = answer
        checked = check(shape, answer)
        if checked.problem:
            self._turns += [Turn("assistant", answer), Turn("user", repair(checked.problem))]
            self._tools, self._begun, self._left = (), "", self._limits.answer_tokens
            async with aclosing(self._ask(self._prompt(last=False))) as events:
                async for event in events:
                    yield event
            assert self._heard is not None
            self._held = self._heard.text or answer
            checked = replace(check(shape, self._heard.text), by="turn")
            if checked.problem:
                raise shape_not_held(checked.problem)
        self._held, self._repaired = checked.text, checked.by
