"""Turns traces on for a process, if it is told where a collector is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import structlog

from qingyu_ai.settings import Trace

from . import record_with

log = structlog.get_logger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def wanted(settings: Trace) -> bool:
    """Whether a collector is named, and the standard's switches do not say no."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return bool(settings.endpoint or any(os.environ.get(name, "").strip() for name in ENDPOINTS))


@contextlib.contextmanager
def traced(settings: Trace, process: str) -> Iterator[None]:
    """Record the spans of a process, and export the last ones at its end.

    Raises:
        SettingsError: a variable of the standard's does not hold.
    """
    if not wanted(settings):
        yield
        return
    from .recording import open_recorder  # a third of a second to import, for those who need it

    recorder = open_recorder(process, settings.endpoint)
    record_with(recorder)
    log.info("traces_on")
    try:
        yield
    finally:
        record_with(None)
        if not recorder.close(settings.flush_seconds):
            log.warning("traces_lost", seconds=settings.flush_seconds)
