"""The upstream of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.upstream.process import Upstream


@pytest.fixture(scope="session")
def upstream_process() -> Iterator[Upstream]:
    """One process for all tests of a test process."""
    with Upstream() as running:
        yield running


@pytest.fixture
def up(upstream_process: Upstream) -> Upstream:
    """The upstream, as if it had just started."""
    upstream_process.reset()
    return upstream_process
