"""A web server on loopback that gives ranges, and can misbehave as servers do."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_PIECE = 2**18


@dataclass
class Server:
    """What the server gives and how; counts what it gave.

    Attributes:
        folder: whose files it gives.
        url: its address.
        statuses: status that a path is answered with instead of its file.
        has_ranges: whether it heeds ranges.
        has_etag: whether it names versions.
        cuts: answers of more than `cut_after` bytes that are still to be cut off.
        cut_after: bytes after which they are.
        latency_s: before every answer.
        asked: path, and range where one was asked for, of every request.
        sent: bytes of files that were sent.
        queries: query of every request.
    """

    folder: Path
    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    has_ranges: bool = True
    has_etag: bool = True
    cuts: int = 0
    cut_after: int = 2**16
    latency_s: float = 0.0
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent: int = 0
    queries: list[str] = field(default_factory=list)

    def on_request(self) -> None:
        """Do nothing; tests put something in its place."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_GET(self) -> None:
        state, split = self.state, urlsplit(self.path)
        wanted = self.headers.get("Range", "")
        state.asked.append((unquote(split.path), wanted))
        state.queries.append(split.query)
        state.on_request()
        time.sleep(state.latency_s)
        path = state.folder / unquote(split.path).lstrip("/")
        status = state.statuses.get(unquote(split.path), 200 if path.is_file() else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        start, stop = 0, size
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        if found and state.has_ranges:
            start, stop = int(found[1]), min(size, int(found[2] or size) + 1)
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        if state.has_etag:
            told = f"{size}-{path.stat().st_mtime_ns}"
            self.send_header("ETag", f'"{hashlib.sha256(told.encode()).hexdigest()[:16]}"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self._send(path, start, stop)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, path: Path, start: int, stop: int) -> None:
        state = self.state
        if self.command == "HEAD":
            return
        is_cut = state.cuts > 0 and stop - start > state.cut_after
        state.cuts -= is_cut
        left = state.cut_after if is_cut else stop - start
        with path.open("rb") as stream:
            stream.seek(start)
            while left:
                piece = stream.read(min(_PIECE, left))
                if not piece:
                    break
                self.wfile.write(piece)
                left -= len(piece)
                state.sent += len(piece)
        if is_cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Give a server of the files of a folder."""
    state = Server(folder)
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
