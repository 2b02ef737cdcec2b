"""A dataset hub on loopback for tests: what its client asks to list a folder and to read ranges of a file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub(BaseHTTPRequestHandler):
    """The dataset owner/name, which is the folder `root`. `ranges` holds what was read."""

    root: Path
    ranges: list[tuple[str, str]]
    api = "/api/datasets/owner/name"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in (self.api, f"{self.api}/revision/main"):
            self.answer({"id": "owner/name", "sha": "0" * 40, "siblings": [], "private": False})
        elif path.startswith(f"{self.api}/tree/"):
            self.tree(self.root / "/".join(path.removeprefix(f"{self.api}/tree/").split("/")[1:]))
        elif path.startswith("/datasets/owner/name/resolve/"):
            self.file("/".join(path.removeprefix("/datasets/owner/name/resolve/").split("/")[1:]))
        else:
            self.answer({"error": "not found"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        self.answer([self.entry(self.root / path) for path in paths if (self.root / path).exists()])

    def tree(self, folder: Path) -> None:
        found = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.glob("*")
        self.answer(
            [self.entry(path) for path in sorted(found)] if folder.exists() else {}, 200 if folder.exists() else 404
        )

    def entry(self, path: Path) -> dict[str, Any]:
        kind = {"type": "file", "size": path.stat().st_size} if path.is_file() else {"type": "directory"}
        return {**kind, "oid": "1" * 40, "path": str(path.relative_to(self.root))}

    def file(self, name: str) -> None:
        data, wanted = (self.root / name).read_bytes(), self.headers.get("Range")
        if wanted:
            self.ranges.append((name, wanted))
            first, last = wanted.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1]
        self.answer(data, 206 if wanted else 200)

    def answer(self, content: Any, status: int = 200) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of a hub that holds a folder as the dataset owner/name, and the ranges that are read of its files."""
    ranges: list[tuple[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"root": folder, "ranges": ranges}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", ranges
    finally:
        server.shutdown()
        server.server_close()
