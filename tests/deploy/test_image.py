"""The image: its Dockerfile is about files that there are, and what its script makes starts, as nobody, on a read-only root.

`make test-image` runs the long form: debootstrap makes the root that `debian:bookworm-slim` is, the script's steps run in it as
in the Dockerfile, and each process starts there from its manifest's command line: as user 10001, without a capability, on a root
file system that is mounted read-only. It needs root, debootstrap and two minutes; the root is kept in `tools/` for the next time.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy.manifests import ROOT, TOOLS, Document
from tests.deploy.kubelet import SECTIONS
from tests.deploy.running import Deployed, deploy
from tests.optional import require_program
from tests.postgres import PostgresProcess

SCRIPT = ROOT / "deploy" / "image" / "build.sh"
DOCKERFILE = (ROOT / "deploy" / "image" / "Dockerfile").read_text(encoding="utf-8")
SUITE = "bookworm"
SBIN = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
CHROOT, UNSHARE = (str(shutil.which(program, path=SBIN)) for program in ("chroot", "unshare"))
LONG = pytest.mark.skipif(os.environ.get("TEST_IMAGE") != "1", reason="the long form: `make test-image`")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.M)


def test_every_step_of_the_image_is_one_of_the_script() -> None:
    steps = [shlex.split(command)[2] for command in instructions("RUN")]
    assert steps == ["system", "program", "user"]
    for step in steps:
        assert f"\n{step}() {{" in SCRIPT.read_text(encoding="utf-8")
    subprocess.run(["sh", "-n", str(SCRIPT)], check=True)
    refused = subprocess.run(["sh", str(SCRIPT), "nonsense"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "usage" in refused.stderr) == (2, True)


def test_what_is_copied_is_there_and_not_left_out() -> None:
    copied = {source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == kept[1:] or source.startswith(f"{kept[1:]}/") for kept in ignored if kept[0] == "!"), (
            source
        )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in (*wheel["packages"], *(path.partition("/")[0] for path in wheel["force-include"])):
        assert needed in copied, f"the wheel needs {needed}"


def test_image_runs_as_the_user_of_the_manifests(base: list[Document]) -> None:
    [user] = instructions("USER")
    [number] = re.findall(r"^USER_ID=(\d+)$", SCRIPT.read_text(encoding="utf-8"), re.M)
    assert user == f"{number}:{number}"
    for deployment in (d for d in base if d["kind"] == "Deployment"):
        assert str(deployment["spec"]["template"]["spec"]["securityContext"]["runAsUser"]) == number


# The long form.


def in_root(root: Path, script: str, **environment: str) -> None:
    """Run a script beside a root, in a mount namespace of its own: what it mounts goes with it."""
    command = ["unshare", "--mount", "sh", "-euc", f"root={shlex.quote(str(root))}; {script}"]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def bare_root() -> Path:
    """The root of the base image, made once: it changes with the suite and with the step `system`."""
    text = SCRIPT.read_text(encoding="utf-8")
    of = hashlib.sha256((SUITE + text[: text.index("program() {")]).encode()).hexdigest()[:12]
    kept = TOOLS / f"root-{of}"
    if not (kept / "made").exists():
        shutil.rmtree(kept, ignore_errors=True)
        made = subprocess.run(
            [require_program("debootstrap"), "--variant=minbase", SUITE, str(kept)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stdout[-4000:] + made.stderr
        in_root(
            kept,
            f"{REACH}; mkdir -p $root/source; cp {shlex.quote(str(SCRIPT))} $root/build.sh; chroot $root sh /build.sh system",
        )
        (kept / "made").touch()
    return kept


REACH = "cp /etc/resolv.conf $root/etc/resolv.conf; mount -t proc proc $root/proc; mount --rbind /dev $root/dev"
"""What a container has, too."""

AUTHORITIES = "/etc/build-ca.crt"

INDEX = f"""cp /etc/ssl/certs/ca-certificates.crt $root{AUTHORITIES}
[ ! -e /etc/pip.conf ] || cp /etc/pip.conf $root/etc/pip.conf
for links in ${{PIP_FIND_LINKS:-}}; do
  [ ! -d "$links" ] || {{ mkdir -p "$root$links"; mount --bind "$links" "$root$links"; }}
done"""
"""How packages are had on this machine: its own certificates, index and wheels."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of the image."""
    if os.geteuid() != 0:
        pytest.skip("the long form needs root")
    require_program("debootstrap")
    root = tmp_path_factory.mktemp("image") / "root"
    subprocess.run(["cp", "-a", str(bare_root()), str(root)], check=True)
    [program] = [command for command in instructions("RUN") if " program " in command]
    source = shlex.split(program)[3]
    copied = [line.split() for line in instructions("COPY") if "--from" not in line and source in line]
    for *files, to in copied:
        for file in files:
            place = root / to.lstrip("/") / (file if to.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / file).is_dir():
                shutil.copytree(ROOT / file, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / file, place)
    steps = "; ".join(f"chroot $root {command}" for command in (program, "sh /build.sh user"))
    in_root(root, f"{REACH}\n{INDEX}\n{steps}", PIP_CERT=AUTHORITIES, REQUESTS_CA_BUNDLE=AUTHORITIES)
    return root


def contained(root: Path, command: list[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Start a process in the image as a kubelet does."""
    [path] = re.findall(r"^ENV PATH=(\S+)", DOCKERFILE, re.M)
    own = {"PATH": path, "PYTHONUNBUFFERED": "1", **environment}
    secrets = {
        shlex.quote(str(Path(v).parent)) for v in environment.values() if v.startswith("/") and Path(v).is_file()
    }
    mounts = "".join(f"mkdir -p $root{folder}; mount --bind {folder} $root{folder}; " for folder in secrets)
    script = (
        "mount --bind $root $root; mount -o remount,ro,bind $root; mount -t proc proc $root/proc; mount --rbind /dev $root/dev; "
        "mount -t tmpfs -o mode=1777 tmpfs $root/tmp; "
        f"{mounts}exec {CHROOT} $root setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs "
        "--bounding-set=-all --inh-caps=-all "
        'sh -c \'cd /opt/qingyu && exec "$@"\' sh "$@"'
    )
    wrapped = [UNSHARE, "--mount", "sh", "-euc", f"root={shlex.quote(str(root))}; {script}", "sh", *command]
    return wrapped, own


@pytest.fixture(scope="module")
def deployed(image: Path, base: list[Document], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    postgres = PostgresProcess()
    postgres.start()
    try:
        running = deploy(base, postgres, tmp_path_factory.mktemp("deployed"), functools.partial(contained, image))
        yield running
        running.node.close()
    finally:
        postgres.close()


@LONG
@pytest.mark.timeout(600)
def test_every_process_runs_in_the_image_as_nobody_where_nothing_can_be_written(
    deployed: Deployed, image: Path
) -> None:
    for kind in SECTIONS:
        pod = deployed.processes[kind]
        status = Path(f"/proc/{pod.pid}/status").read_text()
        assert re.findall(r"^Uid:\s+(\d+)\s+(\d+)", status, re.M) == [("10001", "10001")]
        assert re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\w+)", status, re.M) == ["0" * 16] * 3
        assert "NoNewPrivs:\t1" in status
        mounts = Path(f"/proc/{pod.pid}/mounts").read_text().splitlines()
        [root] = [line.split()[3] for line in mounts if line.split()[1] == "/"][-1:]
        assert "ro" in root.split(",")
        assert Path(f"/proc/{pod.pid}/root").resolve() == image.resolve() or os.readlink(f"/proc/{pod.pid}/root") != "/"


@LONG
@pytest.mark.timeout(600)
def test_image_has_the_program_and_no_servers(image: Path) -> None:
    folder = image / "opt" / "qingyu"
    assert (folder / "bin" / "qingyu-ai").exists()
    assert not (folder / "bin" / "nats-server").exists()
    assert list(folder.glob("lib/python3*/site-packages/pgserver")) == []
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
    assert size < 250 * 1024 * 1024
