"""Which tokens are good, and how long that is remembered."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from qingyu_ai.identity import verifier as module
from qingyu_ai.identity.claims import Claims, Refused
from qingyu_ai.identity.keys import Keys, Secret
from qingyu_ai.identity.verifier import CannotTell, Verifier, verifier_of
from qingyu_ai.settings import Tokens
from tests.tokens import AUDIENCE, ISSUER, SECRET, KeyServer, claims, jwk, private_key, private_pem, public_pem, token

STRICT = {"token_issuer": ISSUER, "token_audience": AUDIENCE}


def whole(claims: Claims) -> Claims:
    return claims


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def opened() -> AsyncIterator[Callable[..., Any]]:
    """Make verifiers that end with the test: `await opened(token_key=…)`."""
    made: list[Verifier[Claims]] = []

    async def one(**settings: Any) -> Verifier[Claims]:
        verifier = verifier_of(Tokens(**{**STRICT, **settings}), whole)
        assert verifier is not None
        await verifier.start()
        made.append(verifier)
        return verifier

    yield one
    for verifier in made:
        await verifier.stop()


async def refused(verifier: Verifier[Claims], written: str) -> None:
    with pytest.raises(Refused):
        await verifier.verify(written)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_public_key_of_a_file_verifies(opened: Any, tmp_path: Path, algorithm: str) -> None:
    (tmp_path / "key.pem").write_text(public_pem(private_key(algorithm)))
    verifier = await opened(token_key_file=tmp_path / "key.pem")
    assert (await verifier.verify(token(algorithm=algorithm))).user == "u1"
    await refused(verifier, token(private_key(algorithm, 1), algorithm))
    # The public key as a shared secret, which PyJWT itself would not sign with.
    await refused(verifier, with_secret(public_pem(private_key(algorithm))))


def with_secret(secret: str) -> str:
    """A token of HS256 with any text as its secret."""
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}).encode(), json.dumps(claims()).encode()]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


async def test_any_of_several_keys_of_a_file_verifies(opened: Any, tmp_path: Path) -> None:
    old, new = private_key("RS256", 1), private_key("RS256", 2)
    (tmp_path / "keys.pem").write_text(public_pem(old) + public_pem(new) + public_pem(private_key("ES256")))
    verifier = await opened(token_key_file=tmp_path / "keys.pem")
    for key, algorithm in ((old, "RS256"), (new, "RS256"), (private_key("ES256"), "ES256")):
        assert (await verifier.verify(token(key, algorithm, {"kid": "any"}))).user == "u1"
    await refused(verifier, token(private_key("RS256", 3), "RS256"))


BAD: dict[str, Callable[[], str]] = {
    "another secret": lambda: token("x" * 40),
    "expired": lambda: token(exp=int(time.time()) - 60),
    "no end": lambda: token(exp=None),
    "an end that is none": lambda: token(exp="tomorrow"),
    "not yet": lambda: token(nbf=int(time.time()) + 300),
    "another issuer": lambda: token(iss="https://evil.example"),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="other"),
    "no audience": lambda: token(aud=None),
    "no user": lambda: token(sub=None),
    "user is a number": lambda: token(sub=1),
    "user is empty": lambda: token(sub=""),
    "user with a line break": lambda: token(sub="u1\r\nQai-Roles: admin"),
    "user of half a character": lambda: token(sub="\ud800"),
    "user too long": lambda: token(sub="u" * 129),
    "projects are no list": lambda: token(projects={"p": 1}),
    "a project is a number": lambda: token(projects=["p", 1]),
    "too many projects": lambda: token(projects=[str(n) for n in range(300)]),
    "unsigned": lambda: jwt.encode(claims(), None, "none"),  # type: ignore[arg-type]
    "another algorithm": lambda: token("s" * 64, "HS512"),
    "another type": lambda: token(head={"typ": "dpop+jwt"}),
    "a type that is no text": lambda: token(head={"typ": 5}),
    "an extension that must be understood": lambda: token(head={"crit": ["exp"]}),
    "no token": lambda: "x",
    "empty": lambda: "",
    "three dots": lambda: "a.b.c",
    "five parts": lambda: "a.b.c.d.e",
    "too long": lambda: token(pad="x" * 9000),
    "cut": lambda: token()[:-4],
    "another end": lambda: token()[:-8] + "AAAAAAAA",
    "no ASCII": lambda: token().replace(".", "。"),
    "a line break": lambda: token() + "\n",
}
"""Made when the test runs, which may be a quarter of an hour after it was read."""


@pytest.mark.parametrize("written", BAD.values(), ids=BAD)
async def test_token_that_is_not_good_opens_nothing(opened: Any, written: Callable[[], str]) -> None:
    verifier = await opened(token_key=SECRET)
    await refused(verifier, written())
    assert (await verifier.verify(token())).user == "u1"
    assert len(verifier._seen) == 1


async def test_clocks_may_differ_by_the_leeway(opened: Any) -> None:
    verifier = await opened(token_key=SECRET, token_leeway_seconds=30)
    assert (await verifier.verify(token(exp=int(time.time()) - 5))).user == "u1"
    assert (await verifier.verify(token(nbf=int(time.time()) + 20))).user == "u1"


async def test_claims_are_read_by_the_names_of_the_settings(opened: Any) -> None:
    names = {
        "user_claim": "uid",
        "projects_claim": "https://qingyu.example/projects",
        "roles_claim": "realm_access.roles",
    }
    verifier = await opened(token_key=SECRET, **names)
    own: dict[str, Any] = {
        "uid": "用户",
        "https://qingyu.example/projects": ["p1", "p2", "p1"],
        "realm_access": {"roles": ["a", "b,c", 5]},
    }
    found = await verifier.verify(token(**own))
    assert (found.user, found.projects, found.roles) == ("用户", ("p1", "p2"), ("a",))
    await refused(verifier, token())


@pytest.mark.parametrize(
    ("own", "projects", "roles"),
    [
        ({}, None, ()),
        ({"projects": []}, (), ()),
        ({"projects": "p 1"}, ("p 1",), ()),
        ({"roles": "read write"}, None, ("read", "write")),
        ({"roles": {"admin": True}}, None, ()),
    ],
)
async def test_what_restricts_is_kept_and_what_cannot_be_read_gives_no_right(
    opened: Any, own: dict[str, Any], projects: Any, roles: Any
) -> None:
    verifier = await opened(token_key=SECRET)
    found = await verifier.verify(token(**own))
    assert (found.projects, found.roles) == (projects, roles)


async def held(settings: Tokens, clock: Clock, wall: Clock) -> Verifier[Claims]:
    verifier = Verifier(settings, Keys(Secret(SECRET)), whole, clock, wall)
    await verifier.start()
    return verifier


async def test_token_is_remembered_for_a_minute_at_most_and_never_beyond_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, wall = Clock(), Clock()
    wall.now = time.time()
    verifier = await held(Tokens(token_key=SECRET, token_leeway_seconds=0), clock, wall)  # type: ignore[arg-type]
    long, short = token(exp=int(wall.now) + 600), token(exp=int(wall.now) + 20)
    await verifier.verify(long)
    await verifier.verify(short)
    decoded: list[str] = []
    real = jwt.decode

    def decode(written: str, *given: Any, **named: Any) -> Any:
        decoded.append(written)
        return real(written, *given, **named)

    monkeypatch.setattr(jwt, "decode", decode)
    clock.now += 19
    await verifier.verify(long)
    await verifier.verify(short)
    assert decoded == []
    clock.now += 2
    assert verifier.seen(short) is None
    assert verifier.seen(long) is not None
    clock.now += 40
    assert verifier.seen(long) is None
    await verifier.verify(long)
    assert decoded == [long]


async def test_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SEEN", 3)
    verifier = await held(Tokens(token_key=SECRET), Clock(), time.time)  # type: ignore[arg-type]
    written = [token(jti=str(n)) for n in range(5)]
    for one in written:
        await verifier.verify(one)
    assert [verifier.seen(one) is not None for one in written] == [False, False, True, True, True]


async def test_new_keys_forget_the_tokens_of_the_old_ones(opened: Any, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(public_pem(private_key("EdDSA", 1)))
    verifier = await opened(token_key_file=file)
    old, new = token(private_key("EdDSA", 1), "EdDSA"), token(private_key("EdDSA", 2), "EdDSA")
    await verifier.verify(old)
    file.write_text(public_pem(private_key("EdDSA", 2)))
    assert await verifier._keys._reload()
    await refused(verifier, old)
    assert (await verifier.verify(new)).user == "u1"
    for broken in (
        "",
        "no key",
        private_pem(private_key("EdDSA", 2)),
        public_pem(private_key("EdDSA", 1)).replace("A", "!"),
    ):
        file.write_text(broken)
        assert not await verifier._keys._reload()
        assert verifier.seen(new) == Claims("u1", expires=verifier.seen(new).expires), "what is there stays"
    file.unlink()
    assert not await verifier._keys._reload()
    assert verifier.seen(new) is not None


async def test_keys_of_a_server_rotate(opened: Any) -> None:
    first, second = private_key("RS256", 1), private_key("ES256", 2)
    with KeyServer([jwk(first, "RS256", "one")]) as server:
        verifier = await opened(token_keys_url=server.url)
        clock = Clock()
        verifier._keys._clock = clock
        one = token(first, "RS256", {"kid": "one"})
        assert (await verifier.verify(one)).user == "u1"
        two = token(second, "ES256", {"kid": "two"})
        server.publish(jwk(first, "RS256", "one"), jwk(second, "ES256", "two"))
        asked = server.asked
        assert (await verifier.verify(two)).user == "u1", "a name that is not known is a reason to look"
        assert server.asked == asked + 1
        assert verifier.seen(one) is None, "keys have changed"
        assert (await verifier.verify(one)).user == "u1"
        for n in range(50):
            await refused(verifier, token(second, "ES256", {"kid": f"../{n}"}))
        assert server.asked == asked + 1, "nobody makes us ask again at once"
        clock.now += 11
        await refused(verifier, token(second, "ES256", {"kid": "three"}))
        assert server.asked == asked + 2
        server.publish(jwk(second, "ES256", "two"))
        assert await verifier._keys._reload()
        await refused(verifier, one)
        server.status = 500
        assert not await verifier._keys._reload()
        assert (await verifier.verify(two)).user == "u1", "a server that is down takes no key away"


async def test_key_of_one_algorithm_does_not_verify_another(opened: Any) -> None:
    key = private_key("RS256")
    with KeyServer([jwk(key, "RS256", "k")]) as server:
        verifier = await opened(token_keys_url=server.url)
        await refused(verifier, jwt.encode(claims(), key, "RS512", headers={"kid": "k"}))
        await refused(verifier, jwt.encode(claims(), key, "PS256", headers={"kid": "k"}))
        await refused(verifier, token(private_key("RS256", 7), "RS256", {"kid": "k"}))
        assert (await verifier.verify(token(key, "RS256"))).user == "u1", "a token need not name its key"


async def test_without_keys_nobody_can_tell_and_they_are_looked_for(opened: Any) -> None:
    key = private_key("EdDSA")
    with KeyServer() as server:
        server.status = 503
        verifier = await opened(token_keys_url=server.url)
        clock = Clock()
        verifier._keys._clock = clock
        assert not verifier.ready
        with pytest.raises(CannotTell):
            await verifier.verify(token(key, "EdDSA", {"kid": "k"}))
        server.status = 200
        server.publish(jwk(key, "EdDSA", "k"))
        clock.now += 11
        assert (await verifier.verify(token(key, "EdDSA", {"kid": "k"}))).user == "u1"
        assert verifier.ready
