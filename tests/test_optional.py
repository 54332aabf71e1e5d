from pathlib import Path

import pytest

from tests import optional


@pytest.fixture(autouse=True)
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(optional, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def put_tool(path: Path) -> str:
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    return str(path)


def test_a_missing_tool_skips_the_test_on_a_laptop() -> None:
    with pytest.raises(pytest.skip.Exception, match="hammer is not installed: run `make system`"):
        optional.require_tool("hammer")


def test_a_missing_tool_fails_the_test_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="hammer is not installed"):
        optional.require_tool("hammer")


@pytest.mark.parametrize("directory", ["bin", "tools/bin"])
def test_a_tool_is_found_on_path_and_in_the_repository(no_tools: Path, directory: str) -> None:
    path = put_tool(no_tools / directory / "hammer")
    assert optional.require_tool("hammer") == path


@pytest.mark.parametrize("ci", ["true", ""])
def test_a_peer_that_nobody_names_skips_the_test_everywhere(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("HAMMER_SERVER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="HAMMER_SERVER names no command"):
        optional.require_peer("HAMMER_SERVER")


def test_a_peer_is_a_command_with_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAMMER_SERVER", "'/opt/my tools/hammer' --hard")
    assert optional.require_peer("HAMMER_SERVER") == ["/opt/my tools/hammer", "--hard"]


def test_a_missing_package_skips_the_module_on_a_laptop_and_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    optional.require_package("json")
    with pytest.raises(pytest.skip.Exception, match="the package no_such_package is not installed: run"):
        optional.require_package("no_such_package")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no_such_package is not installed"):
        optional.require_package("no_such_package")
