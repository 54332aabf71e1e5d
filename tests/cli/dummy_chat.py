from qingyu_ai.settings import load
from tests.cli.dummy_process import run

if __name__ == "__main__":
    settings = load()
    run("chat", settings, settings.chat.metrics_port)
