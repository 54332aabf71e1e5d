"""TLS and mutual TLS between a bridge and its callers, with certificates made on the fly, and their rotation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract.stubs import ai_agent_pb2_grpc
from qingyu_ai.settings import AiProxy, Settings, SettingsError
from qingyu_ai.settings import Bridge as BridgeSettings
from services.proxy.errors import AIProxyError
from services.proxy.service import AIProxyService
from tests.bridge.conftest import Bridge, open_bridge
from tests.bus.conftest import FAST, clean
from tests.certificates import Folder
from tests.nats_cluster import AnyNats

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

Start = Callable[..., Awaitable[Bridge]]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def shown(tmp_path: Path, authority: trustme.CA) -> Folder:
    """The bridge's files."""
    return Folder(tmp_path / "bridge").trust(authority).show(authority)


@pytest.fixture
def ours(tmp_path: Path, authority: trustme.CA) -> Folder:
    """A caller's files."""
    return Folder(tmp_path / "caller").trust(authority).show(authority, "backend")


@pytest.fixture
async def start(nats_process: AnyNats, shown: Folder) -> AsyncIterator[Start]:
    """Start a bridge with TLS; `mutual` has it ask for certificates."""
    async with AsyncExitStack() as stack:

        async def one(*, mutual: bool = False) -> Bridge:
            own = BridgeSettings(
                port=0,
                expected_workers=(),
                cert_file=shown.cert,
                key_file=shown.key,
                client_ca_file=shown.ca if mutual else None,
            )
            settings = Settings(bus=FAST, bridge=own, nats={"url": nats_process.url})  # type: ignore[arg-type]
            await clean(nats_process, FAST)
            return await stack.enter_async_context(open_bridge(settings))

        yield one


async def health(bridge: Bridge, ours: Folder, *, shows: bool = False) -> str:
    """Ask once on a new connection: the answer, or the status code's name."""
    key, cert = (ours.key.read_bytes(), ours.cert.read_bytes()) if shows else (None, None)
    credentials = grpc.ssl_channel_credentials(ours.ca.read_bytes(), key, cert)
    async with grpc.aio.secure_channel(f"127.0.0.1:{bridge.port}", credentials, options=OWN_CONNECTION) as channel:
        return await asked(channel)


async def asked(channel: grpc.aio.Channel) -> str:
    stub: Any = ai_agent_pb2_grpc.AIAgentServiceStub(channel)
    try:
        answer: ai.HealthResponse = await stub.HealthCheck(ai.HealthRequest(), timeout=5)
    except grpc.aio.AioRpcError as e:
        return str(e.code().name)
    return answer.status


async def test_caller_that_trusts_the_authority_is_answered_and_nobody_else(start: Start, ours: Folder) -> None:
    bridge = await start()
    assert await health(bridge, ours) == "healthy"
    assert await health(bridge, ours.trust(trustme.CA())) == "UNAVAILABLE"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bridge.port}", options=OWN_CONNECTION) as channel:
        assert await asked(channel) == "UNAVAILABLE"


async def test_bridge_that_asks_for_certificates_answers_only_who_shows_one_of_its_authority(
    start: Start, ours: Folder
) -> None:
    bridge = await start(mutual=True)
    assert await health(bridge, ours, shows=True) == "healthy"
    assert await health(bridge, ours) == "UNAVAILABLE"
    assert await health(bridge, ours.show(trustme.CA(), "stranger"), shows=True) == "UNAVAILABLE"


async def test_rotated_certificates_are_shown_and_asked_for_on_new_connections_while_others_go_on(
    start: Start, shown: Folder, ours: Folder
) -> None:
    bridge = await start(mutual=True)
    credentials = grpc.ssl_channel_credentials(ours.ca.read_bytes(), ours.key.read_bytes(), ours.cert.read_bytes())
    target = f"127.0.0.1:{bridge.port}"
    async with grpc.aio.secure_channel(target, credentials, options=OWN_CONNECTION) as before:
        assert await asked(before) == "healthy"
        new = trustme.CA()
        shown.trust(new).show(new)
        assert await health(bridge, ours, shows=True) == "UNAVAILABLE"
        assert await health(bridge, ours.trust(new).show(new, "backend"), shows=True) == "healthy"
        assert await asked(before) == "healthy"


async def test_rotation_to_files_that_do_not_hold_leaves_the_old_ones_in_use(
    start: Start, shown: Folder, ours: Folder, authority: trustme.CA
) -> None:
    bridge = await start()
    shown.put(shown.cert, b"half of a certif")
    assert await health(bridge, ours) == "healthy"
    shown.show(authority, until=datetime.now(UTC) - timedelta(hours=1))
    assert await health(bridge, ours) == "healthy"


async def test_bridge_does_not_start_with_a_certificate_that_has_expired(
    start: Start, shown: Folder, authority: trustme.CA
) -> None:
    shown.show(authority, until=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(SettingsError, match=r"QINGYU_BRIDGE__CERT_FILE: the certificate in .* expired on"):
        await start()


def proxy(bridge: Bridge, ours: Folder, *, shows: bool = False, trusts: bool = True) -> AiProxy:
    return AiProxy(
        python_addr=f"127.0.0.1:{bridge.port}",
        ca_file=ours.ca if trusts else None,
        cert_file=ours.cert if shows else None,
        key_file=ours.key if shows else None,
    )


async def refusal(settings: AiProxy) -> str:
    service = AIProxyService(settings)
    try:
        with pytest.raises(AIProxyError) as raised:
            await service._connection.ready(2)
        return raised.value.english
    finally:
        await service.close()


async def test_proxy_calls_a_bridge_that_asks_for_certificates(start: Start, ours: Folder) -> None:
    bridge = await start(mutual=True)
    service = await AIProxyService.start(proxy(bridge, ours, shows=True))
    try:
        assert (await service.health()).status == "healthy"
    finally:
        await service.close()


async def test_proxy_says_which_setting_keeps_it_from_the_bridge(start: Start, ours: Folder) -> None:
    bridge = await start(mutual=True)
    assert "set QINGYU_AI__PROXY__CERT_FILE and QINGYU_AI__PROXY__KEY_FILE" in await refusal(proxy(bridge, ours))
    assert "the bridge speaks TLS: set QINGYU_AI__PROXY__CA_FILE" in await refusal(proxy(bridge, ours, trusts=False))
    ours.trust(trustme.CA())
    said = await refusal(proxy(bridge, ours, shows=True))
    assert "of an authority that QINGYU_AI__PROXY__CA_FILE does not have" in said


async def test_proxy_takes_rotated_certificates_for_its_next_call(start: Start, shown: Folder, ours: Folder) -> None:
    bridge = await start(mutual=True)
    service = await AIProxyService.start(proxy(bridge, ours, shows=True))
    try:
        first = service._connection._current
        new = trustme.CA()
        shown.trust(new).show(new)
        assert (await service.health()).status == "healthy"  # on its old connection
        ours.trust(new).show(new, "backend")
        assert (await service.health()).status == "healthy"
        assert service._connection._current is not first
    finally:
        await service.close()
