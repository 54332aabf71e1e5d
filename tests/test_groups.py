"""`xdist_group` holds: what its tests share is started once, and not once in each process."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("number", range(8))
def test_tests_of_one_group_run_in_one_process(
    number: int, worker_id: str, testrun_uid: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    own = tmp_path_factory.getbasetemp()
    ran = (own if worker_id == "master" else own.parent) / f"group-{testrun_uid}"
    with ran.open("a") as file:
        file.write(f"{number} {worker_id}\n")
    assert {line.split()[1] for line in ran.read_text().splitlines()} == {worker_id}
