"""Serve a page to browsers nearby: listed files only, behind a token in the address, and one way back for results."""
from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple
from urllib.parse import unquote, urlsplit

from edgepress.errors import DeviceError, EdgepressError

MAX_RESULT_BYTES = 4 << 20
IDLE_SECONDS = 20.0
MOST_CONNECTIONS = 64
TOKEN_BYTES = 16
TYPES: Mapping[str, str] = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".json": "application/json",
                            ".webmanifest": "application/manifest+json", ".wasm": "application/wasm", ".png": "image/png", ".jpg": "image/jpeg", ".txt": "text/plain; charset=utf-8"}
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; worker-src 'self' blob:; "
                               "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Resource-Policy": "same-origin",  # without these no threads
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Permissions-Policy": "camera=(self), microphone=(), geolocation=()"}

Accept = Callable[[Any], Mapping[str, Any]]


class PageServer(ThreadingHTTPServer):
    """A server of one page. `files` maps paths to files, `accept` takes the parsed JSON that a page sends and returns the reply; it may raise EdgepressError."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS  # five, the default, makes a browser that asks for twenty files wait

    def __init__(self, files: Mapping[str, Path], accept: Accept, *, host: str = "127.0.0.1", port: int = 0, tls: Optional[ssl.SSLContext] = None) -> None:
        self.files, self.accept, self.token, self.secure = dict(files), accept, secrets.token_urlsafe(TOKEN_BYTES), tls is not None
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise DeviceError(f"the page cannot be served at {host} port {port} ({getattr(error, 'strerror', None) or error})",
                              "give another --port (0 takes any that is free), or a --host that this machine has") from error
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)  # a handshake belongs to its own thread

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def urls(self) -> List[str]:
        """Addresses for people, the best first; each holds the token."""
        host = str(self.server_address[0])
        hosts = own_addresses() if host in ("0.0.0.0", "::") else [host]
        return [f"{'https' if self.secure else 'http'}://{f'[{one}]' if ':' in one else one}:{self.port}/{self.token}/" for one in hosts]

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for a connection, unless too many are open."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Give the place back when the connection ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections break; that is no news. Anything else is a mistake of ours and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edgepress", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:  # noqa: N802 (the name that http.server looks for)
        path = self._path()
        if path is None:
            return
        file = self.server.files.get(path or "index.html")
        if file is None:
            self._refuse(404, "there is no such file")
            return
        self._start(200, TYPES.get(file.suffix, "application/octet-stream"), file.stat().st_size)
        if self.command == "GET":
            with open(file, "rb") as source:
                while block := source.read(1 << 18):
                    self.wfile.write(block)

    do_HEAD = do_GET

    def do_POST(self) -> None:  # noqa: N802
        self.close_connection = True  # whatever is left unread of the body is not the next request
        path = self._path()
        if path is None:
            return
        if path != "results":
            self._refuse(404, "there is no such place for results")
            return
        data = self._body()
        if data is None:
            return
        try:
            reply = self.server.accept(json.loads(data))
        except (ValueError, RecursionError):
            self._refuse(400, "the result is not JSON")
        except EdgepressError as error:
            self._refuse(422, str(error))
        else:
            self._send(200, reply)

    def _body(self) -> Optional[bytes]:
        """The bytes of a result, or None where it was refused."""
        origin = self.headers.get("Origin")
        length = self.headers.get("Content-Length", "")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            self._refuse(403, "results come from the page itself only")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(415, "a result is application/json")
        elif not (length.isascii() and length.isdigit()):
            self._refuse(411, "the length of the result is not given")
        elif len(length) > 12 or int(length) > MAX_RESULT_BYTES:
            self._refuse(413, f"a result has at most {MAX_RESULT_BYTES >> 20} MiB")
        else:
            data = self.rfile.read(int(length))
            if len(data) == int(length):
                return data
            self._refuse(400, "the result is not whole")
        return None

    def _path(self) -> Optional[str]:
        """The path below the token, or None where the request was refused."""
        if not is_own_host(self.headers.get("Host", "")):
            self._refuse(421, "this server is spoken to by its address only")  # a name in somebody else's DNS may point here
            return None
        token, slash, rest = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(404, "this address is not complete or out of date; open the one that was printed")
            return None
        if not slash:
            self._start(308, "text/plain", 0, {"Location": f"/{self.server.token}/"})
            return None
        return rest

    def _refuse(self, status: int, reason: str) -> None:
        self.close_connection = True
        self._send(status, {"error": reason})

    def _send(self, status: int, value: Any) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self._start(status, "application/json", len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _start(self, status: int, kind: str, size: int, more: Optional[Dict[str, str]] = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(size), **(more or {})}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002
        """Say nothing: addresses hold the token."""


def is_own_host(host: str) -> bool:
    """Whether a Host header is an IP address, localhost, or this machine's own name. Others are names that point here without our knowing (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    own = socket.gethostname().lower()
    if name in ("localhost", own, f"{own}.local"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_addresses() -> List[str]:
    """Addresses of this machine that others nearby may reach, then loopback. Nothing is sent."""
    found = []
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((outside, 9))
            except OSError:
                continue
            address = probe.getsockname()[0]
            if family == socket.AF_INET and not ipaddress.ip_address(address).is_loopback:
                found.append(address)
    return [*found, "127.0.0.1"]
