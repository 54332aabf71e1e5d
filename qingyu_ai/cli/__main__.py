"""`python -m qingyu_ai.cli` is the `qingyu-ai` command."""

from .main import app

app(prog_name="qingyu-ai")
