"""What cannot work is refused before anything is started, with the setting that is to be changed."""

from __future__ import annotations

import pytest

from tests.cli.command import Command, Run, ports


def refused(run: Run, **env: str) -> str:
    """Run `up`, which must refuse; what it says."""
    up: Command = run("up", **ports(**env))
    assert up.finish() == 2, up.output
    assert "Traceback" not in up.output
    assert "starting" not in up.output
    assert not (up.path.parent / "var").exists()
    return up.output


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("QINGYU_BRIDGE__PORT", "many", "is 'many'; it must be a whole number from 0 to 65535"),
        ("QINGYU_BRIDGE__PORT", "", "is empty; it must be a whole number from 0 to 65535"),
        ("QINGYU_BRIDGE__PROT", "1", "is no setting; did you mean QINGYU_BRIDGE__PORT?"),
        (
            "QINGYU_BRIDGE__EXPECTED_WORKERS",
            "chat",
            'is \'chat\'; it must be a list in brackets, such as ["one", "two"]',
        ),
    ],
)
def test_a_setting_that_does_not_hold_is_named_with_its_value_and_what_is_accepted(
    run: Run, setting: str, value: str, sentence: str
) -> None:
    assert refused(run, **{setting: value}) == f"settings that do not hold:\n  {setting} {sentence}\n"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://localhost:4222", "NATS_URL is 'http://localhost:4222': the scheme is neither nats nor tls"),
        ("my server", "NATS_URL is 'my server': this is no address"),
        ("hello", "NATS_URL is 'hello': there is neither a scheme nor a port"),
        ("nats://host:99999", "NATS_URL is 'nats://host:99999': the port is no number from 1 to 65535"),
        ("ws://host:80", "NATS_URL is 'ws://host:80': a WebSocket does not carry the bus"),
        ("host:4222,http://me:secret@host", "server 2 of NATS_URL: the scheme is neither nats nor tls"),
    ],
)
def test_an_address_that_can_be_none_is_refused_with_what_is_accepted(run: Run, url: str, reason: str) -> None:
    output = refused(run, NATS_URL=url)
    assert output.startswith(reason)
    assert "Write nats://host:port or tls://host:port, a bare host:port, or several" in output
    assert "secret" not in output


def test_an_address_in_the_settings_is_refused_under_its_own_name(run: Run) -> None:
    assert refused(run, QINGYU_NATS__URL="http://x").startswith("QINGYU_NATS__URL is 'http://x': ")


def test_copies_that_a_single_server_cannot_keep_are_refused(run: Run) -> None:
    assert refused(run, QINGYU_BUS__REPLICAS="3") == (
        "QINGYU_BUS__REPLICAS is 3, and `up` starts a single NATS server: "
        "set it to 1, or NATS_URL to a cluster of your own with at least 3 servers\n"
    )
