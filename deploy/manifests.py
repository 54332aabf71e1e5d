"""The manifests as kustomize renders them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "deploy" / "k8s"
TOOLS = ROOT / "tools"

Document = dict[str, Any]

COMPONENTS = tuple(sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml")))
OVERLAYS = tuple(sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml")))


class RenderError(Exception):
    """kustomize does not render this. The message is its own."""


def tool(name: str) -> str | None:
    """Where a tool of `make system` is."""
    return shutil.which(name, path=TOOLS / "bin") or shutil.which(name)


def rendered(folder: Path) -> str:
    """Render a kustomization.

    Raises:
        RenderError: it cannot be rendered.
    """
    kustomize = tool("kustomize")
    assert kustomize is not None, "kustomize is not installed: run `make system`"
    done = subprocess.run([kustomize, "build", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RenderError(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def with_components(base: Path, components: Iterable[str]) -> str:
    """Render a kustomization with components on top.

    Raises:
        RenderError: it cannot be rendered.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        described = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(base, folder)],
            "components": [os.path.relpath(K8S / "components" / name, folder) for name in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(described))
        return rendered(folder)


def documents(text: str) -> list[Document]:
    """The objects of a rendered kustomization."""
    return [document for document in yaml.safe_load_all(text) if document]


def targets() -> dict[str, str]:
    """Everything that can be applied, by name: the base, each overlay, and the base with each component.

    Raises:
        RenderError: one of them cannot be rendered.
    """
    found = {"base": rendered(K8S / "base")}
    found |= {f"overlays/{name}": rendered(K8S / "overlays" / name) for name in OVERLAYS}
    found |= {f"base with components/{name}": with_components(K8S / "base", [name]) for name in COMPONENTS}
    return found


def of_kind(found: Iterable[Document], kind: str) -> list[Document]:
    """All objects of a kind."""
    return [document for document in found if document["kind"] == kind]
