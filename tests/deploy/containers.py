"""The containers of the manifests, as a kubelet sees them: command, environment, ports, probes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.manifests import Document

WORKLOADS = ("Deployment", "StatefulSet", "Job")
HASH = re.compile(r"-[a-z0-9]{10}$")
"""What kustomize adds to the name of a ConfigMap or Secret that it makes."""

IMAGE = "qingyu-ai"
"""The name, without registry and tag."""


@dataclass(frozen=True)
class Container:
    """One container of a pod."""

    workload: Document
    described: Document
    first: bool = False
    """Whether it runs to its end before the others."""
    config: Mapping[str, Document] = field(default_factory=dict)
    """The ConfigMaps and Secrets of the same manifests, by kind and name."""

    def __repr__(self) -> str:
        return f"<{self.kind}/{self.described['name']}>"

    @property
    def kind(self) -> str:
        """The name of its workload: `bridge`, `chat`, …"""
        name: str = self.workload["metadata"]["name"]
        return name

    @property
    def pod(self) -> Document:
        """The spec of its pod."""
        spec: Document = self.workload["spec"]["template"]["spec"]
        return spec

    @property
    def ours(self) -> bool:
        """Whether its image is this project's."""
        image: str = self.described["image"]
        return image.rpartition("/")[2].partition(":")[0] == IMAGE

    @property
    def command(self) -> list[str]:
        """What it runs."""
        return [*self.described["command"], *self.described.get("args", ())]

    @property
    def ports(self) -> dict[str, int]:
        """By name."""
        return {port["name"]: port["containerPort"] for port in self.described.get("ports", ())}

    @property
    def mounts(self) -> dict[str, Document]:
        """The volumes that it sees, by where."""
        volumes = {volume["name"]: volume for volume in self.pod.get("volumes", ())}
        return {
            mount["mountPath"]: volumes[mount["name"]]
            for mount in self.described.get("volumeMounts", ())
            if mount["name"] in volumes  # the others are claims
        }

    @property
    def files(self) -> set[str]:
        """The files of Secrets that it sees, as far as its manifest names them."""
        return {
            f"{path}/{item['path']}"
            for path, volume in self.mounts.items()
            for item in volume.get("secret", {}).get("items", ())
        }

    @property
    def secrets(self) -> set[str]:
        """The Secrets that it must have, without what kustomize adds to a name; with the key where it gets only that one file."""
        volumes = [volume["secret"] for volume in self.mounts.values() if "secret" in volume]
        mounted = [secret for secret in volumes if not secret.get("optional")]
        files = {
            f"{secret['secretName']}: {item['key']}" if item else secret["secretName"]
            for secret in mounted
            for item in secret.get("items") or [{}]
        }
        sources = [source["secretRef"] for source in self.described.get("envFrom", ()) if "secretRef" in source]
        variables = [variable.get("valueFrom", {}) for variable in self.described.get("env", ())]
        keys = [source["secretKeyRef"] for source in variables if "secretKeyRef" in source]
        files |= {f"{key['name']}: {key['key']}" for key in keys if not key.get("optional")}
        return files | {HASH.sub("", s["name"]) for s in sources if not s.get("optional")}

    def environment(self, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """What its process finds.

        Args:
            secrets: by name and key, for those that the manifests do not bring.
        """
        found: dict[str, str] = {}
        for source in self.described.get("envFrom", ()):
            ((reference, named),) = source.items()
            name = named["name"]
            if (brought := self.config.get(name)) is not None:
                found |= brought.get("data", {}) if reference == "configMapRef" else _plain(brought)
            elif name in secrets:
                found |= secrets[name]
            elif not named.get("optional"):
                raise AssertionError(f"{self!r} needs {reference} {name}, which nobody brings")
        for variable in self.described.get("env", ()):
            if (key := variable.get("valueFrom", {}).get("secretKeyRef")) is not None:
                held = secrets[key["name"]]
                if key["key"] in held or not key.get("optional"):
                    found[variable["name"]] = held[key["key"]]
            elif variable.get("valueFrom") == {"fieldRef": {"fieldPath": "metadata.name"}}:
                found[variable["name"]] = "$(POD_NAME)"  # as it is in a command
            else:
                found[variable["name"]] = variable["value"]
        return found

    def probe(self, name: str) -> dict[str, Any]:
        """A probe: `startup`, `readiness` or `liveness`; empty: it has none."""
        found: dict[str, Any] = self.described.get(f"{name}Probe", {})
        return found


def _plain(secret: Document) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}


def containers(found: Iterable[Document]) -> Iterator[Container]:
    """All containers, with those that run first."""
    found = list(found)
    config = {d["metadata"]["name"]: d for d in found if d["kind"] in ("ConfigMap", "Secret")}
    for workload in found:
        if workload["kind"] in WORKLOADS:
            pod = workload["spec"]["template"]["spec"]
            for described in pod.get("initContainers", ()):
                yield Container(workload, described, first=True, config=config)
            for described in pod["containers"]:
                yield Container(workload, described, config=config)
