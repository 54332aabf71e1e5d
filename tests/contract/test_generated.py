"""The committed code is what the .proto files say, and it can be imported as it lies there."""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from proto import generate
from qingyu_ai.contract import ai_agent_pb2
from tests.optional import require_tool

A, B, C = Path("a_pb2.py"), Path("b_pb2.py"), Path("c_pb2.py")


def test_every_proto_file_is_generated() -> None:
    assert {path.stem for path in generate.PROTO.glob("*.proto")} == {*generate.CONTRACT, *generate.OWN}


def test_the_python_code_is_what_the_proto_files_say() -> None:
    assert generate.drift(generate.read([generate.PYTHON]), generate.generate_python()) == []


def test_the_go_code_is_what_the_proto_files_say() -> None:
    for plugin in generate.GO_PLUGINS:
        require_tool(plugin)
    assert generate.why_no_go() is None
    assert generate.drift(generate.read([generate.GO]), generate.generate_go()) == []


def test_a_drift_names_the_files_and_what_is_wrong_with_them() -> None:
    assert generate.drift({A: b"1", B: b"1"}, {B: b"2", C: b"1"}) == [
        "a_pb2.py is not generated any more",
        "b_pb2.py differs",
        "c_pb2.py is missing",
    ]


def test_a_check_that_finds_a_drift_fails_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = generate.read([generate.PYTHON])
    monkeypatch.setattr(generate, "generate_python", lambda: {**before, generate.PYTHON / "bus_pb2.py": b""})
    monkeypatch.setattr(generate, "why_no_go", lambda: "this test is about Python")
    assert generate.main(["--check"]) == 1
    assert "qingyu_ai/contract/bus_pb2.py differs" in capsys.readouterr().out.splitlines()
    assert generate.read([generate.PYTHON]) == before


def test_the_generated_code_tells_nothing_of_the_machine_that_made_it() -> None:
    files = generate.read([generate.PYTHON, generate.GO])
    places = [f"{place}/".encode() for place in (generate.ROOT, tempfile.gettempdir())]
    assert [path for path, content in files.items() if any(place in content for place in places)] == []


def test_a_message_says_where_it_lives_and_can_be_pickled() -> None:
    request = ai_agent_pb2.AgentRequest(task="写一章")
    assert type(request).__module__ == ai_agent_pb2.__name__
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize("family", ["", "messages.qingyu.ai."])
def test_messages_need_no_grpc(family: str) -> None:
    names = ("bus_pb2", "tool_pb2") if not family else ("bus.v1", "tool")
    imports = "".join(f"import qingyu_ai.contract.{family}{name}\n" for name in names)
    run(f"{imports}import sys\nassert 'grpc' not in sys.modules")


@pytest.mark.parametrize("service", generate.SERVICES)
def test_stubs_are_imported_without_a_warning(service: str) -> None:
    run(f"import qingyu_ai.contract.stubs.{service}_pb2_grpc")


def run(code: str) -> None:
    """Run the code in a process of its own: what another test has imported does not count."""
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=generate.ROOT, check=True)
