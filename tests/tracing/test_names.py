"""Attributes are called as OpenTelemetry's conventions call them."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
from opentelemetry.semconv import _incubating, attributes

from qingyu_ai.tracing import names

OURS = {name: value for name, value in vars(names).items() if name.isupper()}

NOT_THERE = ("Removed", "Replaced")
"""Words of the package on names that are gone. Those of gen_ai have only moved to another repository."""


def known() -> dict[str, str]:
    """The conventions' attributes, each with what the package says of it."""
    found = {}
    packages = (attributes.__name__, f"{_incubating.__name__}.attributes")
    for package in packages:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            loaded = importlib.import_module(f"{package}.{module.name}")
            lines = Path(str(loaded.__file__)).read_text(encoding="utf-8").splitlines()
            for at, line in enumerate(lines):
                if ": Final = " in line:
                    found[line.partition('"')[2].rstrip('"')] = " ".join(lines[at + 1 : at + 3])
    return found


@pytest.mark.parametrize("name", [name for name, value in OURS.items() if not value.startswith("qingyu.")])
def test_convention_knows_the_name(name: str) -> None:
    said = known()[OURS[name]]
    assert not any(word in said for word in NOT_THERE)


def test_no_two_names_are_one_attribute() -> None:
    assert len(set(OURS.values())) == len(OURS)
