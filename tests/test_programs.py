"""What `make system` does about nginx and chromium, on a machine of the test's own making."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("programs.sh")

NEEDED = ("sh", "timeout", "chmod", "rm", "cat")


class Machine:
    """A PATH with only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.policy = folder / "policy-rc.d"
        self.asked = folder / "asked"
        for name in NEEDED:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)

    def has(self, name: str, does: str) -> None:
        program = self.bin / name
        program.unlink(missing_ok=True)  # never through a link into the system
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)

    def run(self, **more: str) -> str:
        env = {"PATH": str(self.bin), "SBIN": str(self.bin), "POLICY": str(self.policy), **more}
        done = subprocess.run(
            ["/bin/sh", str(SCRIPT)], env=env, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout.strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_programs_that_are_there_are_left_alone(machine: Machine) -> None:
    for name in ("nginx", "chromium"):
        machine.has(name, "exit 0")
    assert machine.run() == "nginx, chromium: here"


def test_somebody_who_is_not_root_is_told_what_is_skipped(machine: Machine) -> None:
    machine.has("apt-get", f"touch {machine.asked}")
    machine.has("id", "echo 1000")
    said = machine.run()
    assert said.endswith("the tests that need nginx chromium are skipped")
    assert not machine.asked.exists()


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="this is not Debian")
@pytest.mark.parametrize("works", [True, False])
def test_root_on_debian_installs_what_is_missing_and_starts_no_server(machine: Machine, works: bool) -> None:
    status = 0 if works else 100
    machine.has("id", "echo 0")
    machine.has("nginx", "exit 0")
    machine.has(
        "apt-get", f'echo "$@" >>{machine.asked}\n{machine.policy} || echo denied >>{machine.asked}\nexit {status}'
    )
    said = machine.run()
    left_out = "apt-get could not install chromium: the tests that need chromium are skipped"
    assert said == ("installed: chromium" if works else left_out)
    update, denied, install, _ = machine.asked.read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install --yes --no-install-recommends chromium")
    assert denied == "denied"
    assert not machine.policy.exists(), "the machine's own services start again"


@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="this is not Debian")
def test_apt_get_that_hangs_is_ended(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-get", "exec sleep 60")
    sleep = shutil.which("sleep")
    assert sleep is not None
    (machine.bin / "sleep").symlink_to(sleep)
    assert machine.run(LONGEST_SECONDS="0.2").startswith("apt-get could not install nginx chromium")
