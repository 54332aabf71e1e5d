"""Long answers: a text that ends because the server's limit of length was reached goes on by itself. Implements `Model`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Expired, Fault
from qingyu_ai.settings import ChatModel

from .faults import Upstream, UpstreamFault
from .meters import Meters
from .model import LENGTH, NEVER, Delta, Model, Prompt, Turn, Usage
from .seam import LEAST, Seam
from .server import EARLY

log = structlog.get_logger(__name__)

MOST_REQUESTS = 32
"""For one answer."""

LEAST_TOKENS = 16
"""What must be left to say, so that asking for it is worth a request."""

LEAST_MARKED = 8
"""Characters of a repeat where the answer itself is continued: there the model hardly ever repeats, and a text may."""


class LongAnswer:
    """See the module. It also joins the rest of an interrupted answer to what there is of it.

    Args:
        model: asked as often as it takes.
        settings: the alias's limits.
        meters: counts.
    """

    def __init__(self, model: Model, settings: ChatModel, meters: Meters) -> None:
        self._model = model
        self._settings = settings
        self._meters = meters

    def __repr__(self) -> str:
        return f"<LongAnswer of {self._model!r}>"

    @property
    def name(self) -> str:
        """The alias."""
        return self._model.name

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        """See `Model.stream`. `max_tokens` holds for the whole answer; 0 means the setting `answer_tokens`."""
        whole = min(deadline, Deadline.after(self._settings.total_seconds))
        try:
            async with aclosing(self._stream(prompt, whole)) as deltas:
                async for delta in deltas:
                    yield delta
        except Expired:
            if deadline.remaining > EARLY:
                raise UpstreamFault(Upstream.TOTAL_TIMEOUT, self.name) from None
            raise

    async def _stream(self, prompt: Prompt, deadline: Deadline) -> AsyncGenerator[Delta, None]:
        turns, text = _begun(prompt)
        left = prompt.max_tokens or self._settings.answer_tokens
        spent: Usage | None = None
        spoke = ""
        for request in range(1, MOST_REQUESTS + 1):
            carried = min(left, self._settings.request_tokens or left)
            if not prompt.max_tokens and not self._settings.request_tokens:
                carried = 0  # how long it may be is not known: the server decides
            asked = replace(prompt, turns=(*turns, Turn("assistant", text)) if text else turns, max_tokens=carried)
            said: list[str] = []
            last = Delta()
            try:
                async with aclosing(self._joined(asked, text, deadline)) as deltas:
                    async for delta in deltas:
                        said.append(delta.text)
                        if delta.finish:
                            last = delta
                        else:
                            yield delta
            except UpstreamFault as e:
                if spent is None:
                    raise
                if e.after_text or any(said):
                    e.after_text = True
                    raise
                # The rest cannot be had. What there is was whole as far as its length went, and says so.
                log.warning("answer_not_continued", model=self.name, reason=e.reason)
                yield Delta(finish=LENGTH, usage=spent, model=spoke)
                return
            grown = "".join(said)
            text += grown
            usage = last.usage or Usage(0, 0, estimated=True)
            spent = usage if spent is None else spent + usage
            spoke = last.model
            before = left
            # A server that counts nothing has said all the same that it gave what was asked for.
            left -= carried if usage.estimated and last.finish == LENGTH and carried else usage.completion_tokens
            goes_on = (
                last.finish == LENGTH
                and _is_servers_limit(carried, before, usage)
                and left >= LEAST_TOKENS
                and grown
                and not prompt.tools
                and request < MOST_REQUESTS
            )
            if not goes_on:
                yield replace(last, usage=spent)
                return
            if last.text:
                yield Delta(last.text)
            if prompt.requests is not None:
                prompt.requests.rest()
            self._meters.continued.labels(self.name).inc()

    async def _joined(self, asked: Prompt, before: str, deadline: Deadline) -> AsyncGenerator[Delta, None]:
        """One request's deltas, without a repeat of what was there."""
        marked = self._settings.continuation != "turn"
        seam = Seam(before, LEAST_MARKED if marked else LEAST)
        async with aclosing(self._model.stream(asked, deadline)) as deltas:
            try:
                async for delta in deltas:
                    if not delta.finish and (seam.closed or not delta.text):
                        yield delta
                        continue
                    text = seam.feed(delta.text) if delta.text else ""
                    if delta.finish:
                        text += seam.close()
                    said = replace(delta, text=text)
                    if said.says or said.finish:
                        yield said
            except Fault:
                if held := seam.close():
                    yield Delta(held)  # it may have been a repeat; now it is part of the text that is kept
                raise


def _is_servers_limit(carried: int, left: int, usage: Usage) -> bool:
    """Whether an answer ended at the server's limit of length, and not at the one that it was asked to keep.

    Args:
        carried: what the request asked for at most; 0: it did not say.
        left: what the whole answer might still have had.
        usage: of the request.
    """
    if carried < left:
        return True
    return not usage.estimated and usage.completion_tokens < carried


def _begun(prompt: Prompt) -> tuple[tuple[Turn, ...], str]:
    """The turns before an interrupted answer, and the answer."""
    turns = prompt.turns
    if turns and turns[-1].role == "assistant" and not turns[-1].tool_calls:
        return turns[:-1], turns[-1].content
    return turns, ""
