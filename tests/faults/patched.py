"""A process of the system with changes to it: `python -m tests.faults.patched`.

FAULTS_PROCESS is `chat`, `bridge` or `counting`. What of the others is not set changes nothing:

FAULTS_WITHOUT    the guard that is removed (`guards`)
FAULTS_STOP_AT    the step of a job's completion at which the process stops itself when it is told to (`steps`)
FAULTS_STRETCH    seconds that each of these steps takes longer
FAULTS_INSIDES    the process tells what it holds (`insides`)
FAULTS_POISON     a file; poison bites for as long as it is there (`poison`)

It imports what it is told to and no more: with all of it a start takes a third longer, and rows start hundreds.
"""

from __future__ import annotations

import importlib
import os

from qingyu_ai.process import run

PROCESS = "FAULTS_PROCESS"
WITHOUT = "FAULTS_WITHOUT"
STOP_AT = "FAULTS_STOP_AT"
STRETCH = "FAULTS_STRETCH"
INSIDES = "FAULTS_INSIDES"
POISON = "FAULTS_POISON"

MAINS = {"chat": "services.chat.__main__", "bridge": "bridge.__main__", "counting": "tests.e2e.counting_worker"}

if __name__ == "__main__":
    kind = os.environ[PROCESS]
    main = importlib.import_module(MAINS[kind]).main
    if guard := os.environ.get(WITHOUT):
        from .guards import GUARDS

        GUARDS[guard]()
    if STOP_AT in os.environ or STRETCH in os.environ:
        from . import steps

        steps.install(os.environ.get(STOP_AT, ""), float(os.environ.get(STRETCH, "0")))
    if INSIDES in os.environ:
        from . import insides

        insides.install()
    if file := os.environ.get(POISON):
        from . import poison

        poison.install(file)
    run(kind, main)
