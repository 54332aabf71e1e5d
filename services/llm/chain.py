"""One alias: its model, asked again while that may help, then the models that stand in for it. Implements `Model`.

All of that happens before the first token only. After it the answer is begun, and nobody may begin another.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from qingyu_ai.bus.deadline import Deadline

from .faults import Upstream, UpstreamFault
from .meters import Meters
from .model import NEVER, Delta, Prompt, Usage
from .remote import RemoteModel
from .retry import asked_again

log = structlog.get_logger(__name__)


class Chain:
    """See the module.

    Args:
        models: the alias's own, then its fallbacks in order.
        meters: counts.
    """

    def __init__(self, models: Sequence[RemoteModel], meters: Meters) -> None:
        self._models = models
        self._meters = meters

    def __repr__(self) -> str:
        return f"<Chain {' → '.join(model.name for model in self._models)}>"

    @property
    def name(self) -> str:
        """The alias."""
        return self._models[0].name

    async def stream(self, prompt: Prompt, deadline: Deadline = NEVER) -> AsyncGenerator[Delta, None]:
        """See `Model.stream`."""
        began = time.monotonic()
        last: UpstreamFault | None = None
        for i, model in enumerate(self._models):
            if last is not None and prompt.requests is not None and prompt.requests.left <= 0:
                break
            spare = len(self._models) - i - 1
            try:
                stream, first = await self._begin(model, prompt, deadline, spare)
            except UpstreamFault as e:
                # The first model's story is the one that the caller asked about, unless a later one says more.
                last = e if last is None or last.kind is Upstream.RESTING else last
                if not e.kind.value.elsewhere:
                    raise
                continue
            if model is not self._models[0]:
                self._meters.fallbacks.labels(self.name, model.name).inc()
                log.info("model_stands_in", asked=self.name, model=model.name, because=last.reason if last else "")
            self._meters.first_token.labels(model.name).observe(time.monotonic() - began)
            self._meters.open.labels(model.name).inc()
            try:
                async with aclosing(stream), aclosing(self._rest(model, stream, first)) as deltas:
                    async for delta in deltas:
                        yield delta
            finally:
                self._meters.open.labels(model.name).dec()
            return
        assert last is not None, "a chain has a model"
        raise last

    async def _begin(
        self, model: RemoteModel, prompt: Prompt, deadline: Deadline, spare: int
    ) -> tuple[AsyncGenerator[Delta, None], Delta]:
        """Ask until the first token.

        Args:
            spare: requests that are left to others where the prompt bounds them: one for each model that stands in.
        """

        def may_again() -> bool:
            return prompt.requests is None or prompt.requests.left > spare

        async def ask() -> tuple[AsyncGenerator[Delta, None], Delta]:
            stream = model.stream(prompt, deadline)
            try:
                return stream, await anext(stream)
            except BaseException:
                await stream.aclose()
                raise

        return await asked_again(model.server, ask, deadline, self._meters, may_again)

    async def _rest(
        self, model: RemoteModel, stream: AsyncGenerator[Delta, None], first: Delta
    ) -> AsyncGenerator[Delta, None]:
        began = time.monotonic()
        usage: Usage | None = first.usage
        yield first
        try:
            async for delta in stream:
                usage = delta.usage or usage
                yield delta
        except UpstreamFault as e:
            self._meters.errors.labels(model.name, e.reason).inc()
            model.server.breaker.failed(e)
            raise
        model.server.breaker.finished()
        seconds = time.monotonic() - began
        if usage is not None and seconds > 0.05:
            self._meters.rate.labels(model.name).observe(usage.completion_tokens / seconds)
