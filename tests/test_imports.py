"""Imports run one way: qingyu_ai ← bridge, qingyu_ai ← services; contract is a leaf, routes sits on it, bus on both."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "qingyu_ai": ("bridge", "services", "bench", "examples", "tests", "proto"),
    "bridge": ("services", "bench", "examples", "tests", "proto"),
    "services": ("bridge", "bench", "examples", "tests", "proto"),
    "services/text": ("qingyu_ai", "services.chat", "services.llm", "services.tool", "asyncio"),
    "services/tool": ("services.chat", "services.llm.offline"),
    "services/rag": ("services.chat", "services.agent", "services.tool"),
    "services/proxy": (
        "services.agent",
        "services.chat",
        "services.llm",
        "services.text",
        "services.tool",
        "qingyu_ai.bus.transport",
        "qingyu_ai.bus.connection",
    ),
    "qingyu_ai/contract": (
        "qingyu_ai.routes",
        "qingyu_ai.bus",
        "qingyu_ai.settings",
        "qingyu_ai.cli",
        "nats",
        "structlog",
    ),
    "qingyu_ai/routes.py": ("qingyu_ai.bus", "qingyu_ai.settings", "qingyu_ai.cli", "nats"),
    "qingyu_ai/events": ("qingyu_ai.cli", "qingyu_ai.process", "qingyu_ai.telemetry", "prometheus_client"),
    "qingyu_ai/doors": ("qingyu_ai.bus", "qingyu_ai.cli", "qingyu_ai.process", "qingyu_ai.telemetry", "nats", "grpc"),
    "qingyu_ai/bus": (
        "qingyu_ai.events",
        "qingyu_ai.identity",
        "qingyu_ai.cli",
        "qingyu_ai.process",
        "qingyu_ai.telemetry",
        "qingyu_ai.tracing.recording",
        "qingyu_ai.tracing.starting",
        "prometheus_client",
    ),
    "qingyu_ai/tracing/__init__.py": (
        "qingyu_ai.settings",
        "qingyu_ai.bus.transport",
        "prometheus_client",
        "opentelemetry",
    ),
    "qingyu_ai/cli": ("qingyu_ai.bus",),
    "qingyu_ai/identity": (
        "qingyu_ai.bus",
        "qingyu_ai.routes",
        "qingyu_ai.contract",
        "qingyu_ai.cli",
        "qingyu_ai.process",
    ),
}
"""What the modules of a folder must not import."""

MAY_IMPORT_GRPC = ("bridge", "services/proxy", "qingyu_ai/contract/stubs", "examples", "bench", "tests")

MAY_IMPORT_PSYCOPG = ("services/rag", "tests", "bench")

MAY_IMPORT_OPENTELEMETRY = ("qingyu_ai/tracing/recording.py", "tests")
"""What imports it imports it for every process, traces on or off."""

MAY_IMPORT_NATS = ("qingyu_ai/bus", "qingyu_ai/cli/probe.py", "tests", "bench")

PURE = (
    "subjects",
    "headers",
    "deadline",
    "errors",
    "fault",
    "transport_errors",
    "in_chinese",
    "fold",
    "record",
    "chunks",
)
"""Modules of the bus without I/O."""


def modules(under: str) -> Iterator[Path]:
    path = ROOT / under
    yield from [path] if path.is_file() else path.rglob("*.py")


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, also inside functions."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, node.module] if node.module else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrow_points_the_right_way(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(folder)
        for name in imports(path)
        for prefix in FORBIDDEN[folder]
        if is_under(name, prefix)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("grpc", MAY_IMPORT_GRPC),
        ("nats", MAY_IMPORT_NATS),
        ("psycopg", MAY_IMPORT_PSYCOPG),
        ("opentelemetry", MAY_IMPORT_OPENTELEMETRY),
    ],
    ids=["grpc", "nats", "psycopg", "opentelemetry"],
)
def test_library_stays_in_its_rooms(library: str, allowed: tuple[str, ...]) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder in ("qingyu_ai", "bridge", "services", "examples", "bench")
        for path in modules(folder)
        for name in imports(path)
        if is_under(name, library) and not any(str(path.relative_to(ROOT)).startswith(room) for room in allowed)
    ]
    assert not wrong


@pytest.mark.parametrize("module", PURE)
def test_pure_part_of_the_bus_does_no_io(module: str) -> None:
    wrong = [
        n
        for n in imports(ROOT / "qingyu_ai/bus" / f"{module}.py")
        if n.split(".")[0] in ("asyncio", "nats", "structlog")
    ]
    assert not wrong


def test_walk_sees_relative_imports_and_imports_inside_functions(tmp_path: Path) -> None:
    names = set(imports(ROOT / "qingyu_ai/bus/worker.py"))
    assert {"qingyu_ai.contract.bus_pb2", "qingyu_ai.bus.subjects", "asyncio"} <= names
    assert "grpc" in set(imports(ROOT / "bridge/handlers.py"))
