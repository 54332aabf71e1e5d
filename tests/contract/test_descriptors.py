"""The contract is frozen: the compiled descriptors of its four files never change."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from proto.generate import CONTRACT, PROTO
from qingyu_ai.contract import ai_agent_pb2, common_pb2, rag_pb2, tool_pb2

PINNED = "3da7ac06bb74709a1055025830b0fa72159e83e467bf293e7e22ef8a3bbdab7b"
"""SHA-256 of the descriptor set as it was given: common, ai_agent, rag, tool, with imports, without source info.

There is never a reason to change this line: callers outside this repository are built on it. What is new goes into a
file of its own.
"""

MODULES = {"common": common_pb2, "ai_agent": ai_agent_pb2, "rag": rag_pb2, "tool": tool_pb2}


def test_the_contract_is_the_given_one(tmp_path: Path) -> None:
    assert digest(compiled(PROTO, tmp_path)) == PINNED


def test_another_field_number_is_another_contract(tmp_path: Path) -> None:
    edited = edited_contract(tmp_path, "string task = 2;", "string task = 22;")
    assert digest(compiled(edited, tmp_path)) != PINNED


def test_a_comment_is_not_part_of_the_contract(tmp_path: Path) -> None:
    edited = edited_contract(tmp_path, "string task = 2;", "string task = 2; // in words")
    assert digest(compiled(edited, tmp_path)) == PINNED


@pytest.mark.parametrize("name", CONTRACT)
def test_the_generated_module_has_the_descriptors_of_the_contract(name: str, tmp_path: Path) -> None:
    files = {file.name: file for file in FileDescriptorSet.FromString(compiled(PROTO, tmp_path)).file}
    assert loaded(MODULES[name]) == without_json_names(files[f"{name}.proto"])


def compiled(directory: Path, scratch: Path) -> bytes:
    """Compile the contract in `directory` to a descriptor set, in the pinned order."""
    out = scratch / "contract.binpb"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{directory}"),
            *("--include_imports", f"--descriptor_set_out={out}"),
            *(f"{name}.proto" for name in CONTRACT),
        ],
        check=True,
    )
    return out.read_bytes()


def digest(descriptors: bytes) -> str:
    return hashlib.sha256(descriptors).hexdigest()


def edited_contract(directory: Path, old: str, new: str) -> Path:
    """Copy the contract with one line of ai_agent.proto changed."""
    copy = directory / "edited"
    shutil.copytree(PROTO, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "ai_agent.proto"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return copy


def loaded(module: ModuleType) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(proto)
    return without_json_names(proto)


def without_json_names(file: FileDescriptorProto) -> FileDescriptorProto:
    """Drop what follows from the field names: protoc writes it into descriptor sets and leaves it out of modules."""
    for message in file.message_type:
        for part in (message, *message.nested_type):
            for field in part.field:
                field.ClearField("json_name")
    return file
