"""One model of an OpenAI-compatible server: one request, one answer, delta by delta. Implements `Model`.

No retry and no other model here: `chain` does that, because it may be done only before the first token.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Fault
from qingyu_ai.settings import ChatModel

from . import spans
from .completion import Completion, Unreadable, delta_of, parse, request_body, usage_of
from .faults import Upstream, UpstreamFault
from .meters import Meters
from .model import NEVER, STOP, Delta, Finish, Prompt, ToolCallDelta, Usage
from .refusal import kind_in, text_of
from .server import Budget, Server
from .sse import EventReader, EventTooLarge
from .tokens import estimated
from .transfer import Transfer, TransferError
from .window import fit

USAGE_SECONDS = 2.0
"""How long the usage may come after the last word."""

DONE = b"[DONE]"

SHOWN_BYTES = 4096
"""Of what cannot be read, for the log, where keys are masked before it is cut."""


class RemoteModel:
    """See the module."""

    def __init__(self, server: Server, settings: ChatModel, meters: Meters) -> None:
        self._server = server
        self._settings = settings
        self._meters = meters

    def __repr__(self) -> str:
        return f"<RemoteModel {self._server!r}>"

    @property
    def name(self) -> str:
        """The alias."""
        return self._server.alias

    @property
    def server(self) -> Server:
        """Who is asked."""
        return self._server

    @property
    def settings(self) -> ChatModel:
        """Its limits."""
        return self._settings

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        """See `Model.stream`.

        Raises:
            UpstreamFault: the server cannot answer, or no further; `after_text` says whether something was said.
            Expired: the deadline passed.
        """
        budget = Budget.start(self._settings, deadline)
        prompt = self._fitted(prompt)
        answer = _Answer(prompt)
        model = await self._server.model_name(budget)
        body = request_body(
            model,
            prompt,
            stream=True,
            continuation=self._settings.continuation,
            max_tokens_field=self._settings.max_tokens_field,
            stream_usage=self._settings.stream_usage,
            extra_body=self._settings.extra_body,
        )
        if prompt.requests is not None:
            prompt.requests.made += 1
        # Never current: whoever asks for the next delta is in a span of its own.
        span = spans.asking("chat", model, self._settings.base_url)
        try:
            async with (
                self._server.asked("/chat/completions", body, budget, span.traceparent) as transfer,
                aclosing(self._read(transfer, budget, answer)) as deltas,
            ):
                async for delta in deltas:
                    yield delta
        except UpstreamFault as e:
            e.after_text = answer.said
            if prompt.requests is not None and answer.counted and not answer.said:
                prompt.requests.wasted += answer.usage
            span.failed(e)
            raise
        except BaseException as e:
            span.failed(e)
            raise
        finally:
            if span:
                spans.answered(span, self._server.label, answer.usage, answer.finish)
                span.end()
            if answer.said or answer.counted:
                self._meters.used(self.name, answer.usage, self._settings)

    def _fitted(self, prompt: Prompt) -> Prompt:
        s = self._settings
        most = min(prompt.max_tokens or s.request_tokens, s.request_tokens) if s.request_tokens else prompt.max_tokens
        turns = prompt.turns
        if s.context_tokens:
            turns = fit(turns, max(1, s.context_tokens - (most or min(s.answer_tokens, s.context_tokens // 4))))
        return replace(prompt, turns=turns, max_tokens=most)

    async def _read(self, transfer: Transfer, budget: Budget, answer: _Answer) -> AsyncGenerator[Delta, None]:
        kind = transfer.headers.get("content-type", "").lower()
        if "json" in kind and "event-stream" not in kind:
            # It does not stream, whatever it was asked.
            data = await self._server.whole(transfer, budget)
            completion = self._parsed(data)
            if not completion.choices:
                raise self._server.fault(kind_in(data), f"no answer, but: {text_of(data)}")
            answer.take(completion)
        elif "html" in kind:
            raise self._server.fault(Upstream.ANSWER_BROKEN, "a page of HTML instead of an answer")
        else:
            events = EventReader()
            quiet_since = time.monotonic()
            fault: Fault | None = None
            while not answer.ended and fault is None:
                try:
                    data = await self._piece(transfer, budget, answer, quiet_since)
                    self._take(events.feed(data) if data else events.close(), answer)
                    if not data:
                        self._close(answer)
                except Fault as e:
                    fault = e
                except EventTooLarge:
                    fault = self._server.fault(Upstream.ANSWER_TOO_LARGE, "an event without end")
                for delta in answer.drain():  # also what came just before a fault
                    yield delta
                    quiet_since = time.monotonic()
            if fault is not None:
                raise fault
        for delta in answer.drain():
            yield delta
        if not answer.said and answer.finish in ("", STOP) and not answer.goes_on:
            raise self._server.fault(Upstream.ANSWER_EMPTY)
        yield Delta(finish=answer.finish or STOP, usage=answer.usage, model=self._server.label)

    async def _piece(self, transfer: Transfer, budget: Budget, answer: _Answer, quiet_since: float) -> bytes:
        """Wait for bytes, no longer than the phase allows."""
        if answer.finish:
            late, until = Upstream.IDLE_TIMEOUT, answer.finished_at + USAGE_SECONDS
        elif answer.said:
            late, until = Upstream.IDLE_TIMEOUT, quiet_since + self._settings.idle_seconds
        else:
            late, until = Upstream.FIRST_TOKEN_TIMEOUT, budget.first.at
        if budget.total.at < until:
            late, until = Upstream.TOTAL_TIMEOUT, budget.total.at
        try:
            if until <= time.monotonic():
                raise TimeoutError  # a server that never stops is never waited for
            return await transfer.read(until)
        except TimeoutError:
            if answer.finish:
                return b""  # the usage does not come
            raise self._server.late(late, budget) from None
        except TransferError as e:
            if answer.finish:
                return b""
            raise self._server.lost(e, budget) from None

    def _take(self, events: list[bytes], answer: _Answer) -> None:
        for event in events:
            if event.rstrip() == DONE:
                answer.ended = True
                answer.finish = answer.finish or STOP
            elif event and not event.isspace():
                answer.take(self._parsed(event))
            if answer.ended:
                return

    def _close(self, answer: _Answer) -> None:
        """The body has ended. Without [DONE] that is an end only if the model said so."""
        if not answer.ended and not answer.finish:
            raise self._server.fault(Upstream.STREAM_CUT, "the stream ended without a finish reason")
        answer.ended = True

    def _parsed(self, data: bytes) -> Completion:
        try:
            completion = parse(data)
        except Unreadable as e:
            shown = data[:SHOWN_BYTES].decode("utf-8", "replace")
            raise self._server.fault(Upstream.ANSWER_BROKEN, f"{e}: {shown}") from None
        error = bytes(completion.error)
        if error not in (b"", b"null"):
            raise self._server.fault(kind_in(error), f"inside the answer: {text_of(error)}")
        return completion


class _Answer:
    """What has come so far. Deltas that came together are given on together."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self.goes_on = prompt.turns[-1].role == "assistant"
        """It is the rest of an answer, of which there may be none."""
        self._pending: list[Delta] = []
        self._texts: list[str] = []
        self._counted: Usage | None = None
        self.finish: Finish = ""
        self.finished_at = 0.0
        self.said = False
        self.ended = False
        """Nothing more will come, or nothing more is wanted."""

    @property
    def counted(self) -> bool:
        """Whether the server has told the usage."""
        return self._counted is not None

    @property
    def usage(self) -> Usage:
        """What the server counted, else an estimate."""
        if self._counted is not None:
            return self._counted
        return estimated(self._prompt, "".join(self._texts))

    def take(self, completion: Completion) -> None:
        """One event, or a whole answer."""
        self._counted = usage_of(completion) or self._counted
        delta = delta_of(completion)
        if delta is None:
            # Usage in a chunk of its own is the last thing that matters.
            self.ended = self.ended or bool(self.finish and self._counted)
            return
        if delta.finish:
            self.finish = delta.finish
            self.finished_at = time.monotonic()
        if delta.says:
            self.said = True
            self._pending.append(delta)

    def drain(self) -> list[Delta]:
        """All that was said since the last time, as few deltas as its order allows."""
        if len(self._pending) == 1:
            [delta] = self._pending
            self._pending = []
            self._keep(delta)
            return [delta if not delta.finish else Delta(delta.text, delta.reasoning, delta.tool_calls)]
        drained: list[Delta] = []
        text: list[str] = []
        thought: list[str] = []
        calls: list[ToolCallDelta] = []
        for delta in self._pending:
            if delta.reasoning and (text or calls):
                # Thought again after speech: readers see the order.
                drained.append(Delta("".join(text), "".join(thought), tuple(calls)))
                text, thought, calls = [], [], []
            if delta.text:
                text.append(delta.text)
            thought.append(delta.reasoning)
            calls.extend(delta.tool_calls)
        if self._pending:
            drained.append(Delta("".join(text), "".join(thought), tuple(calls)))
            self._pending.clear()
        for delta in drained:
            self._keep(delta)
        return drained

    def _keep(self, delta: Delta) -> None:
        self._texts.append(delta.reasoning + delta.text)
        self._texts += [call.arguments for call in delta.tool_calls]
