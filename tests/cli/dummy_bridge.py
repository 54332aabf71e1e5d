import os

from qingyu_ai.settings import load
from tests.cli.dummy_process import FAULT, run
from tests.cli.fake_agent import FakeAgent, serve

if __name__ == "__main__":
    settings = load()
    server, _ = serve(FakeAgent(os.environ.get(FAULT, "")), settings.bridge.port)
    run("bridge", settings, settings.bridge.metrics_port)
    server.stop(grace=None).wait()
