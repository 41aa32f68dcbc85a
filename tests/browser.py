"""A browser without a window, and a site with a page for it."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Self

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_BROWSER = next(filter(None, map(shutil.which, _BROWSERS)), None)
PATIENCE = 60.0
"""Seconds that a browser may take to start and to come back."""

NEEDS_BROWSER = pytest.mark.skipif(
    _BROWSER is None, reason=f"there is none of {', '.join(_BROWSERS)} here (on Debian: apt-get install chromium)"
)


class Site:
    """One page under an origin of its own, and what it tells of itself: the bodies of its posts to `/told`."""

    def __init__(self) -> None:
        site = self
        self.page = ""
        self.told: Queue[bytes] = Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(site.page.encode() if self.path == "/" else b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                site.told.put(body)
                self._answer(b"")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def browsing(url: str) -> Iterator[None]:
    """A browser with this page open, without a window, over a profile of its own."""
    assert _BROWSER is not None
    with (
        tempfile.TemporaryDirectory(prefix="mochi-browser-", ignore_cleanup_errors=True) as profile,
        (Path(profile) / "log").open("wb") as log,
    ):
        command = [_BROWSER, "--headless", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        command += ["--disable-background-networking", "--no-proxy-server", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")
        process = subprocess.Popen([*command, "--remote-debugging-port=0", url], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)
