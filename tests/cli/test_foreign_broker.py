"""`up` with a NATS server that somebody else runs."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.command import Run, ports
from tests.cli.dummy_process import FAULT
from tests.nats_cluster import AnyNats
from tests.ports import free_ports
from tests.waiting import eventually_sync


@pytest.mark.parametrize("setting", ["NATS_URL", "QINGYU_NATS__URL"])
def test_a_server_that_is_not_there_is_named_before_any_reminder_with_its_setting_and_what_to_do(
    run: Run, setting: str
) -> None:
    [port] = free_ports(1)
    up = run("up", **ports(**{FAULT: "no reminders", setting: f"nats://me:secret@127.0.0.1:{port}"}))
    where = f"nats://127.0.0.1:{port}"
    eventually_sync(up.says(f"uses the NATS server at {where} ({setting}); starts none of its own\n"))
    eventually_sync(
        up.says(
            f"waiting for the NATS server that {setting} names: no connection to {where}: connection refused. "
            f"Start that server, or correct {setting}; without it `up` starts a server of its own\n"
        ),
        timeout=30,
    )
    assert "secret" not in up.output
    assert up.children() == []
    up.process.send_signal(signal.SIGINT)
    assert up.finish() == 0


def test_up_ends_when_its_processes_find_a_single_server_for_three_copies(run: Run, nats_process: AnyNats) -> None:
    up = run("up", module="qingyu_ai.cli", **ports(NATS_URL=nats_process.url, QINGYU_BUS__REPLICAS="3"))
    assert up.finish(30) == 2
    assert "Traceback" not in up.output
    last = up.output.splitlines()[-1]
    assert "cannot run as it is set up (exit status 2): QINGYU_BUS__REPLICAS is 3, and the NATS server is" in last


def test_copies_that_a_single_server_cannot_keep_end_a_process_with_one_line(run: Run, nats_process: AnyNats) -> None:
    for module in ("services.chat", "bridge"):
        process = run(module=module, **ports(NATS_URL=nats_process.url, QINGYU_BUS__REPLICAS="3"))
        assert process.finish() == 2, process.output
        [line] = process.output.splitlines()
        assert json.loads(line)["error"] == (
            "QINGYU_BUS__REPLICAS is 3, and the NATS server is no cluster: set it to 1, or NATS_URL to a cluster"
        )
