"""What is done differently from nats-py, held on a real server (decision record 0003)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from qingyu_ai.bus import headers as wire
from qingyu_ai.bus import topology
from qingyu_ai.bus.connection import NatsBus
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.bus.transport import Delivery
from qingyu_ai.bus.transport_errors import Disconnected, PayloadTooLarge
from qingyu_ai.settings import Bus as BusSettings
from tests.bus.conftest import FAST, clean
from tests.bus.system import close_system, echo, open_system, read, spell
from tests.nats_cluster import AnyNats, of_one_server
from tests.nats_process import NatsProcess
from tests.ports import free_port
from tests.waiting import eventually


@pytest.fixture
def own_process() -> Iterator[NatsProcess]:
    """A server of this test's own, to be killed."""
    process = NatsProcess()
    process.start()
    yield process
    process.close()


async def connect(process: AnyNats, settings: BusSettings = FAST) -> NatsBus:
    bus = await NatsBus.open(process.servers, "bridge", on_closed=lambda: None)
    await bus.ensure_topology(settings)
    bus.on_reconnect(lambda: bus.ensure_topology(settings))
    return bus


async def test_however_much_is_published_the_connection_takes_it(nats_process: AnyNats) -> None:
    bus = await connect(nats_process)
    for size in (0, 100, 1_000_000, 7_000_000):
        for _ in range(5):
            bus.publish("t.nobody", b"x" * size)
    bus.publish("t.nobody", b"x", headers=wire.encode({"K": "v"}), reply="t.reply")
    await bus.close()


async def test_what_is_published_in_one_turn_of_the_loop_goes_out_together_and_in_order(
    nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await connect(nats_process)
    heard: list[bytes] = []
    await bus.subscribe("t.order", lambda subject, reply, data, headers: heard.append(data))
    written: list[bytes] = []
    transport = bus._nc._transport
    assert transport is not None
    write = transport.write

    def note(data: bytes) -> None:
        written.append(data)
        write(data)

    monkeypatch.setattr(transport, "write", note)
    for i in range(100):
        bus.publish("t.order", b"%d" % i)
    assert not written
    assert bus._nc.unsent_bytes > 1000
    await eventually(lambda: len(heard) == 100)
    assert heard == [b"%d" % i for i in range(100)]
    assert [data.count(b"PUB t.order") for data in written] == [100]
    bus.publish("t.order", b"last")
    await bus.close()  # what was published before is still sent
    other = await connect(nats_process)
    await other.close()


async def test_exception_in_a_handler_does_not_end_the_connection(nats_process: AnyNats) -> None:
    bus = await connect(nats_process)
    heard: list[bytes] = []

    def fail(subject: str, reply: str, data: bytes, headers: object) -> None:
        heard.append(data)
        raise RuntimeError("handler")

    await bus.subscribe("t.fail", fail)
    for i in range(3):
        bus.publish("t.fail", b"%d" % i)
    await eventually(lambda: heard == [b"0", b"1", b"2"])
    await bus.close()


async def test_subject_that_is_no_text_does_not_end_the_connection(nats_process: AnyNats) -> None:
    """The server takes it from anybody."""
    bus = await connect(nats_process)
    heard: list[bytes] = []
    await bus.subscribe("t.text.*", lambda subject, reply, data, headers: heard.append(data))
    _, writer = await asyncio.open_connection(*nats_process.url.removeprefix("nats://").split(":"))
    writer.write(b'CONNECT {"verbose":false}\r\nPUB t.text.\xff 1\r\n0\r\nPUB t.text.a 1\r\n1\r\n')
    await eventually(lambda: heard == [b"1"])
    assert bus.connections == 1
    writer.close()
    await bus.close()


async def test_oversized_message_and_subject_leave_the_connection_as_it_is(nats_process: AnyNats) -> None:
    bus = await connect(nats_process)
    before = bus.client_id
    with pytest.raises(PayloadTooLarge):
        bus.publish("t.x", b"x" * (bus.max_payload + 1))
    with pytest.raises(PayloadTooLarge):
        bus.publish("t.x", b"x" * bus.max_payload, headers=wire.encode({"K": "v"}))
    with pytest.raises(PayloadTooLarge):
        bus.publish("t." + "x" * 5000, b"")
    await bus.subscribe("t.after", lambda *_: None)  # a round trip
    assert (bus.client_id, bus.connected) == (before, True)
    await bus.close()


async def test_socket_that_is_closed_before_anybody_noticed_is_a_lost_connection(
    nats_process: AnyNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens for a moment when a broker dies; uvloop raises RuntimeError then. What was published is lost with it."""
    bus = await connect(nats_process)
    heard: list[bytes] = []
    await bus.subscribe("t.lost", lambda subject, reply, data, headers: heard.append(data))
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))

    def closed(command: bytes) -> None:
        raise RuntimeError("the handler is closed")

    with monkeypatch.context() as patch:
        patch.setattr(bus._nc._transport, "write", closed)
        bus.publish("t.lost", b"x")
        bus.request("t.lost", b"x", lambda data, headers: None)
        await eventually(lambda: bus._nc.unsent_bytes == 0)
    bus.publish("t.lost", b"after")
    await eventually(lambda: heard == [b"after"])
    assert not unhandled
    await bus.close()


async def test_no_server_is_a_clear_error(nats_process: AnyNats) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(Disconnected, match=url):
        await NatsBus.open([url], "test", on_closed=lambda: None)


@of_one_server("while it is away there is no other to connect to")
async def test_nothing_is_sent_later_that_was_published_while_there_was_no_connection(own_process: NatsProcess) -> None:
    bus = await connect(own_process)
    heard: list[bytes] = []
    await bus.subscribe("t.s", lambda s, r, data, h: heard.append(data))
    own_process.kill()
    await eventually(lambda: not bus.connected)
    with pytest.raises(Disconnected):
        bus.publish("t.s", b"while down")
    own_process.start()
    await eventually(lambda: bus.connected, timeout=20)
    bus.publish("t.s", b"after")
    await eventually(lambda: bool(heard))
    assert heard == [b"after"]
    await bus.close()


@of_one_server("what is in memory goes with it")
async def test_readers_and_pulls_survive_a_restart_of_the_server(own_process: NatsProcess) -> None:
    bus = await connect(own_process)
    streams: list[str] = []
    frames: list[bytes] = []
    jobs: list[Delivery] = []
    reader = await bus.follow(
        topology.LOG, "ai.stream.>", lambda s, n, data: frames.append(data), streams.append, from_start=False
    )
    puller = await bus.pull(topology.QUEUES["agent"], lambda: 8 - len(jobs), jobs.append)
    await bus.store("ai.stream.chat.b.c", b"before", timeout=2)
    await eventually(lambda: frames == [b"before"])
    own_process.restart()

    async def stores() -> bool:
        try:
            await bus.store("ai.stream.chat.b.c", b"after", timeout=1)
        except Exception:
            return False
        return True

    await eventually(stores, timeout=20)
    await eventually(lambda: b"after" in frames, timeout=20)
    await bus.store("ai.job.agent.execute.plot", b"job", timeout=2)
    await eventually(lambda: [j.data for j in jobs] == [b"job"], timeout=20)
    jobs[0].ack()
    await puller.stop()
    await reader.stop()
    await bus.close()


async def test_reader_whose_consumer_is_deleted_goes_on_without_a_gap(nats_process: AnyNats) -> None:
    await clean(nats_process, FAST)
    bus = await connect(nats_process)
    streams: list[str] = []
    frames: list[bytes] = []
    reader = await bus.follow(
        topology.LOG, "ai.stream.>", lambda s, n, data: frames.append(data), streams.append, from_start=False
    )
    for i in range(5):
        await bus.store("ai.stream.chat.b.c", b"%d" % i, timeout=2)
    await eventually(lambda: len(frames) == 5)
    for info in await bus.jetstream.consumers_info(topology.LOG):
        await bus.jetstream.delete_consumer(topology.LOG, info.name)
    for i in range(5, 10):
        await bus.store("ai.stream.chat.b.c", b"%d" % i, timeout=2)
    await eventually(lambda: len(frames) == 10, timeout=20)
    assert frames == [b"%d" % i for i in range(10)]
    await reader.stop()
    await bus.close()


@of_one_server("what is in memory goes with it")
async def test_restart_of_the_server_never_makes_wrong_text_and_calls_work_again(own_process: NatsProcess) -> None:
    buses: list[NatsBus] = []

    async def open_bus() -> NatsBus:
        buses.append(await connect(own_process))
        return buses[-1]

    system = await open_system(open_bus, FAST)
    hang = asyncio.Event()

    async def stream(call, request):  # type: ignore[no-untyped-def]
        from qingyu_ai.contract import ai_agent_pb2 as ai

        if request.messages[-1].content == "停":
            yield ai.ChatStreamChunk(delta="停")
            await hang.wait()
        async for chunk in spell(call, request):
            yield chunk

    await system.worker(chat=echo, stream=stream)
    running = await system.submit("停", stream=True, seconds=60)
    await running.take()
    own_process.restart()
    hang.set()
    # The worker and the reader both live: the stream goes on if no frame was on its way, or ends with a status.
    (outcome,) = await asyncio.gather(asyncio.wait_for(read(running), 40), return_exceptions=True)
    if isinstance(outcome, Fault):
        assert outcome.code in (Code.UNAVAILABLE, Code.DATA_LOSS)
    else:
        assert outcome == "停"
    system.caller.close(running)

    async def chats() -> bool:
        try:
            return (await system.chat("好了吗", seconds=3)).message.content == "好了吗"
        except Exception:
            return False

    await eventually(chats, timeout=30)
    assert await system.stream("全好了") == "全好了"
    await close_system(system)
    for bus in buses:
        await bus.close()
