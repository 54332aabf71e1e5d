"""Make `qingyu_ai/contract` and `clients/go/gen` from the .proto files beside this program.

python -m proto.generate            writes the code
python -m proto.generate --check    writes nothing; exit 1, naming the files, when the committed code is not what the
                                    .proto files say

The output depends on the .proto files and on the versions of the compilers only: protoc and every plugin run in an
empty directory, so that no setting of this machine or of a parent directory reaches them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"

CONTRACT = ("common", "ai_agent", "rag", "tool")
"""The frozen files, in the order in which their descriptor set is pinned (tests/contract/test_descriptors.py)."""

OWN = ("bus", "control", "events")
"""The project's additions."""

SERVICES = ("ai_agent", "rag", "tool", "control")
"""The files that declare services: only they get gRPC stubs."""

PYTHON = Path("qingyu_ai/contract")
STUBS = PYTHON / "stubs"
MESSAGES = PYTHON / "messages"
GO = Path("clients/go/gen")

GO_MODULE = "qingyu.ai/clients/go/gen"
GO_PACKAGES = {"common": "common", "ai_agent": "agent", "rag": "rag", "tool": "tool", "control": "control"}
"""The frozen `go_package` options name directories of the Go backend, which this module cannot be: M options map them."""

GO_PLUGINS = {
    "protoc-gen-go": ("google.golang.org/protobuf/cmd/protoc-gen-go", "v1.36.11"),
    "protoc-gen-go-grpc": ("google.golang.org/grpc/cmd/protoc-gen-go-grpc", "v1.6.2"),
}
"""Executable, Go package, version. Both write their version into what they make, so another version is a drift."""

COMPILERS = ("grpcio-tools", "mypy-protobuf", "betterproto2-compiler", "ruff")
"""The distributions whose version shows in the Python output; betterproto2's compiler formats with ruff."""

Files = Mapping[Path, bytes]
"""Path relative to the repository, content."""


def main(argv: list[str] | None = None) -> int:
    """Run the program, return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m proto.generate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the committed code differs")
    check: bool = parser.parse_args(argv).check

    trees = [PYTHON]
    files = dict(generate_python())
    reason = why_no_go()
    if reason:
        say(f"left {GO} out: {reason}")
    else:
        trees.append(GO)
        files.update(generate_go())

    committed = read(trees)
    if check:
        return report(drift(committed, files))
    for gone in committed.keys() - files.keys():
        (ROOT / gone).unlink()
    for path, content in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(content)
    say(f"wrote {len(files)} files under {', '.join(map(str, trees))}")
    return 0


def generate_python() -> Files:
    """Run the three Python generators: protobuf with types, gRPC stubs with types, betterproto2."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        for part in (PYTHON, STUBS, MESSAGES):
            (out / part).mkdir(parents=True)
        # betterproto2's compiler pipes its output through ruff, which obeys the nearest settings it finds.
        (out / "ruff.toml").write_text('line-length = 120\ntarget-version = "py311"\n')
        protoc(out, (*CONTRACT, *OWN), f"--python_out={PYTHON}", f"--mypy_out=quiet:{PYTHON}")
        protoc(out, SERVICES, f"--grpc_python_out={STUBS}", f"--mypy_grpc_out=quiet:{STUBS}")
        protoc(
            out,
            (*CONTRACT, *OWN),
            f"--python_betterproto2_out={MESSAGES}",
            # Messages only: its async server would bring a second gRPC implementation.
            "--python_betterproto2_opt=pydantic_dataclasses,client_generation=none,server_generation=none",
        )
        for path in (out / PYTHON).glob("*_pb2.py*"):
            rewrite(path, package=".")
        for path in (out / STUBS).glob("*_pb2_grpc.py*"):
            rewrite(path, package="..")
        for path in (out / MESSAGES).rglob("*.py"):
            rewrite_messages(path)
        return read([PYTHON], root=out)


def generate_go() -> Files:
    """Run the two Go generators."""
    mapped = [f"M{name}.proto={GO_MODULE}/{package}" for name, package in GO_PACKAGES.items()]
    options = [
        f"--{plugin}_opt={option}" for plugin in ("go", "go-grpc") for option in (f"module={GO_MODULE}", *mapped)
    ]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        (out / GO).mkdir(parents=True)
        protoc(out, GO_PACKAGES, f"--go_out={GO}", f"--go-grpc_out={GO}", *options)
        return read([GO], root=out)


def why_no_go() -> str | None:
    """Return why the Go code cannot be made here, or None if it can."""
    for name, (package, pinned) in GO_PLUGINS.items():
        install = f"run `go install {package}@{pinned}`"
        path = shutil.which(name, path=search_path())
        if path is None:
            return f"{name} is not on PATH; {install}"
        # "protoc-gen-go v1.36.11", but "protoc-gen-go-grpc 1.6.2"
        found = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        if found.removeprefix("v") != pinned.removeprefix("v"):
            return f"{name} is {found}, the committed code was made by {pinned}; {install}"
    return None


def protoc(directory: Path, names: Iterable[str], *options: str) -> None:
    """Compile the named files in `directory`, to which the output options are relative."""
    run = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *options, *(f"{name}.proto" for name in names)],
        cwd=directory,
        env=os.environ | {"PATH": search_path()},
        stderr=subprocess.PIPE,  # the plugins are talkative, also when all is well
        text=True,
        check=False,
    )
    if run.returncode:
        sys.stderr.write(run.stderr)
        sys.exit(run.returncode)


def search_path() -> str:
    """Return where the plugins may be: beside this Python (no virtual environment need be active), in tools/bin, on PATH."""
    return os.pathsep.join([sysconfig.get_path("scripts"), str(ROOT / "tools/bin"), os.environ.get("PATH", os.defpath)])


def rewrite(path: Path, package: str) -> None:
    """Make the generated module work inside a package.

    protoc believes that every output directory is on `sys.path`: it writes `import common_pb2`, and gives the classes
    a `__module__` that does not exist, so that they could not be pickled.
    """
    text = path.read_text()
    text = re.sub(r"^import (\w+_pb2) as ", rf"from {package} import \1 as ", text, flags=re.MULTILINE)
    module = ".".join(PYTHON.parts)
    text = re.sub(r"(BuildTopDescriptorsAndMessages\(DESCRIPTOR, ')(\w+_pb2')", rf"\1{module}.\2", text)
    path.write_text(text)


def rewrite_messages(path: Path) -> None:
    """Repair what betterproto2's compiler (0.10) writes.

    The check of a oneof is a classmethod: since pydantic 2.12 a warning at import, in pydantic 3 an error. And it leaves
    two calls untyped, which whoever imports the module would hear about from `mypy --strict`.
    """
    old = "def check_oneof(cls, values):\n        return cls._validate_field_groups(values)"
    new = "def check_oneof(self):\n        return self._validate_field_groups(self)"
    text = path.read_text().replace(old, new)
    path.write_text(f"# mypy: ignore-errors\n{text}" if text else "")


def read(trees: Iterable[Path], root: Path = ROOT) -> Files:
    """Read the generated files below the trees: all but caches and the two docstrings that are written by hand."""
    by_hand = {PYTHON / "__init__.py", STUBS / "__init__.py"}
    found = (path for tree in trees for path in (root / tree).rglob("*") if path.is_file())
    paths = {path: path.relative_to(root) for path in found if "__pycache__" not in path.parts}
    return {relative: path.read_bytes() for path, relative in sorted(paths.items()) if relative not in by_hand}


def drift(committed: Files, generated: Files) -> list[str]:
    """Name the files that differ, each with what is wrong with it."""
    names = dict.fromkeys(committed.keys() - generated.keys(), "is not generated any more")
    names |= dict.fromkeys(generated.keys() - committed.keys(), "is missing")
    names |= {path: "differs" for path in committed.keys() & generated.keys() if committed[path] != generated[path]}
    return [f"{path} {what}" for path, what in sorted(names.items())]


def report(differences: list[str]) -> int:
    """Print the differences and what to do about them; return the exit code."""
    if not differences:
        return 0
    for line in differences:
        say(line)
    installed = ", ".join(f"{name} {version(name)}" for name in COMPILERS)
    say(f"run `python -m proto.generate`; if nobody touched a .proto file, compare the compilers here ({installed})")
    say("with those pinned in requirements/dev.txt")
    return 1


def say(line: str) -> None:
    """Print a line for a person."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
