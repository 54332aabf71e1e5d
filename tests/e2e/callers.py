"""A caller of a running system. Each call is made by a thread of its own, so that many are open while processes die.

    with System(COUNTING, settings=FAST) as system, Caller(system.target) as caller:
        streams = begun(caller.stream(deltas=100, per_second=20) for _ in range(10))
        system.workers[0].kill()
        all_lost(streams, since=time.monotonic())

What a call is checked against is in `counting_worker`.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import grpc

from bridge.handlers import DETAILS_KEY
from qingyu_ai.bus.errors import Fault
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from tests.e2e import counting_worker
from tests.process import Running
from tests.running import Worker
from tests.waiting import eventually_sync

COUNTING = Worker("tests.e2e.counting_worker", "chat")

LEASE = 2.0

FAST = {
    "QINGYU_BUS__LEASE_SECONDS": f"{LEASE:g}",
    "QINGYU_BUS__BEAT_SECONDS": "0.5",
    "QINGYU_BUS__ACK_WAIT_SECONDS": f"{LEASE:g}",
    "QINGYU_BUS__IN_PROGRESS_SECONDS": "0.5",
    "QINGYU_BUS__PATIENCE_SECONDS": f"{3 * LEASE:g}",
}
"""The protocol's times, for all processes of a system: about a fifth of the defaults."""

NOTICE_SECONDS = 2.0
"""What a reader may take beyond the lease: it looks at the clock twice a second, and two cores run all processes."""

END_SECONDS = 40.0
"""When a test no longer waits for the end of a call. Every call ends long before, or hangs."""

LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS)
"""How a stream ends that is not whole."""

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
"""Otherwise channels of one process to one address share a connection."""


@dataclass(frozen=True)
class Failure:
    """A status that is not OK, and its details."""

    code: grpc.StatusCode
    details: str
    fault: Fault | None
    """None: the status is gRPC's own, not the bridge's."""

    @classmethod
    def of(cls, error: Any) -> Failure:
        """Read it from what grpcio raises, which is the error and the call in one."""
        encoded = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
        return cls(error.code(), error.details() or "", Fault.from_status(encoded) if encoded else None)

    @property
    def retry_seconds(self) -> float | None:
        """When it says to try again; None: it does not."""
        return self.fault.retry_seconds if self.fault else None

    def __str__(self) -> str:
        return f"{self.code.name} {self.fault.reason if self.fault else '(of gRPC)'}: {self.details}"


AnyCall = TypeVar("AnyCall", bound="Call")


class Call:
    """A call that a thread makes and waits for."""

    def __init__(self, request: ai.ChatRequest, request_id: str) -> None:
        self.request = request
        self.request_id = request_id
        self.failure: Failure | None = None
        self._said: list[str] = []
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Make the call."""
        self._thread.start()

    def wait(self, timeout: float = END_SECONDS) -> None:
        """Wait for its end, whatever it is."""
        self._thread.join(timeout)
        assert self.ended, f"{self!r} has not ended after {timeout:g} s"

    def _run(self) -> None:
        try:
            self._make()
        except grpc.RpcError as e:
            self.failure = Failure.of(e)
        except grpc.FutureCancelledError:
            self.failure = Failure(grpc.StatusCode.CANCELLED, "by the test", None)
        finally:
            self.ended_at = time.monotonic()

    def _make(self) -> None:
        raise NotImplementedError

    def cancel(self) -> None:
        """Give it up."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self.ended_at > 0

    @property
    def text(self) -> str:
        """What was said so far."""
        return "".join(self._said)

    @property
    def said_by(self) -> int:
        """The process id of the counting worker that said the text; 0: nothing was said."""
        return int(self.text.partition(":")[0] or 0)

    @property
    def right_text(self) -> str:
        """What the counting worker says on this call when nothing disturbs it."""
        context = self.request.context
        return counting_worker.spoken(self.said_by, int(context["deltas"]), int(context["padding"]))

    @property
    def whole(self) -> bool:
        """Whether it ended well, with all of the text."""
        return self.ended and self.failure is None and self.text == self.right_text

    def __repr__(self) -> str:
        state = str(self.failure or "OK") if self.ended else "runs"
        return f"<{type(self).__name__} {self.request_id}: {len(self.text)} characters by {self.said_by}, {state}>"


class Chat(Call):
    """A Chat."""

    def __init__(self, stub: ai_agent_pb2_grpc.AIAgentServiceStub, request: ai.ChatRequest, **options: Any) -> None:
        super().__init__(request, options["request_id"])
        self._call = stub.Chat.future(request, timeout=options["timeout"])

    def _make(self) -> None:
        self._said.append(self._call.result().message.content)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._call.cancel()


class Stream(Call):
    """A ChatStream. It may be told to stop reading after the first chunk, until `go_on`."""

    def __init__(self, stub: ai_agent_pb2_grpc.AIAgentServiceStub, request: ai.ChatRequest, **options: Any) -> None:
        super().__init__(request, options["request_id"])
        self.arrivals: list[float] = []
        self.finals = 0
        self.ends_with_final = False
        self._may_read = threading.Event()
        if not options.get("stops", False):
            self._may_read.set()
        self._call = stub.ChatStream(request, timeout=options["timeout"])

    def _make(self) -> None:
        for chunk in self._call:
            self.arrivals.append(time.monotonic())
            self._said.append(chunk.delta)
            self.finals += chunk.is_final
            self.ends_with_final = chunk.is_final
            self._may_read.wait()

    def go_on(self) -> None:
        """Read the rest."""
        self._may_read.set()

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._may_read.set()
        self._call.cancel()

    @property
    def whole(self) -> bool:
        """See `Call.whole`; one chunk is final, and it is the last."""
        return super().whole and self.finals == 1 and self.ends_with_final

    @property
    def longest_silence(self) -> float:
        """Seconds between two chunks, at most."""
        return max((b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)), default=0.0)


class Caller:
    """A client of one bridge, or of several: `ipv4:host:port,host:port`. Calls that are open at its end are cancelled."""

    def __init__(self, target: str, options: Sequence[tuple[str, Any]] = ()) -> None:
        self.channel = grpc.insecure_channel(target, options=[*OWN_CONNECTION, *options])
        self.stub = ai_agent_pb2_grpc.AIAgentServiceStub(self.channel)
        self._calls: list[Call] = []

    def __enter__(self) -> Caller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call in self._calls:
            call.cancel()
        for call in self._calls:
            call.wait()
        self.channel.close()

    def stream(self, *, timeout: float = 60.0, request_id: str = "", stops: bool = False, **context: float) -> Stream:
        """Have a counting worker count aloud; see there for `context`."""
        request_id = request_id or new_id()
        request = counting(context, request_id)
        return self._start(Stream(self.stub, request, timeout=timeout, request_id=request_id, stops=stops))

    def chat(self, *, timeout: float = 60.0, request_id: str = "", **context: float) -> Chat:
        """Have a counting worker count in silence, and say all of it at once."""
        request_id = request_id or new_id()
        return self._start(Chat(self.stub, counting(context, request_id), timeout=timeout, request_id=request_id))

    def again(self, call: Stream, *, timeout: float = 60.0) -> Stream:
        """Ask for the same call once more."""
        return self._start(Stream(self.stub, call.request, timeout=timeout, request_id=call.request_id))

    def _start(self, call: AnyCall) -> AnyCall:
        self._calls.append(call)
        call.start()
        return call


def counting(context: Mapping[str, float], request_id: str) -> ai.ChatRequest:
    """A request to a counting worker."""
    said = {"deltas": 1.0, "padding": 0.0, **context}
    return ai.ChatRequest(
        messages=[common.Message(role="user", content="数数")],
        context={name: f"{value:g}" for name, value in said.items()},
        metadata=common.Metadata(request_id=request_id, user_id="e2e"),
    )


def new_id() -> str:
    """Unique for each call."""
    return f"req_{uuid.uuid4().hex}"


def begun(streams: Iterable[Stream], seconds: float = 20.0) -> list[Stream]:
    """Wait until each of them has said something, and none has ended."""
    streams = list(streams)
    eventually_sync(lambda: all(s.text or s.ended for s in streams), timeout=seconds)
    assert not [s for s in streams if s.ended], streams
    return streams


def ended(calls: Iterable[Call]) -> None:
    """Wait until all of them have ended."""
    for call in calls:
        call.wait()


def all_whole(calls: Iterable[Call]) -> None:
    """Wait for their ends, all of which must be good."""
    calls = list(calls)
    ended(calls)
    assert not [call for call in calls if not call.whole]


def all_lost(streams: Iterable[Stream], since: float, within: float = LEASE + NOTICE_SECONDS) -> None:
    """Wait for the ends of streams that cannot go on: each says so in time, and nothing wrong before.

    Args:
        streams: all of them had begun.
        since: `time.monotonic()` of the fault.
        within: seconds from there.
    """
    streams = list(streams)
    ended(streams)
    for stream in streams:
        assert stream.failure is not None, stream
        assert stream.failure.code in LOST, stream
        assert stream.finals == 0, stream
        assert stream.right_text.startswith(stream.text), stream
        assert stream.text != stream.right_text, stream
    last = max(stream.ended_at for stream in streams) - since
    assert last < within, f"the last stream ended after {last:.2f} s"


def lines(process: Running, event: str, request_id: str = "") -> int:
    """How many lines of this event a process has logged."""
    return sum(f'"{event}"' in line and request_id in line for line in process.log.splitlines())


def say(figures: str) -> None:
    """Print what was measured: `pytest -s` or `-rP` shows it."""
    sys.stdout.write(f"{figures}\n")
