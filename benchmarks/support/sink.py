"""A server that takes every request and answers 200: nginx where there is one, else a small one in Python."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.support.facts import ROOT

__all__ = ["Sink", "Traffic", "nginx_path", "sink"]

START_SECONDS = 10.0
SETTINGS_PATH = "/server-side/v2-settings"

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  log_format bench '$connection $request_length $status $request_method $uri';
  access_log {root}/access.log bench;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  client_body_temp_path {root}/body;
  proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi;
  uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  keepalive_requests 10000000;
  default_type application/json;
  server {{
    listen 127.0.0.1:{port};
    location = {settings_path} {{ alias {root}/settings.json; }}
    location / {{ {answer} }}
  }}
  server {{
    listen 127.0.0.1:{behind};
    access_log off;
    location / {{ return 200 '{{}}'; }}
  }}
}}
"""
# nginx answers before it has read a body it has no use for; only a body to be passed on is counted.
ANSWERS = {False: "return 200 '{}';", True: "proxy_pass http://127.0.0.1:BEHIND;"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests that reached the sink, settings aside.

    ``wire_bytes`` has the headers in it; the bodies only where the sink counts them.
    """

    requests: int
    connections: int
    wire_bytes: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    port: int
    kind: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def traffic(self) -> Traffic:
        """What has arrived since the last call."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        with contextlib.suppress(FileNotFoundError), self.log.open("r+") as file:
            file.truncate(0)
        sent = [line for line in lines if len(line) == 5 and line[4] != SETTINGS_PATH]
        return Traffic(
            requests=len(sent),
            connections=len({line[0] for line in sent}),
            wire_bytes=sum(int(line[1]) for line in sent),
            refused=sum(line[2] != "200" for line in sent),
        )


def nginx_path() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def sink(settings: dict[str, Any] | None = None, *, counts_bodies: bool = False) -> Iterator[Sink]:
    """Run a sink; ``settings``: what it answers to an FME SDK that asks for its settings."""
    root = Path(tempfile.mkdtemp(prefix="vfb-"))
    port, nginx = free_port(), nginx_path()
    (root / "settings.json").write_text(json.dumps(settings or {}))
    if nginx is not None:
        # nginx gives up root rights for its workers, which must be able to read the settings.
        root.chmod(0o755)
        configuration = root / "nginx.conf"
        behind = free_port()
        answer = ANSWERS[counts_bodies].replace("BEHIND", str(behind))
        configuration.write_text(
            CONFIGURATION.format(root=root, port=port, behind=behind, answer=answer, settings_path=SETTINGS_PATH)
        )
        command = [nginx, "-p", str(root), "-e", str(root / "error.log"), "-c", str(configuration)]
    else:
        command = [sys.executable, str(Path(__file__)), str(port), str(root)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait(port, process)
        yield Sink(port=port, kind="nginx" if nginx is not None else "Python", log=root / "access.log")
    finally:
        process.terminate()
        process.communicate(timeout=START_SECONDS)
        shutil.rmtree(root, ignore_errors=True)


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    raise RuntimeError(f"the sink does not start: {process.communicate()[1].decode(errors='replace')}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = Path()

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        self.rfile.read(size)
        self._log(size)
        self._answer(b"{}")

    def do_GET(self) -> None:
        is_settings = self.path.startswith(SETTINGS_PATH)
        self._log(0)
        self._answer((self.root / "settings.json").read_bytes() if is_settings else b"{}")

    def _log(self, size: int) -> None:
        path = self.path.partition("?")[0]
        length = len(self.requestline) + len(str(self.headers)) + 4 + size
        with (self.root / "access.log").open("a") as log:
            log.write(f"{self.client_address[1]} {length} 200 {self.command} {path}\n")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the standard error."""


if __name__ == "__main__":
    _Handler.root = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
