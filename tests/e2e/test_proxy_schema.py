"""schemathesis asks a running proxy all that its OpenAPI document allows, and what it does not: no server error, no surprise."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.callers import FAST
from tests.e2e.proxies import RunningProxy
from tests.running import System, echo

pytestmark = [pytest.mark.once, pytest.mark.timeout(240)]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)

# What is tested is the proxy, not its protection.
SETTINGS = {
    "QINGYU_AI__PROXY__RATE_LIMIT": "100000",
    "QINGYU_AI__PROXY__CIRCUIT_MAX_FAILS": "100000",
    "QINGYU_OFFLINE__FIRST_DELAY_SECONDS": "0",
    "QINGYU_OFFLINE__DELTAS_PER_SECOND": "0",
}


async def test_nothing_that_the_document_allows_or_forbids_is_a_server_error(tmp_path: Path) -> None:
    with System(echo("chat"), echo("rag"), "services.tool", "services.agent", settings={**FAST, **SETTINGS}) as system:
        proxy = RunningProxy(system, tmp_path)
        proxy.start()
        try:
            await proxy.ready()
            command = (
                *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{proxy.origin}/openapi.json"),
                *("-H", "X-User-Id: u1", "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing"),
                *("--max-examples", "20", "--seed", "7", "--workers", "1", "--request-timeout", "20"),
            )
            run = await asyncio.to_thread(
                subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
            )
        finally:
            proxy.stop()
        assert run.returncode == 0, run.stdout[-6000:]
        assert "15 selected / 15 total" in run.stdout
        assert "Traceback" not in proxy.log
        assert '"level": "error"' not in proxy.log
