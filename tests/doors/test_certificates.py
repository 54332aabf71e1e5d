"""Files of certificates: what is wrong is said with the setting's name, and a rotation that does not hold changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from qingyu_ai.doors.certificates import Files, Pem, Rotating
from qingyu_ai.settings import SettingsError
from tests.certificates import Folder

YESTERDAY = datetime.now(UTC) - timedelta(days=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Folder:
    return Folder(tmp_path / "tls").trust(authority).show(authority)


def files(folder: Folder) -> Files:
    return Files("QINGYU_NATS", folder.ca, folder.cert, folder.key)


def problem(folder: Folder) -> str:
    with pytest.raises(SettingsError) as raised:
        files(folder).read()
    return str(raised.value)


def test_files_that_hold_are_read(folder: Folder) -> None:
    read = files(folder).read()
    assert (read.ca, read.cert, read.key) == (
        folder.ca.read_bytes(),
        folder.cert.read_bytes(),
        folder.key.read_bytes(),
    )
    assert "PRIVATE" not in repr(read)


def test_expired_certificate_is_named_with_its_setting_and_its_time(folder: Folder, authority: trustme.CA) -> None:
    folder.show(authority, until=YESTERDAY)
    assert problem(folder).startswith(
        f"QINGYU_NATS__CERT_FILE: the certificate in {folder.cert} expired on {YESTERDAY:%Y-%m-%d %H:%M} UTC"
    )


def test_certificate_that_does_not_hold_yet_is_named(folder: Folder, authority: trustme.CA) -> None:
    issued = authority.issue_cert("localhost", not_before=TOMORROW, not_after=TOMORROW + timedelta(days=1))
    folder.put(folder.key, issued.private_key_pem.bytes())
    folder.put(folder.cert, issued.cert_chain_pems[0].bytes())
    assert f"holds only from {TOMORROW:%Y-%m-%d %H:%M} UTC on" in problem(folder)


def test_key_of_another_certificate_is_named_and_not_shown(folder: Folder, authority: trustme.CA) -> None:
    other = authority.issue_cert("localhost").private_key_pem.bytes()
    folder.put(folder.key, other)
    said = problem(folder)
    assert said.startswith(f"QINGYU_NATS__KEY_FILE: {folder.key} is not the key")
    assert other.decode().splitlines()[1] not in said


@pytest.mark.parametrize("name", ["ca", "cert"])
def test_file_that_is_no_certificate_is_named(folder: Folder, name: str) -> None:
    folder.put(getattr(folder, name), b"hello")
    assert problem(folder) == (f"QINGYU_NATS__{name.upper()}_FILE: {getattr(folder, name)} holds no certificate, PEM")


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_file_that_is_missing_is_named(folder: Folder, name: str) -> None:
    path: Path = getattr(folder, name)
    path.unlink()
    assert problem(folder) == f"QINGYU_NATS__{name.upper()}_FILE: {path} cannot be read: No such file or directory"


def test_authority_that_has_a_new_certificate_beside_its_old_one_is_trusted(folder: Folder) -> None:
    folder.trust(trustme.CA(), trustme.CA())
    assert files(folder).read().ca.count(b"BEGIN CERTIFICATE") == 2


def test_rotation_is_seen_once_and_made_once(folder: Folder, authority: trustme.CA) -> None:
    made: list[Pem] = []
    rotating = Rotating(files(folder), lambda pem: made.append(pem) or pem)  # type: ignore[func-returns-value]
    first = rotating.current
    assert rotating.current is first
    folder.show(authority)
    assert rotating.current.cert == folder.cert.read_bytes() != first.cert
    assert rotating.current is rotating.current
    assert (len(made), rotating.rotations) == (2, 1)


def test_new_files_that_do_not_hold_leave_the_old_ones_in_use(folder: Folder, authority: trustme.CA) -> None:
    rotating = Rotating(files(folder), lambda pem: pem)
    first = rotating.current
    folder.put(folder.cert, b"half of a certif")
    assert rotating.current is first
    folder.show(authority, until=YESTERDAY)
    assert rotating.current is first
    folder.show(authority)
    assert rotating.current.cert == folder.cert.read_bytes()
    folder.key.unlink()
    assert rotating.current.cert == folder.cert.read_bytes()
    assert rotating.rotations == 1
