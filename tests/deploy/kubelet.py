"""Runs what the manifests describe, on loopback and free ports: each container by its command line, probed as its manifest says.

What a cluster's network would do is done to the texts: `nats-0.nats:4222`, `bridge:50051` and `0.0.0.0` become addresses of this
machine, and each process is told another port than the one that everybody has in a pod of their own. Folders that are mounted
become folders of a temporary one. Nothing else is changed.
"""

from __future__ import annotations

import functools
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from deploy.manifests import ROOT, Document
from qingyu_ai.cli import nats_server
from qingyu_ai.settings import env_name
from tests.deploy.containers import HASH, Container, containers
from tests.ports import free_port
from tests.waiting import EVERY_SECONDS

LOOPBACK = "127.0.0.1"
START_SECONDS = 60.0
SECTIONS = ("bridge", "chat", "agent", "rag", "tool", "proxy")

Launch = Callable[[list[str], Mapping[str, str]], tuple[list[str], dict[str, str]]]
"""How a process of this project is started: its command line and its environment, from those of its container."""


def on_this_machine(command: list[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """By this interpreter, from the source tree."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("QINGYU_") and k != "NATS_URL"}
    return [sys.executable, *command[1:]], {**inherited, "PYTHONPATH": str(ROOT), **environment}


class Pod:
    """One container that runs."""

    def __init__(self, node: Node, container: Container, index: int) -> None:
        self._node = node
        self.container = container
        self.name = f"{container.kind}-{index}"
        self.index = index
        self.ports = {number: node.port(self.name, number) for number in container.ports.values()}
        self.log = node.folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        command = [self.localized(part) for part in self.container.command]
        environment = {k: self.localized(v) for k, v in self.container.environment(self._node.secrets).items()}
        if self.container.ours:
            environment |= self._own_ports()
            command, environment = self._node.launch(command, environment)
        else:
            environment["PATH"] = f"{self._node.programs}{os.pathsep}{os.environ['PATH']}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=self._node.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _own_ports(self) -> dict[str, str]:
        kind = self.container.kind
        if kind not in SECTIONS:
            return {}
        names = {"metrics": "metrics_port", "grpc": "port", "http": "port"}
        return {env_name((kind, names[name])): str(self.ports[number]) for name, number in self.container.ports.items()}

    def localized(self, text: str) -> str:
        """A text of its manifest, as it is on this machine."""
        text = text.replace("$(POD_NAME)", self.name).replace("dns:///bridge:50051", f"ipv4:{self._node.bridges}")
        text = re.sub(r"(nats-\d)\.nats:(\d+)", lambda m: f"{LOOPBACK}:{self._node.port(m[1], int(m[2]))}", text)
        text = re.sub(r"0\.0\.0\.0:(\d+)", lambda m: f"{LOOPBACK}:{self.ports[int(m[1])]}", text)
        text = re.sub(r"(?<=port=)(\d+)$", lambda m: str(self.ports[int(m[1])]), text)
        text = text.replace("0.0.0.0", LOOPBACK)
        for mount in sorted(self.container.described.get("volumeMounts", ()), key=lambda m: -len(m["mountPath"])):
            if not self.container.ours or mount["mountPath"].startswith("/etc/"):
                text = text.replace(mount["mountPath"], str(self._node.mounted(self, mount)))
        return text

    # What a kubelet does.

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def passes(self, name: str) -> bool:
        """Whether it passes a probe: `startup`, `readiness` or `liveness`."""
        probe = self.container.probe(name)
        if "grpc" in probe:
            return self._serves(probe["grpc"]["port"], probe["grpc"].get("service", ""))
        return self.get(probe["httpGet"]["port"], probe["httpGet"]["path"])[0] == 200

    def get(self, port: str | int, path: str) -> tuple[int, str]:
        """Ask one of its ports; status 0: it does not answer."""
        number = self.container.ports[port] if isinstance(port, str) else port
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{LOOPBACK}:{self.ports[number]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""

    def _serves(self, port: int, service: str) -> bool:
        with grpc.insecure_channel(f"{LOOPBACK}:{self.ports[port]}") as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                health_pb2.HealthCheckRequest.SerializeToString,
                health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = check(health_pb2.HealthCheckRequest(service=service), timeout=2)
            except grpc.RpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def before_stop(self) -> int:
        """Run its preStop command.

        Returns:
            The exit status.
        """
        return self.execute(self.container.described["lifecycle"]["preStop"]["exec"]["command"])

    def execute(self, command: list[str]) -> int:
        """Run a command in a server's container.

        Returns:
            The exit status.
        """
        localized = [self.localized(part) for part in command]
        path = f"{self._node.programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(localized, env={**os.environ, "PATH": path}, check=False).returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout: float = START_SECONDS) -> int:
        """Wait for its end.

        Returns:
            The exit status.
        """
        assert self._process is not None
        return self._process.wait(timeout)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Node:
    """A machine that has everything of a kustomization.

    Args:
        found: its objects.
        secrets: those that it does not bring, by name and key.
        folder: for what is mounted, and for logs.
        launch: how processes of this project are started.
    """

    def __init__(
        self,
        found: Iterable[Document],
        secrets: Mapping[str, Mapping[str, str]],
        folder: Path,
        launch: Launch = on_this_machine,
    ) -> None:
        found = list(found)
        self.secrets = secrets
        self.folder = folder
        self.launch = launch
        self.pods: list[Pod] = []
        self._containers = list(containers(found))
        self._config = {HASH.sub("", d["metadata"]["name"]): d for d in found if d["kind"] == "ConfigMap"}
        self._ports: dict[tuple[str, int], int] = {}

    @functools.cached_property
    def programs(self) -> Path:
        """What the image of NATS has, and a `sleep` for who waits for a minute."""
        folder = self.folder / "programs"
        folder.mkdir()
        (folder / "nats-server").symlink_to(nats_server.binary())
        (folder / "sleep").write_text('#!/bin/sh\ntouch "$0.began"; exec /bin/sleep 0.1\n', encoding="utf-8")
        (folder / "sleep").chmod(0o755)
        return folder

    def port(self, pod: str, number: int) -> int:
        """The port of this machine for a port of a pod."""
        if (pod, number) not in self._ports:
            self._ports[pod, number] = free_port()
        return self._ports[pod, number]

    @property
    def bridges(self) -> str:
        """The addresses of the bridges."""
        return f"{LOOPBACK}:{self.port('bridge-0', 50051)}"

    def mounted(self, pod: Pod, mount: Mapping[str, str]) -> Path:
        """The folder of this machine for a volume of a pod."""
        path = self.folder / pod.name / mount["name"]
        if not path.exists():
            path.mkdir(parents=True)
            [volume] = [v for v in pod.container.pod["volumes"] if v["name"] == mount["name"]] or [{}]
            if "configMap" in volume:
                for name, text in self._config[HASH.sub("", volume["configMap"]["name"])]["data"].items():
                    (path / name).write_text(pod.localized(text), encoding="utf-8")
            if "secret" in volume:
                kept = {item["key"] for item in volume["secret"].get("items", ())}
                held = self.secrets.get(volume["secret"]["secretName"])
                assert held is not None or volume["secret"].get("optional"), f"{pod.name}: {volume}"
                for name, text in (held or {}).items():
                    if name in kept or not kept:
                        (path / name).write_text(text, encoding="utf-8")
        return path

    def container(self, kind: str, name: str = "") -> Container:
        """A container by its workload, and by its name where there are several."""
        named = [c for c in self._containers if c.kind == kind and c.described["name"] == name]
        [found] = named or [c for c in self._containers if c.kind == kind and not c.first and not name]
        return found

    def start(self, kind: str, index: int = 0, name: str = "") -> Pod:
        """Start one container of a kind."""
        pod = Pod(self, self.container(kind, name), index)
        self.pods.append(pod)
        pod.start()
        return pod

    def wait_for(self, pod: Pod, *probes: str) -> None:
        """Wait until it passes probes.

        Raises:
            AssertionError: it does not, or it has ended. The message has the end of its log.
        """
        end = time.monotonic() + START_SECONDS
        while missing := [probe for probe in probes if not pod.passes(probe)]:
            if not pod.alive or time.monotonic() > end:
                state = "waits" if pod.alive else f"ended with {pod.wait()}"
                raise AssertionError(f"{pod.name} {state}, without {missing}:\n{pod.log.read_text()[-4000:]}")
            time.sleep(EVERY_SECONDS)

    @property
    def lost_a_port(self) -> bool:
        """Whether a process found its port taken."""
        return any(
            word in pod.log.read_text().lower()
            for pod in self.pods
            for word in ("address already in use", "address_taken")
        )

    def close(self) -> None:
        """End everything."""
        for pod in reversed(self.pods):
            pod.kill()
