"""A real nginx in front of the collector, with certificates of an authority of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.support.ports import free_port

__all__ = ["Certificates", "Nginx", "program"]

# Debian keeps it out of a user's PATH.
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))

CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}{tls};
    {directives}
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; }}
  }}
}}
"""


def program(name: str) -> str | None:
    """Path of a program, or None."""
    return shutil.which(name, path=PATH)


class Certificates:
    """An authority and what it has signed, made with the openssl program."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = folder / "authority.pem"
        openssl = program("openssl")
        assert openssl is not None
        self._openssl = openssl
        # x509 -req makes no version 3 certificate without extensions, so each has a file of them.
        # From Python 3.13 on, a client asks for what RFC 5280 does: key usage here, the authority's key id below.
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        key = self._new_key("authority")
        self._run("req", "-x509", *key, "-subj", "/CN=test authority", *usage, "-out", self.authority)

    def sign(self, name: str, hosts: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """(certificate, key) for some hosts, as openssl names them, good for a server and for a client."""
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        extensions.write_text(
            f"subjectAltName={hosts}\nextendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n"
        )
        self._run("req", "-new", *self._new_key(name), "-subj", f"/CN={name}", "-out", request)
        signer = ("-CA", self.authority, "-CAkey", self.folder / "authority.key", "-CAcreateserial")
        self._run("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", extensions, "-out", certificate)
        return certificate, key

    def _new_key(self, name: str) -> tuple[str | Path, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*curve, "-nodes", "-keyout", self.folder / f"{name}.key")

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *map(str, arguments)], check=True, capture_output=True, timeout=60)


class Nginx:
    """One nginx on a port of its own, until :meth:`close`. ``directives`` go into its server."""

    def __init__(
        self, folder: Path, upstream: int, *, directives: str = "", server: tuple[Path, Path] | None = None
    ) -> None:
        self.port = free_port()
        self.folder = folder
        self._scheme = "http" if server is None else "https"
        self._server = server
        self._upstream = upstream
        config = self._configure(directives)
        binary = program("nginx")
        assert binary is not None
        self._process = subprocess.Popen(
            [binary, "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    def __enter__(self) -> Nginx:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def reload(self, directives: str) -> None:
        """Go on with other directives, as an operator would have it."""
        self._configure(directives)
        self._process.send_signal(signal.SIGHUP)

    def _configure(self, directives: str) -> Path:
        tls = ""
        if self._server is not None:
            tls = " ssl"
            directives += f" ssl_certificate {self._server[0]}; ssl_certificate_key {self._server[1]};"
        config = self.folder / "nginx.conf"
        # Started as root it would give its workers to a user who may not enter this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        given = {"port": self.port, "tls": tls, "directives": directives, "upstream": self._upstream}
        config.write_text(CONFIG.format(user=user, folder=self.folder, **given))
        return config

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"nginx did not start: {(self.folder / 'error.log').read_text()}")
