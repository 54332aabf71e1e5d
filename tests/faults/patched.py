"""A process of the system with changes to it: `python -m tests.faults.patched`.

FAULTS_PROCESS is `chat`, `bridge` or `counting`. What of the others is not set changes nothing:

FAULTS_WITHOUT    the guard that is removed (`guards`)
FAULTS_STOP_AT    the step of a job's completion at which the process stops itself when it is told to (`steps`)
FAULTS_STRETCH    seconds that each of these steps takes longer
FAULTS_INSIDES    the process tells what it holds (`insides`)
FAULTS_POISON     a file; poison bites for as long as it is there (`poison`)
"""

from __future__ import annotations

import os

import bridge.__main__
import services.chat.__main__
from qingyu_ai.process import run
from tests.e2e import counting_worker

from . import insides, poison, steps
from .guards import GUARDS

PROCESS = "FAULTS_PROCESS"
WITHOUT = "FAULTS_WITHOUT"
STOP_AT = "FAULTS_STOP_AT"
STRETCH = "FAULTS_STRETCH"
INSIDES = "FAULTS_INSIDES"
POISON = "FAULTS_POISON"

MAINS = {"chat": services.chat.__main__.main, "bridge": bridge.__main__.main, "counting": counting_worker.main}

if __name__ == "__main__":
    kind = os.environ[PROCESS]
    if guard := os.environ.get(WITHOUT):
        GUARDS[guard]()
    if STOP_AT in os.environ or STRETCH in os.environ:
        steps.install(os.environ.get(STOP_AT, ""), float(os.environ.get(STRETCH, "0")))
    if INSIDES in os.environ:
        insides.install()
    if file := os.environ.get(POISON):
        poison.install(file)
    run(kind, MAINS[kind])
