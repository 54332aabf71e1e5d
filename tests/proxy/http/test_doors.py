"""Who may come in: tokens, backends, tickets, origins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from qingyu_ai.bus.handler import Call
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import common_pb2 as common
from services.proxy.errors import AIProxyError
from services.proxy.http.tickets import COOKIE, Tickets
from services.proxy.who import Who
from tests.bridge.conftest import Bridge
from tests.proxy.http.conftest import KEY, Open, Site
from tests.proxy.http.test_json import ASKED, error_of

SECRET = "s" * 40
BACKEND = "b" * 40


async def whoami(call: Call, request: ai.ChatRequest) -> ai.ChatResponse:
    return ai.ChatResponse(message=common.Message(role="assistant", content=f"{call.user}|{call.project}"))


def token(key: Any = SECRET, algorithm: str = "HS256", **claims: Any) -> dict[str, str]:
    held = {"sub": "u1", "exp": int(time.time()) + 60, **claims}
    encoded = jwt.encode({k: v for k, v in held.items() if v is not None}, key, algorithm)
    return {"Authorization": f"Bearer {encoded}"}


async def asked(site: Site, headers: dict[str, str], **body: Any) -> Any:
    return await site.client.post("/api/v1/ai/chat", json={**ASKED, **body}, headers=headers)


@pytest.fixture
async def locked(bridge: Bridge, open_site: Open) -> Site:
    """A proxy that wants to know who calls."""
    await bridge.worker(chat=whoami)
    return await open_site(authentication="required", token_key=SECRET, backend_key=BACKEND)


def content(response: Any) -> str:
    assert response.status_code == 200, response.text
    found: str = response.json()["message"]["content"]
    return found


async def test_user_is_who_the_token_says(locked: Site) -> None:
    assert content(await asked(locked, token())) == "u1|"
    assert content(await asked(locked, token(), userId="u1", projectId="p")) == "u1|p"
    error_of(await asked(locked, token(), userId="u2"), 400, "VALIDATION")
    error_of(await asked(locked, {**token(), "X-User-Id": "u2"}), 403, "PERMISSION_DENIED")


async def test_trusted_backend_says_for_whom_it_calls(locked: Site) -> None:
    headers = {"X-Backend-Key": BACKEND, "X-User-Id": "%E7%94%A8%E6%88%B7", "X-Project-Id": "p"}
    assert content(await asked(locked, headers)) == "用户|p"
    error_of(await asked(locked, {**headers, "X-Backend-Key": "x" * 40}), 401, "UNAUTHENTICATED")
    error_of(await asked(locked, {"X-User-Id": "u1"}), 401, "UNAUTHENTICATED")


BAD_TOKENS: dict[str, dict[str, str]] = {
    "another key": token("x" * 40),
    "expired": token(exp=1),
    "no end": token(exp=None),
    "no user": token(sub=None),
    "a user that is no text": token(sub=None) | {},
    "not yet": token(nbf=int(time.time()) + 600),
    "unsigned": {"Authorization": f"Bearer {jwt.encode({'sub': 'u1', 'exp': 9999999999}, None, 'none')}"},  # type: ignore[arg-type]
    "another algorithm": token(SECRET * 2, "HS512"),
    "no token": {"Authorization": "Bearer x"},
    "three dots": {"Authorization": "Bearer a.b.c"},
    "another scheme": {"Authorization": "Basic dTpw"},
    "too long": {"Authorization": "Bearer " + "x" * 9000},
    "nothing": {},
}


@pytest.mark.parametrize("headers", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_token_that_does_not_hold_opens_nothing(locked: Site, headers: dict[str, str]) -> None:
    response = await asked(locked, headers)
    error_of(response, 401, "UNAUTHENTICATED")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
async def test_public_key_verifies_and_is_never_taken_for_a_shared_one(
    bridge: Bridge, open_site: Open, tmp_path: Path, algorithm: str
) -> None:
    await bridge.worker(chat=whoami)
    private: Any = (
        rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ed25519.Ed25519PrivateKey.generate()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.pem").write_bytes(public)
    site = await open_site(authentication="required", token_key_file=tmp_path / "key.pem", token_audience="qingyu")
    assert content(await asked(site, token(private, algorithm, aud="qingyu"))) == "u1|"
    error_of(await asked(site, token(private, algorithm, aud="other")), 401, "UNAUTHENTICATED")
    forged = jwt.utils.base64url_encode(b'{"alg":"HS256","typ":"JWT"}').decode()
    error_of(await asked(site, {"Authorization": f"Bearer {forged}.e30.x"}), 401, "UNAUTHENTICATED")


async def test_pages_of_other_origins_are_turned_away_and_known_ones_may_read_the_answer(
    bridge: Bridge, open_site: Open
) -> None:
    await bridge.worker(chat=whoami)
    site = await open_site(allowed_origins=("https://www.example.com",))
    known, evil = {"Origin": "https://www.example.com"}, {"Origin": "https://www.example.com.evil.example"}
    response = await asked(site, known)
    assert response.headers["access-control-allow-origin"] == "https://www.example.com"
    assert "X-Request-Id" in response.headers["access-control-expose-headers"]
    error_of(await asked(site, evil), 403, "PERMISSION_DENIED")
    error_of(await asked(site, {"Origin": "null"}), 403, "PERMISSION_DENIED")
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    response = await site.client.options("/api/v1/ai/chat", headers=known | preflight)
    assert (response.status_code, response.headers["access-control-allow-credentials"]) == (200, "true")
    error_of(await site.client.options("/api/v1/ai/chat", headers=evil | preflight), 403, "PERMISSION_DENIED")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(tickets: Tickets, ticket: str, path: str = "/a", purpose: str = "ticket") -> int:
    with pytest.raises(AIProxyError) as error:
        tickets.open(ticket, path, purpose)
    return error.value.http_status


def test_ticket_is_for_one_path_and_one_use_and_half_a_minute() -> None:
    clock, me = Clock(), Who("用户", "p", "a.b.c")
    tickets, other = Tickets(KEY, clock), Tickets(KEY, clock)
    ticket = tickets.seal(me, "/a", 30)
    assert refusal(tickets, ticket, "/b") == 403
    assert other.open(ticket, "/a") == me
    assert refusal(other, ticket) == 401
    clock.now += 30
    assert refusal(tickets, ticket) == 401
    tickets.open(tickets.seal(me, "/a", 30), "/a")
    assert len(tickets._spent) == 1, "spent tickets are forgotten once they have expired"


def test_ticket_costs_the_same_however_many_were_spent_before() -> None:
    """Only those are looked at that are forgotten: who gets many tickets would slow the process down for everybody."""
    clock, me = Clock(), Who("u1")
    tickets = Tickets(KEY, clock)
    for _ in range(3):
        tickets.open(tickets.seal(me, "/a", 30), "/a")
    clock.now += 10
    looked_at = []

    class Spent(dict[bytes, float]):
        def values(self) -> Any:
            for end in super().values():
                looked_at.append(end)
                yield end

    tickets._spent = Spent(tickets._spent)
    tickets.open(tickets.seal(me, "/a", 30), "/a")
    assert (len(looked_at), len(tickets._spent)) == (1, 4)
    clock.now += 20
    tickets.open(tickets.seal(me, "/a", 30), "/a")
    assert len(tickets._spent) == 2


def test_ticket_of_another_key_or_purpose_opens_nothing() -> None:
    me = Who("u1")
    tickets = Tickets(KEY)
    assert refusal(Tickets("o" * 32), tickets.seal(me, "/a", 30)) == 401
    assert refusal(Tickets(""), Tickets("").seal(me, "/a", 30)) == 401
    assert refusal(tickets, tickets.seal(me, "/a", 30, COOKIE)) == 401
    assert refusal(tickets, tickets.seal(me, "/a", 30), purpose=COOKIE) == 401
    for ticket in ("", "x", "é", "x" * 20_000):
        assert refusal(tickets, ticket) == 401


def test_user_and_token_cannot_be_read_from_a_ticket() -> None:
    ticket = Tickets(KEY).seal(Who("secret-user", token="secret.token.x"), "/a", 30)
    assert "secret" not in ticket
