"""docs/security-nats.md: its blocks are what a server takes, its settings and users are those that there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import trustme

from qingyu_ai.cli import nats_server
from qingyu_ai.doors.roles import NAMES
from qingyu_ai.settings import Settings
from tests.certificates import Folder
from tests.nats_guarded import GuardedNats

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security-nats.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.+?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_server_takes_the_files_as_the_page_has_them(tmp_path: Path) -> None:
    [including] = [block for block in BLOCKS if block.startswith("include")]
    [tls] = [block for block in BLOCKS if "cert_file" in block]
    authority = trustme.CA()
    own = Folder(tmp_path).trust(authority).show(authority)
    for named, real in (("ca.crt", own.ca), ("tls.crt", own.cert), ("tls.key", own.key)):
        tls = tls.replace(f"/etc/qingyu/nats/{named}", str(real))
    guarded = GuardedNats(streams=False)
    (tmp_path / "nats.conf").write_text(nats_server.shipped("nats.conf").read_text(encoding="utf-8"))
    written = subprocess.run(
        [sys.executable, "-m", "qingyu_ai.cli", "nats-permissions"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    (tmp_path / "permissions.conf").write_text(written)
    whole = tmp_path / "whole.conf"
    whole.write_text(f"{including}{tls}")
    check = [str(nats_server.binary()), "-c", str(whole), "-t"]
    taken = subprocess.run(check, capture_output=True, text=True, env={**os.environ, **guarded.settings}, check=False)
    guarded.close()
    assert taken.returncode == 0, taken.stderr
    refused = subprocess.run(check, capture_output=True, text=True, check=False)
    assert "QINGYU_NATS__PASSWORDS__BRIDGE" in refused.stderr


def test_each_user_is_in_the_table() -> None:
    table = PAGE[PAGE.index("| user |") : PAGE.index("The proxy is not there")]
    first = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)[1:]
    assert [name for cell in first for name in re.findall(r"`(\w+)`", cell)] == list(NAMES)


def test_settings_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"QINGYU_[A-Z_]+[A-Z]", PAGE))
    assert len(named) > 10
    for name in named:
        model: object = Settings
        for part in name.removeprefix("QINGYU_").lower().split("__"):
            fields = getattr(model, "model_fields", {})
            assert part in fields, name
            model = fields[part].annotation


def test_places_in_the_code_are_there() -> None:
    for path in set(re.findall(r"(?<![\w.])((?:qingyu_ai|tests)/[\w/]+\.py)", PAGE)):
        assert (ROOT / path).is_file(), path
