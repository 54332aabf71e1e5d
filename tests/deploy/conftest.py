"""Fixtures about manifests."""

from __future__ import annotations

import functools
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


@pytest.fixture(scope="session")
def schemas() -> Path:
    """The folder of schemas; without it skip the test, or fail it under CI=true."""
    require_tool("kubeconform")
    return TOOLS / "schemas"
