from qingyu_ai.settings import load
from tests.cli.dummy_process import run

if __name__ == "__main__":
    settings = load()
    run("tool", settings, settings.tool.metrics_port)
