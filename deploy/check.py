"""`python -m deploy.check`: whether the manifests hold, as far as that can be said without a cluster.

- deploy/k8s/base/nats.conf is nats.conf, byte for byte: kustomize reads no file outside its folder.
- The base, each overlay and each component render, and every object is what Kubernetes, KEDA or the Prometheus operator takes: no
  field that they do not know.
- The alert rules are what Prometheus takes.

What needs the program itself (settings, ports, commands, probes, metrics) is in tests/deploy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from .manifests import K8S, ROOT, TOOLS, RenderError, documents, of_kind, targets, tool

SCHEMA = str(TOOLS / "schemas" / "{{.ResourceKind}}{{.KindSuffix}}.json")
NEEDED = ("kustomize", "kubeconform", "promtool")


def copies() -> list[str]:
    """Files that must be the same and are not."""
    ours, theirs = ROOT / "nats.conf", K8S / "base" / "nats.conf"
    if ours.read_bytes() == theirs.read_bytes():
        return []
    return [f"{theirs.relative_to(ROOT)} is not nats.conf: run `cp nats.conf {theirs.relative_to(ROOT)}`"]


def invalid(text: str) -> str:
    """What Kubernetes would not take of these objects; empty: it takes all."""
    command = [str(tool("kubeconform")), "-strict", "-schema-location", SCHEMA]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def wrong_rules(text: str) -> str:
    """What Prometheus would not take of the alert rules among these objects; empty: it takes all."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for rule in of_kind(documents(text), "PrometheusRule"):
            files.append(Path(folder) / f"{rule['metadata']['name']}.yaml")
            files[-1].write_text(yaml.safe_dump(rule["spec"], allow_unicode=True))
        if not files:
            return ""
        command = [str(tool("promtool")), "check", "rules", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def main() -> int:
    """Check, and say what does not hold."""
    problems = copies()
    missing = [name for name in NEEDED if tool(name) is None]
    if missing and os.environ.get("CI") == "true":
        problems.append(f"{', '.join(missing)} must be there under CI: run `make system`")
    elif missing:
        sys.stdout.write(f"manifests not checked: no {', '.join(missing)} (`make system` installs what it can)\n")
    else:
        try:
            for name, text in targets().items():
                problems += [f"{name}: {found}" for found in (invalid(text), wrong_rules(text)) if found]
        except RenderError as e:
            problems.append(str(e))
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
