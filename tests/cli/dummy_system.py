"""The `qingyu-ai` command with dummies for the bridge and the chat worker; the broker is the real one.

python -m tests.cli.dummy_system up
"""

import os
from dataclasses import replace

from qingyu_ai.cli import demo, postgres, process, programs, up
from qingyu_ai.cli.main import app
from tests.cli.dummy_process import FAULT

if __name__ == "__main__":
    programs.KINDS = tuple(replace(kind, module=f"tests.cli.dummy_{kind.name}") for kind in programs.KINDS)
    programs.STOP_MARGIN_SECONDS = 0.5
    fault = os.environ.get(FAULT, "")
    if fault == "never ready":
        demo.START_SECONDS = 3.0
    if fault == "no wheel":
        postgres.WHEELS = ()
    if fault == "no reminders":
        up.REMIND_EVERY_SECONDS = 3600.0
    process.PROBE_EVERY_SECONDS = 0.02
    app()
