"""Who may call a tool that is for verified users only: whoever brings proof, signed by the process that calls it."""

from __future__ import annotations

from pathlib import Path

from qingyu_ai.bus.errors import Code, Fault, Unauthenticated
from qingyu_ai.bus.handler import Call
from qingyu_ai.identity.claims import Refused
from qingyu_ai.identity.keys import BadKeys
from qingyu_ai.identity.tool_tokens import ToolVerifier
from qingyu_ai.settings import SettingsError, env_name


class NoProof(Fault):
    """There can be no proof: a key is missing, here or where the tool is called from."""

    def __init__(self, tool: str, missing: str) -> None:
        super().__init__(
            Code.FAILED_PRECONDITION,
            "NO_PROOF",
            f"The tool {tool} runs only for users who are proved, and this deployment has no key for that; "
            f"its operator must set {missing}",
            f"工具 {tool} 仅为经过签名证明的用户运行，而本部署没有相应的密钥；请联系运维设置 {missing}",
            facts={"tool": tool, "setting": missing},
        )


HERE = env_name(("tool", "caller_keys_file"))
THERE = f"{env_name(('bridge', 'signing_key_file'))} and {env_name(('agent', 'signing_key_file'))}"


class Proofs:
    """Checks them.

    Args:
        verifier: None: this worker has no keys, and runs no tool for verified users.
    """

    def __init__(self, verifier: ToolVerifier | None = None) -> None:
        self._verifier = verifier

    @classmethod
    async def open(cls, path: Path | None) -> Proofs:
        """Read the keys.

        Args:
            path: of the public keys of all who may call; None: there are none.

        Raises:
            SettingsError: they cannot be used.
        """
        if path is None:
            return cls()
        verifier = ToolVerifier.of(path)
        try:
            await verifier.start()
        except BadKeys as e:
            raise SettingsError(f"{HERE}: {e}") from None
        return cls(verifier)

    def check(self, call: Call, tool: str) -> None:
        """See that a call is proved to be its user's.

        Raises:
            Unauthenticated: nobody verified the user, or the proof is for something else.
            NoProof: there can be none.
        """
        if call.verified and self._verifier is None:
            raise NoProof(tool, HERE)
        if call.verified and not call.proof:
            raise NoProof(tool, THERE)
        try:
            if not call.verified or self._verifier is None:
                raise Refused
            self._verifier.check(call.proof, call=call.id, user=call.user, tool=tool)
        except Refused:
            raise Unauthenticated(f"The tool {tool} is for verified users", f"工具 {tool} 仅限已验证用户使用") from None

    async def close(self) -> None:
        """Look for keys no more."""
        if self._verifier is not None:
            await self._verifier.stop()
