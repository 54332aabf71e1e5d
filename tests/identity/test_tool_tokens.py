"""Proof for tools: for one call of one tool by one user, and for a minute."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from qingyu_ai.identity.claims import Refused
from qingyu_ai.identity.keys import BadKeys
from qingyu_ai.identity.signing import signing
from qingyu_ai.identity.tool_tokens import SECONDS, TYPE, Signer, ToolVerifier
from qingyu_ai.settings import SettingsError
from tests.tokens import private_key, private_pem, public_pem

CALL = "c" * 32


@pytest.fixture
async def verifier(tmp_path: Path) -> AsyncIterator[ToolVerifier]:
    """It knows the keys 1 and 2."""
    path = tmp_path / "public.pem"
    path.write_text(public_pem(private_key("EdDSA", 1)) + public_pem(private_key("EdDSA", 2)))
    made = ToolVerifier.of(path)
    await made.start()
    yield made
    await made.stop()


def signed(key: Any = None, algorithm: str = "EdDSA", typ: str = TYPE, **own: Any) -> str:
    now = int(time.time())
    payload = {"iss": "qingyu-ai", "aud": "mine", "sub": "u", "jti": CALL, "iat": now, "exp": now + 60, **own}
    payload = {k: v for k, v in payload.items() if v is not None}
    return jwt.encode(payload, key or private_key("EdDSA", 1), algorithm, headers={"typ": typ})


async def test_proof_is_for_its_call_its_user_and_its_tool(verifier: ToolVerifier) -> None:
    for number in (1, 2):
        proof = Signer(private_key("EdDSA", number)).sign(CALL, "u", "mine")
        verifier.check(proof, call=CALL, user="u", tool="mine")
        for other in ({"call": "d" * 32}, {"user": "v"}, {"tool": "yours"}, {"user": ""}):
            with pytest.raises(Refused):
                verifier.check(proof, **{"call": CALL, "user": "u", "tool": "mine", **other})
    claims = jwt.decode(proof, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == SECONDS == 60
    assert jwt.get_unverified_header(proof)["alg"] == "EdDSA"


BAD: dict[str, Callable[[], str]] = {
    "another's key": lambda: signed(private_key("EdDSA", 3)),
    "expired": lambda: signed(iat=int(time.time()) - 100, exp=int(time.time()) - 40),
    "for longer than a minute": lambda: signed(exp=int(time.time()) + 3600),
    "no end": lambda: signed(exp=None),
    "no beginning": lambda: signed(iat=None),
    "no user": lambda: signed(sub=None),
    "no call": lambda: signed(jti=None),
    "several tools": lambda: signed(aud=["mine", "yours"]),
    "another issuer": lambda: signed(iss="x"),
    "a user's token": lambda: signed(typ="JWT"),
    "unsigned": lambda: jwt.encode({"aud": "mine"}, None, "none", headers={"typ": TYPE}),  # type: ignore[arg-type]
    "a shared secret": lambda: signed("s" * 40, "HS256"),
    "nothing": lambda: "",
    "no token": lambda: "a.b.c",
    "long": lambda: "a" * 9000,
}
"""Made when the test runs: a proof made when it is read would have expired by then, and be refused for that alone."""


@pytest.mark.parametrize("proof", BAD.values(), ids=BAD)
async def test_what_is_no_proof_is_refused(verifier: ToolVerifier, proof: Callable[[], str]) -> None:
    with pytest.raises(Refused):
        verifier.check(proof(), call=CALL, user="u", tool="mine")
    verifier.check(signed(), call=CALL, user="u", tool="mine")


async def test_new_key_is_read_without_a_new_start(tmp_path: Path) -> None:
    path = tmp_path / "public.pem"
    path.write_text(public_pem(private_key("EdDSA", 1)))
    verifier = ToolVerifier.of(path)
    await verifier.start()
    new = signed(private_key("EdDSA", 3))
    with pytest.raises(Refused):
        verifier.check(new, call=CALL, user="u", tool="mine")
    path.write_text(public_pem(private_key("EdDSA", 3)))
    assert await verifier._keys._reload()
    verifier.check(new, call=CALL, user="u", tool="mine")
    await verifier.stop()


NO_KEYS: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no key": lambda: "x",
    "public": lambda: public_pem(private_key("EdDSA")),
    "of RSA": lambda: private_pem(private_key("RS256")),
    "of ECDSA": lambda: private_pem(private_key("ES256")),
}


@pytest.mark.parametrize("text", NO_KEYS.values(), ids=NO_KEYS)
def test_file_without_a_key_to_sign_with_is_named_by_its_setting(tmp_path: Path, text: Callable[[], str]) -> None:
    path = tmp_path / "key.pem"
    path.write_text(text())
    with pytest.raises(BadKeys):
        Signer.of(path)
    with pytest.raises(SettingsError, match=r"^QINGYU_AGENT__SIGNING_KEY_FILE: .*key\.pem"):
        signing(path, ("agent", "signing_key_file"))
    assert signing(None, ("agent", "signing_key_file")) is None
