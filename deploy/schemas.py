"""`python -m deploy.schemas FOLDER`: put JSON schemas into a folder, of Kubernetes' objects and others that the manifests use.

`make system` runs it, with nothing but the standard library. The schemas come out of packages of PyPI: those of Kubernetes as
they are, those of KEDA and the Prometheus operator out of models that were generated from their definitions. They are strict: a
field that nobody knows is an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

KUBERNETES = "kubernetes-validate==1.37.0"
RELEASE = "1.34.0"
"""Of Kubernetes, that the manifests are checked against."""

KINDS = (
    ("v1", "ConfigMap"),
    ("v1", "Namespace"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
)

MODELS = ("cloudcoil-models-keda==2.16.1.0", "cloudcoil-models-prometheus-operator==0.80.1.0")
MODELLED = (
    ("keda.sh/v1alpha1", "ScaledObject", "cloudcoil.models.keda.v1alpha1"),
    ("monitoring.coreos.com/v1", "PodMonitor", "cloudcoil.models.prometheus_operator.v1"),
    ("monitoring.coreos.com/v1", "PrometheusRule", "cloudcoil.models.prometheus_operator.v1"),
)

DESCRIBE = """
import importlib, json, sys
module, kind = sys.argv[1:]
print(json.dumps(getattr(importlib.import_module(module), kind).model_json_schema()))
"""


def name(api_version: str, kind: str) -> str:
    """The file of a kind, as kubeconform looks for it: `deployment-apps-v1.json`."""
    *group, version = api_version.split("/")
    return "-".join([kind.lower(), *(g.partition(".")[0] for g in group), version]) + ".json"


def write(folder: Path) -> None:
    """Get the packages and write the schemas.

    Raises:
        subprocess.CalledProcessError: a package cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        packages = Path(temporary)
        _pip("download", "--no-deps", "--dest", str(packages), KUBERNETES)
        with zipfile.ZipFile(next(packages.glob("*.whl"))) as wheel:
            file = f"kubernetes_validate/kubernetes-json-schema/v{RELEASE}-local-strict/_definitions.json"
            definitions = json.loads(wheel.read(file))["$defs"]
        for api_version, kind in KINDS:
            (folder / name(api_version, kind)).write_text(json.dumps(_of(definitions, api_version, kind)))
        _pip(
            "install", "--no-warn-conflicts", "--root-user-action=ignore", "--target", str(packages / "models"), *MODELS
        )
        for api_version, kind, module in MODELLED:
            described = subprocess.run(
                [sys.executable, "-c", DESCRIBE, module, kind],
                check=True, capture_output=True, env={"PYTHONPATH": str(packages / "models")},
            )  # fmt: skip
            (folder / name(api_version, kind)).write_text(json.dumps(_strict(json.loads(described.stdout))))


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def _of(definitions: dict[str, Any], api_version: str, kind: str) -> dict[str, Any]:
    """One kind with all that it is made of, and nothing else."""
    group, _, version = api_version.rpartition("/")
    wanted = {"group": group, "kind": kind, "version": version}
    [root] = [n for n, d in definitions.items() if wanted in d.get("x-kubernetes-group-version-kind", ())]
    needed: dict[str, Any] = {}
    left = [root]
    while left:
        one = left.pop()
        if one not in needed:
            needed[one] = _local(definitions[one], left)
    return {"$ref": f"#/$defs/{root}", "$defs": needed}


def _local(schema: Any, found: list[str]) -> Any:
    """Point references into the same file, leave out what is only to be read, and note what is referred to."""
    if isinstance(schema, list):
        return [_local(one, found) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "$ref":
            found.append(value.rpartition("/")[2])
            kept[key] = f"#/$defs/{found[-1]}"
        elif key != "description" or not isinstance(value, str):  # a field may be called description
            kept[key] = _local(value, found)
    return kept


def _strict(schema: Any) -> Any:
    """Let no object have fields that it does not name."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if strict.get("type") == "object" and isinstance(strict.get("properties"), dict):
        strict.setdefault("additionalProperties", False)
    return strict


if __name__ == "__main__":
    write(Path(sys.argv[1]))
