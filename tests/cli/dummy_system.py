"""The `qingyu-ai` command with dummies for the bridge and the chat worker; the broker is the real one.

python -m tests.cli.dummy_system up
"""

from dataclasses import replace

from qingyu_ai.cli import demo, process, programs
from qingyu_ai.cli.main import app

if __name__ == "__main__":
    programs.KINDS = tuple(replace(kind, module=f"tests.cli.dummy_{kind.name}") for kind in programs.KINDS)
    programs.STOP_MARGIN_SECONDS = 0.5
    demo.START_SECONDS = 3.0
    process.PROBE_EVERY_SECONDS = 0.02
    app()
