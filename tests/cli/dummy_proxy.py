import os

from qingyu_ai.settings import load
from tests.cli.dummy_process import FAULT, run
from tests.cli.fake_proxy import FakeProxy

if __name__ == "__main__":
    settings = load()
    proxy = FakeProxy(os.environ.get(FAULT, ""), settings.proxy.port)
    run("proxy", settings, settings.proxy.metrics_port)
    proxy.close()
