from __future__ import annotations

import pytest

from qingyu_ai.settings.nats_url import problem


@pytest.mark.parametrize(
    "url",
    [
        "nats://host:4222",
        "tls://me:secret@host:4222/",
        "host:4222",
        "me:secret@host:4222",
        "nats://host",
        "nats://[::1]:4222",
        "a:1, nats://b:2",
        "a:1,",
    ],
)
def test_address_that_can_be_one_is_no_problem(url: str) -> None:
    assert problem("NATS_URL", url) == ""


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (" ", "NATS_URL: there is no address"),
        (",", "NATS_URL: there is no address"),
        ("nats://", "NATS_URL is 'nats://': this is no address"),
        ("NATS://host:4222", "NATS_URL is 'NATS://host:4222': the scheme is neither nats nor tls"),
        ("nats://host:", "NATS_URL is 'nats://host:': the port is no number from 1 to 65535"),
        ("host:0", "NATS_URL is 'host:0': the port is no number from 1 to 65535"),
        ("nats://[::1", "NATS_URL is 'nats://[::1': the port is no number from 1 to 65535, or the host is none"),
        ("nats://host:1/path", "NATS_URL is 'nats://host:1/path': nothing may follow the port"),
        ("a:1,b", "server 2 of NATS_URL is 'b': there is neither a scheme nor a port"),
    ],
)
def test_address_that_can_be_none_has_its_reason(url: str, reason: str) -> None:
    assert problem("NATS_URL", url).startswith(f"{reason}. Write nats://host:port")


@pytest.mark.parametrize("mark", "/?#,: [")
def test_no_part_of_a_password_is_shown_whatever_its_mistake(mark: str) -> None:
    for password in (f"secret{mark}part", f"1{mark}secret"):
        found = problem("NATS_URL", f"nats://me:{password}@host:4222")
        assert not any(word in found for word in ("secret", "part@", "me:"))


@pytest.mark.parametrize("mark", "/?#")
def test_password_with_a_mark_that_ends_the_host_is_told_how_to_spell_it(mark: str) -> None:
    assert "need %2F for /, %3F for ? and %23 for #" in problem("NATS_URL", f"nats://me:1{mark}secret@host:4222")
