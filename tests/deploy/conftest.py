"""Fixtures about manifests."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from deploy.manifests import K8S, TOOLS, Document, documents, rendered
from tests.optional import require_tool


@pytest.fixture(scope="session")
def _kustomize() -> None:
    require_tool("kustomize")


@functools.cache
def _rendered(folder: Path) -> list[Document]:
    return documents(rendered(folder))


@pytest.fixture(scope="session")
def base(_kustomize: None) -> list[Document]:
    """The objects of the base."""
    return _rendered(K8S / "base")


@pytest.fixture(scope="session")
def prod(_kustomize: None) -> list[Document]:
    """The objects of a deployment."""
    return _rendered(K8S / "overlays" / "prod")


@pytest.fixture(scope="session", params=["base", "overlays/dev", "overlays/prod"])
def applied(request: pytest.FixtureRequest, _kustomize: None) -> list[Document]:
    """The objects of everything that is meant to be applied."""
    return _rendered(K8S / request.param)


@pytest.fixture
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder without settings, and without any in the environment."""
    for name in list(os.environ):
        if name.startswith("QINGYU_") or name == "NATS_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def schemas() -> Path:
    """The folder of schemas; without it skip the test, or fail it under CI=true."""
    require_tool("kubeconform")
    return TOOLS / "schemas"
