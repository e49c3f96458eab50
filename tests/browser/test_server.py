"""The server of the page, spoken to byte by byte: what it refuses, what it says, what it never hands out."""
from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import threading
from pathlib import Path
from random import Random
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import pytest

from edgepress.browser.server import MAX_RESULT_BYTES, PageServer, is_own_host
from edgepress.browser.tls import self_signed
from edgepress.errors import ArtifactError, DeviceError

JSON = {"Content-Type": "application/json"}


def accept(data: Any) -> Mapping[str, Any]:
    """As the real one: a reply, or an error of ours."""
    if data == {"bad": True}:
        raise ArtifactError("it is bad", "send a good one")
    return {"saved": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html>page")
    (folder / "secret.txt").write_text("not listed")
    (folder / "engine.wasm").write_bytes(bytes(700_000))
    with running(PageServer({"index.html": folder / "index.html", "packages/engine.wasm": folder / "engine.wasm"}, accept)) as one:
        yield one


class running:
    """A server in a thread."""

    def __init__(self, server: PageServer) -> None:
        self.server = server

    def __enter__(self) -> PageServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def ask(server: PageServer, path: str, *, method: str = "GET", body: Optional[bytes] = None, headers: Optional[Dict[str, str]] = None) -> Tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of one request; TOKEN in the path stands for the server's."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path.replace("TOKEN", server.token), body=body, headers=headers or {})
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    return reply.status, reply.headers, data


def test_the_page_has_its_headers(server: PageServer) -> None:
    status, headers, data = ask(server, "/TOKEN/")
    assert (status, data) == (200, b"<!doctype html>page") and headers["Content-Type"].startswith("text/html")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin" and headers["Cross-Origin-Embedder-Policy"] == "require-corp" and headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert "Python" not in headers["Server"]
    status, headers, data = ask(server, "/TOKEN/packages/engine.wasm")
    assert status == 200 and headers["Content-Type"] == "application/wasm" and len(data) == 700_000
    assert ask(server, "/TOKEN/packages/engine.wasm", method="HEAD")[2] == b""
    assert ask(server, "/TOKEN")[1]["Location"] == f"/{server.token}/"


@pytest.mark.parametrize("path", ["/", "/index.html", "/wrong/", "/TOKENx/", "/%00/", "//TOKEN", "/%C3%A9/", "/TOKE/index.html"])
def test_without_the_token_there_is_nothing(server: PageServer, path: str) -> None:
    status, headers, data = ask(server, path) if path != "//TOKEN" else ask(server, "/x/TOKEN")
    assert status == 404 and "out of date" in json.loads(data)["error"] and server.token.encode() not in data and headers["Location"] is None


@pytest.mark.parametrize("path", ["/TOKEN/secret.txt", "/TOKEN/../secret.txt", "/TOKEN/packages/", "/TOKEN/packages/../../etc/passwd", "/TOKEN/%2e%2e/secret.txt", "/TOKEN//etc/passwd", "/TOKEN/results"])
def test_only_listed_files_are_served(server: PageServer, path: str) -> None:
    status, _, data = ask(server, path)
    assert status == 404 and b"not listed" not in data


@pytest.mark.parametrize(("host", "own"), [("127.0.0.1:1", True), ("192.168.1.5:80", True), ("[::1]:80", True), ("localhost", True), (socket.gethostname(), True), ("evil.example:80", False),
                                           ("127.0.0.1.evil.example", False), ("", False), ("[", False), ("localhost.evil.example", False)])
def test_host_names_of_others_are_refused(server: PageServer, host: str, own: bool) -> None:
    assert is_own_host(host) is own
    assert ask(server, "/TOKEN/", headers={"Host": host})[0] == (200 if own else 421)


def test_a_result_is_handed_on(server: PageServer) -> None:
    status, _, data = ask(server, "/TOKEN/results", method="POST", body=b"{}", headers=JSON)
    assert (status, json.loads(data)) == (200, {"saved": 1})
    status, _, data = ask(server, "/TOKEN/results", method="POST", body=b'{"bad": true}', headers={**JSON, "Origin": f"http://127.0.0.1:{server.port}"})
    assert (status, json.loads(data)) == (422, {"error": "it is bad; send a good one"})


@pytest.mark.parametrize(("path", "body", "headers", "status"), [
    ("/wrong/results", b"{}", JSON, 404), ("/TOKEN/other", b"{}", JSON, 404), ("/TOKEN/results", b"{", JSON, 400), ("/TOKEN/results", b"\xff", JSON, 400), ("/TOKEN/results", b"[" * 100_000, JSON, 400),
    ("/TOKEN/results", b"{}", {"Content-Type": "text/plain"}, 415), ("/TOKEN/results", b"{}", {**JSON, "Origin": "http://evil.example"}, 403), ("/TOKEN/results", b"{}", {**JSON, "Origin": "null"}, 403),
    ("/TOKEN/results", b"", {**JSON, "Content-Length": str(MAX_RESULT_BYTES + 1)}, 413), ("/TOKEN/results", b"", {**JSON, "Content-Length": "9" * 30}, 413),
    ("/TOKEN/results", b"", {**JSON, "Content-Length": "-1"}, 411), ("/TOKEN/results", b"", {**JSON, "Content-Length": "²"}, 411), ("/TOKEN/results", b"{}", {**JSON, "Host": "evil.example"}, 421)])
def test_what_is_no_result_is_refused(server: PageServer, path: str, body: bytes, headers: Dict[str, str], status: int) -> None:
    if "²" in headers.get("Content-Length", ""):
        headers = {**headers, "Content-Length": "²".encode().decode("latin-1")}
    assert ask(server, path, method="POST", body=body, headers=headers)[0] == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "FOO"])
def test_other_methods_are_refused(server: PageServer, method: str) -> None:
    assert ask(server, "/TOKEN/", method=method)[0] == 501


def test_a_slow_client_does_not_stop_others(server: PageServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as idle:
        idle.sendall(b"GET /")
        assert ask(server, "/TOKEN/")[0] == 200


def test_noise_neither_stops_it_nor_shows_a_traceback(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    random = Random(0)
    good = f"POST /{server.token}/results HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    for _ in range(150):
        request = bytearray(good)
        for _ in range(random.randint(1, 6)):
            request[random.randrange(len(request))] = random.randrange(256)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(bytes(request[:random.randint(1, len(request))]))
            connection.shutdown(socket.SHUT_WR)
    assert ask(server, "/TOKEN/")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_is_an_error_with_a_way_on(server: PageServer) -> None:
    with pytest.raises(DeviceError, match=f"port {server.port}.*--port"):
        PageServer({}, accept, port=server.port)
    with pytest.raises(DeviceError, match="--host"):
        PageServer({}, accept, host="203.0.113.9")


def test_every_server_has_its_own_token(server: PageServer) -> None:
    other = PageServer({}, accept)
    other.server_close()
    assert other.token != server.token and len(server.token) >= 22


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_https_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("page")
    context, fingerprint = self_signed(["127.0.0.1"])
    with running(PageServer({"index.html": tmp_path / "index.html"}, accept, tls=context)) as server, socket.create_connection(("127.0.0.1", server.port)):  # one that never shakes hands
        trusting = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusting)
        connection.request("GET", f"/{server.token}/")
        assert connection.getresponse().read() == b"page" and server.urls()[0].startswith("https://")
        import hashlib

        digest = hashlib.sha256(connection.sock.getpeercert(binary_form=True)).hexdigest().upper()
        assert fingerprint.replace(":", "") == digest
        connection.close()
