from qingyu_ai.settings import load
from tests.cli.dummy_process import run

if __name__ == "__main__":
    settings = load()
    run("agent", settings, settings.agent.metrics_port)
