"""A program in the place of kubectl, see `kubectl.Cluster`.

It knows Secrets (`create secret generic`, `get secret -o jsonpath`, `replace`, `apply`) and remembers every other command.
What is asked of cert-manager is made, too, by an authority of its own.

It is started for each command, so what takes long to import is imported where it is needed.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLAGS_WITH_VALUES = ("-n", "-o", "-f", "-k", "-l", "-p")

Secret = dict[str, str]


def main(arguments: list[str]) -> None:
    """Do what one command says."""
    folder = Path(os.environ["KUBECTL_FOLDER"])
    flags, words = _read(arguments)
    match words:
        case ["create", "secret", "generic", name]:
            data = _given(flags)
            assert data, f"nothing is in the Secret {name}"
            if "--dry-run" in flags:
                _print_secret(name, data)
            else:
                assert _stored(folder, name) is None, f"there is a Secret {name} already"
                _store(folder, name, data)
        case ["get", "secret", name]:
            [key] = re.findall(r"^\{\.data\.(.+)\}$", flags["-o"][0].removeprefix("jsonpath="))
            held = _stored(folder, name)
            assert held is not None, f"there is no Secret {name}"
            value = held.get(key.replace("\\.", "."), "")
            sys.stdout.write(base64.b64encode(value.encode()).decode())
        case ["get", "pod"]:
            _remember(folder, arguments)
            sys.stdout.write("pod/one-of-before\npod/another-of-before\n")
        case ["replace" | "apply"] if flags.get("-f") == ["-"]:
            for document in _documents(sys.stdin.read()):
                _apply(folder, document, words[0])
        case _:
            _remember(folder, arguments)


def _read(arguments: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    flags: dict[str, list[str]] = {}
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
        elif argument in FLAGS_WITH_VALUES:
            flags.setdefault(argument, []).append(next(rest))
        else:
            flags.setdefault(name, []).append(value if equals else "")
    return flags, words


def _given(flags: Mapping[str, list[str]]) -> Secret:
    data = dict(literal.split("=", 1) for literal in flags.get("--from-literal", ()))
    for file in flags.get("--from-file", ()):
        key, equals, path = file.partition("=")
        data[key if equals else Path(file).name] = Path(path if equals else file).read_text(encoding="utf-8")
    for path in flags.get("--from-env-file", ()):
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        data |= dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return data


def _print_secret(name: str, data: Secret) -> None:
    coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": coded}
    json.dump(document, sys.stdout)  # which is YAML, too


def _apply(folder: Path, document: dict[str, Any], verb: str) -> None:
    name = document["metadata"]["name"]
    match document["kind"]:
        case "Secret":
            assert (verb == "replace") is (_stored(folder, name) is not None), f"{verb} of the Secret {name}"
            _store(folder, name, {k: base64.b64decode(v).decode() for k, v in document["data"].items()})
        case "Certificate":
            _store(folder, document["spec"]["secretName"], _issued(document["spec"]["dnsNames"]))
        case kind:
            raise AssertionError(f"a {kind} comes from the overlay")


def _documents(text: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(text)]
    except ValueError:
        import yaml

        return [document for document in yaml.safe_load_all(text) if document]


def _issued(names: list[str]) -> Secret:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    return {
        "ca.crt": authority.cert_pem.bytes().decode(),
        "tls.crt": b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode(),
        "tls.key": issued.private_key_pem.bytes().decode(),
    }


def _stored(folder: Path, name: str) -> Secret | None:
    found = None
    if (folder / "log").exists():
        for line in (folder / "log").read_text(encoding="utf-8").splitlines():
            if json.loads(line)["did"] == f"= {name}":
                found = json.loads(line)["data"]
    return found


def _store(folder: Path, name: str, data: Secret) -> None:
    _write(folder, {"did": f"= {name}", "data": data})


def _remember(folder: Path, arguments: list[str]) -> None:
    _write(folder, {"did": " ".join(arguments)})


def _write(folder: Path, entry: dict[str, Any]) -> None:
    with (folder / "log").open("a", encoding="utf-8") as log:
        log.write(f"{json.dumps(entry)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
