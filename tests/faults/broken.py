"""A process of the system without one of its guards: `python -m tests.faults.broken`.

FAULTS_PROCESS is `chat` or `bridge`, FAULTS_WITHOUT the guard (`guards`); everything else is as in the process itself.
"""

from __future__ import annotations

import os

import bridge.__main__
import services.chat.__main__
from qingyu_ai.process import run

from .guards import GUARDS

PROCESS = "FAULTS_PROCESS"
WITHOUT = "FAULTS_WITHOUT"

MAINS = {"chat": services.chat.__main__.main, "bridge": bridge.__main__.main}

if __name__ == "__main__":
    kind = os.environ[PROCESS]
    GUARDS[os.environ[WITHOUT]]()
    run(kind, MAINS[kind])
