import os

from qingyu_ai.settings import load
from tests.cli.dummy_process import FAULT, log, run
from tests.cli.fake_agent import FakeAgent, serve

if __name__ == "__main__":
    settings = load()
    fault = os.environ.get(FAULT, "")
    if not settings.rag.processes and fault in ("", "no wheel"):
        fault = "no retrieval"
    server, _ = serve(FakeAgent(fault), settings.bridge.port)
    log(f"bridge misses nothing of {', '.join(settings.bridge.expected_workers)}")
    run("bridge", settings, settings.bridge.metrics_port)
    server.stop(grace=None).wait()
