"""A client that sees the bytes of an answer as they come, and asks without a library that might repair them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Any

SECONDS = 10.0


def request(model: str = "m", stream: bool = True, path: str = "/v1/chat/completions", **body: Any) -> bytes:
    """The bytes of a request."""
    data = json.dumps({"model": model, "stream": stream, **body}).encode()
    return b"POST %b HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data)


class RawClient:
    """One connection, as a context manager."""

    def __init__(self, port: int, timeout: float = SECONDS) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._left = b""

    def ask(self, model: str = "m", stream: bool = True, path: str = "/v1/chat/completions", **body: Any) -> None:
        """Send a request."""
        self.socket.sendall(request(model, stream, path, **body))

    def reads(self, size: int = 65536) -> Iterator[bytes]:
        """What each read returns, until the server closes the connection."""
        while data := self.socket.recv(size):
            yield data

    def rest(self) -> bytes:
        """All until the server closes the connection."""
        return self._left + b"".join(self.reads())

    def until(self, end: bytes) -> bytes:
        """All up to these bytes, and with them."""
        while (at := self._left.find(end)) < 0:
            data = self.socket.recv(65536)
            assert data, f"closed after {self._left!r}"
            self._left += data
        taken, self._left = self._left[: at + len(end)], self._left[at + len(end) :]
        return taken

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next answer: its status, headers and body; one that is neither chunked nor has a length ends with EOF."""
        first, *lines = self.until(b"\r\n\r\n").decode().split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        if "transfer-encoding" in headers:
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self._exactly(size + 2)[:-2]
            self.until(b"\r\n")
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            body, self._left = self.rest(), b""
        return int(first.split(" ")[1]), headers, body

    def _exactly(self, size: int) -> bytes:
        while len(self._left) < size:
            data = self.socket.recv(65536)
            assert data, f"closed after {self._left!r}"
            self._left += data
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def events(body: bytes) -> list[Any]:
    """The data of a stream's events, in which every event is one `data:` line; `[DONE]` is left out."""
    data = [block.removeprefix("data: ") for block in body.decode().split("\n\n") if block]
    return [json.loads(one) for one in data if one != "[DONE]"]


def said(body: bytes, key: str = "content", choice: int = 0) -> str:
    """The text of a stream."""
    choices = [c for chunk in events(body) for c in chunk["choices"] if c["index"] == choice]
    return "".join(c["delta"].get(key) or "" for c in choices)
