"""What a caller who means harm can send, sent to a whole system: `python -m tests.abuse`, in short in `make test`."""
