"""Where keys come from, and what is no key."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

from qingyu_ai.identity import jwks
from qingyu_ai.identity.jwks import Server, read_set
from qingyu_ai.identity.keys import BadKeys, File, Key, Keys, read_pem
from tests.tokens import KeyServer, jwk, private_key, private_pem, public_pem
from tests.waiting import eventually


def algorithms(keys: Any) -> list[str]:
    return [key.algorithm for key in keys]


def test_certificates_and_keys_are_read_and_each_is_for_one_algorithm() -> None:
    certificate = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes().decode()
    text = public_pem(private_key("RS256")) + certificate + public_pem(private_key("EdDSA"))
    assert algorithms(read_pem(text, "f")) == ["RS256", "ES256", "EdDSA"]


NO_KEYS: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (lambda: "", "holds no key"),
    "of OpenSSH": (lambda: "ssh-ed25519 AAAA", "holds no key"),
    "private": (lambda: private_pem(private_key("EdDSA")), "a private key"),
    "weak": (lambda: public_pem(rsa.generate_private_key(65537, 1024)), "1024 bits is too weak"),
    "another curve": (
        lambda: public_pem(ec.generate_private_key(ec.SECP384R1())),
        "for none of RS256, ES256 and EdDSA",
    ),
    "another kind": (lambda: public_pem(dsa.generate_private_key(2048)), "for none of"),
    "broken": (lambda: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
    "too many": (lambda: public_pem(private_key("EdDSA")) * 33, "33 keys; the limit is 32"),
}
"""Made when the test runs: each process that collects tests would make them all."""


@pytest.mark.parametrize(("text", "words"), NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_key_is_told(text: Callable[[], str], words: str) -> None:
    with pytest.raises(BadKeys, match=words):
        read_pem(text(), "f")


def test_set_is_read_for_what_is_in_it_for_us() -> None:
    good = jwk(private_key("RS256"), "RS256", "good")
    listed = [
        good,
        {**good, "use": "enc", "kid": "encrypts"},
        {**good, "key_ops": ["encrypt"], "kid": "encrypts"},
        {**good, "alg": "RS512", "kid": "of another algorithm"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a published secret", "alg": "HS256"},
        {**good, "n": "AQAB", "kid": "weak"},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "broken"},
        {"kty": "EC", "kid": "empty"},
        {**good, "kid": 5},
        "no key",
        None,
        {**jwk(private_key("EdDSA"), "EdDSA", "d"), "d": "AAAA"},
    ]
    assert [key.kid for key in read_set(json.dumps({"keys": listed}).encode())] == ["good", "d"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [{"kty": "oct"}]}', b"<html>", b"[" * 9000]
)
def test_answer_without_keys_for_us_is_none(body: bytes) -> None:
    with pytest.raises(BadKeys):
        read_set(body)


async def test_server_over_tls_is_believed_with_the_certificate_of_the_settings_only(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with KeyServer([jwk(private_key("EdDSA"), "EdDSA", "k")], tmp_path / "server.pem") as server:
        assert algorithms(await Server(server.url, tmp_path / "ca.pem", 60).load()) == ["EdDSA"]
        with pytest.raises(BadKeys, match="does not answer as it should"):
            await Server(server.url, None, 60).load()


@pytest.mark.parametrize("trouble", ["redirect", "huge", "down", "slow", "half"])
async def test_server_in_trouble_is_no_source_of_keys(monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.5)
    with KeyServer([jwk(private_key("EdDSA"), "EdDSA", "k")]) as server:
        url = server.url
        match trouble:
            case "redirect":
                server.status = 302
            case "huge":
                server.body = b" " * (jwks.LARGEST + 1) + server.body
            case "slow":
                server.hold.clear()
            case "half":
                server.body = server.body[:-5]
            case "down":
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(BadKeys):
            await Server(url, None, 60).load()
        server.hold.set()


class Changing:
    """A source that a test changes."""

    every = 0.01
    knows_names = True

    def __init__(self, *found: Key) -> None:
        self.found = found
        self.loads = 0

    async def load(self) -> tuple[Key, ...]:
        self.loads += 1
        await asyncio.sleep(0)
        if not self.found:
            raise BadKeys("none now")
        return self.found


async def test_source_is_looked_at_again_and_again_and_keeps_its_keys_when_it_fails() -> None:
    one, two = Key("HS256", "1"), Key("HS256", "2")
    source, changes = Changing(), []
    keys = Keys(source)
    keys.on_change = lambda: changes.append(keys.candidates("HS256", ""))
    await keys.start()
    assert not keys.there
    source.found = (one,)
    await eventually(lambda: keys.there)
    source.found = (one, two)
    await eventually(lambda: len(changes) == 2)
    source.found = ()
    loads = source.loads
    await eventually(lambda: source.loads > loads + 2)
    assert keys.candidates("HS256", "") == [one, two]
    assert len(changes) == 2, "keys that are the same are no change"
    await keys.stop()


async def test_all_who_want_a_look_at_one_moment_share_it() -> None:
    source = Changing(Key("HS256", "1"))
    source.every = 60
    keys = Keys(source)
    await keys.start()
    assert keys.may_look()
    await asyncio.gather(*(keys.look() for _ in range(20)))
    assert source.loads == 2
    assert not keys.may_look()
    await keys.stop()


async def test_file_that_is_not_there_at_the_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match=r"key\.pem cannot be read: FileNotFoundError"):
        await Keys(File(tmp_path / "key.pem")).start()
