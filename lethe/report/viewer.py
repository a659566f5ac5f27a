"""The viewer: all runs of a store on loopback, each page made anew when its run has changed."""

import hashlib
import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from lethe.errors import InputError, LetheError
from lethe.report.document import build_report
from lethe.report.page import render_index
from lethe.run import RUN_FILE, load_run
from lethe.store import Store

HOST = "127.0.0.1"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_CACHED = 8
"""Pages kept in memory."""


class Viewer(ThreadingHTTPServer):
    """Serves a store to this machine alone; it reads and never writes.

    Requests that name another host are refused, so that no web page can read a run through a
    name that it pointed here.
    """

    daemon_threads = True

    def __init__(self, store: Store, *, port: int = 0, data_dir: Path | None = None) -> None:
        self.store, self.data_dir = store, data_dir
        self._pages: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise InputError(
                f"cannot listen on port {port} ({error.strerror})", todo="give another --port"
            ) from None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.server_port}/"

    def page_url(self, name: str) -> str:
        """Where a run's page is."""
        return f"{self.url}run/{quote(name, safe='')}"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, type and body for a path."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/") if part]
        try:
            if not parts:
                return 200, "text/html", render_index(self._runs(), self._all_states())
            if parts == ["state"]:
                return 200, "text/plain", self._all_states().encode()
            if parts[0] == "run" and len(parts) == 2:
                return 200, "text/html", self._page(parts[1])
            if parts[0] == "run" and parts[2:] == ["state"]:
                return 200, "text/plain", self._state(parts[1]).encode()
        except LetheError as error:
            return 404, "text/plain", str(error).encode("utf-8", "replace")
        return 404, "text/plain", b"there is nothing here"

    def _page(self, name: str) -> bytes:
        with self._lock:  # one page is made at a time, and once
            state = self._state(name)
            if self._pages.get(name, ("", b""))[0] != state:
                report = build_report(
                    load_run(self._known(name), self.store), self.store, data_dir=self.data_dir
                )
                self._pages.pop(name, None)
                self._pages[name] = (state, report.html(live=state))
                while len(self._pages) > _CACHED:
                    self._pages.pop(next(iter(self._pages)))
            return self._pages[name][1]

    def _known(self, name: str) -> str:
        """The name of a run in this store: a path from outside leads nowhere."""
        if not any(path.parent.name == name for path in self.store.runs.glob(f"*/{RUN_FILE}")):
            raise InputError(f"no run '{name}'", where=str(self.store.runs))
        return name

    def _state(self, name: str) -> str:
        """Changes whenever the run's record does."""
        path = self.store.runs / self._known(name) / RUN_FILE
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def _all_states(self) -> str:
        stamps = [
            f"{path.parent.name}:{path.stat().st_mtime_ns}"
            for path in sorted(self.store.runs.glob(f"*/{RUN_FILE}"))
        ]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]

    def _runs(self) -> list[dict[str, Any]]:
        """Every run, the newest first; one that cannot be read says why."""
        found: list[tuple[float, dict[str, Any]]] = []
        for path in self.store.runs.glob(f"*/{RUN_FILE}"):
            name = path.parent.name
            entry: dict[str, Any] = {"name": name, "href": "", "command": "", "started": ""}
            started = 0.0
            try:
                run = load_run(name, self.store)
                started = run.started
                missing = len(run.missing())
                entry |= {
                    "href": f"/run/{quote(name, safe='')}",
                    "command": run.command,
                    "started": datetime.fromtimestamp(started, UTC).strftime("%Y-%m-%d %H:%M"),
                    "state": f"{missing} tables missing" if missing else "whole",
                }
            except (LetheError, KeyError, TypeError, json.JSONDecodeError) as error:
                entry["state"] = str(error)
            found.append((started, entry))
        return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]


class _Handler(BaseHTTPRequestHandler):
    server: Viewer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        if host not in (
            f"{HOST}:{self.server.server_port}",
            f"localhost:{self.server.server_port}",
        ):
            self._send(403, "text/plain", b"this viewer answers this machine alone")
            return
        self._send(*self.server.answer(self.path))

    do_HEAD = do_GET

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to whoever started it."""
        del format, args
