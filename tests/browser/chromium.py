"""Headless Chromium for tests: started once, spoken to in the DevTools protocol over a WebSocket written with the standard library alone."""
from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-debugging-port=0", "--window-size=1280,900")
FRAME_BYTES = 256 << 20


class Chromium:
    """A browser process with an empty profile; `page` opens pages in it."""

    def __init__(self, program: str = "chromium", *flags: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="edgepress-chromium-")
        self._process = subprocess.Popen([program, *FLAGS, *flags, f"--user-data-dir={self._profile}", "about:blank"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = self._read_port(time.monotonic() + 30)

    def _read_port(self, deadline: float) -> int:
        file = Path(self._profile) / "DevToolsActivePort"
        while time.monotonic() < deadline and self._process.poll() is None:
            if file.exists() and len(file.read_text().split()) == 2:
                return int(file.read_text().split()[0])
            time.sleep(0.05)
        self.close()
        raise RuntimeError("chromium did not start")

    def page(self, url: str = "about:blank", *, width: int = 1280, height: int = 900) -> "Page":
        """A new tab of this size that shows `url`."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        target = json.load(urllib.request.urlopen(request, timeout=10))
        page = Page(target["webSocketDebuggerUrl"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        if url != "about:blank":
            page.open(url)
        return page

    def close(self) -> None:
        """End the process and remove its profile."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        self._socket = WebSocket(address)
        self._last = 0
        self.events: List[Dict[str, Any]] = []

    def call(self, method: str, *, seconds: float = 60, **params: Any) -> Dict[str, Any]:
        """One command of the protocol and its result; events that arrive meanwhile are kept."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        deadline = time.monotonic() + seconds
        while True:
            message = json.loads(self._socket.receive(deadline))
            if message.get("id") != self._last:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            else:
                return message["result"]

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the tab another size, and a color scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def run(self, expression: str, *, seconds: float = 60) -> Any:
        """The value of an expression, awaited where it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, seconds=seconds)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"].get("exception", {}).get("description", str(result["exceptionDetails"])))
        return result["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 60) -> Any:
        """Wait until an expression is true, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                value = self.run(f"(async () => ({condition}))().catch(() => null)")
            except RuntimeError:  # the page is just being replaced by another one
                value = None
            if value:
                return value
            time.sleep(0.05)
        raise TimeoutError(f"not true within {seconds:g} s: {condition}\n{self.run('document.body.innerText')}\n{self.problems()}")

    def problems(self) -> List[str]:
        """Errors of the page so far: exceptions, console errors, blocked or failed requests."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
                found.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        return found

    def requests(self) -> List[str]:
        """Addresses of every request of the page so far."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """Close the tab."""
        self.call("Page.close")
        self._socket.close()


class WebSocket:
    """A client's end of RFC 6455: text messages, no extensions."""

    def __init__(self, address: str) -> None:
        place, _, path = address[len("ws://"):].partition("/")
        host, _, port = place.partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(f"GET /{path} HTTP/1.1\r\nHost: {place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self._buffer = b""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._socket.recv(4096)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert b" 101 " in head.splitlines()[0], head

    def send(self, text: str) -> None:
        """One masked text frame."""
        data, mask = text.encode(), os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data)) if len(data) < 65536 else b"\xff" + struct.pack(">Q", len(data))
        repeated = (mask * (len(data) // 4 + 1))[:len(data)]
        self._socket.sendall(b"\x81" + size + mask + (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big"))

    def receive(self, deadline: float) -> str:
        """The next text message."""
        message = b""
        while True:
            first, second = self._take(2, deadline)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(self._take(2 if size == 126 else 8, deadline), "big")
            assert size < FRAME_BYTES
            data = self._take(size, deadline)
            if first & 0x0F in (0, 1):
                message += data
                if first & 0x80:
                    return message.decode()
            elif first & 0x0F == 8:
                raise ConnectionError("the browser closed the connection")

    def _take(self, count: int, deadline: Optional[float]) -> bytes:
        chunks = [self._buffer]
        held = len(self._buffer)
        while held < count:
            self._socket.settimeout(max(0.01, (deadline or 0) - time.monotonic()))
            chunk = self._socket.recv(1 << 20)
            if not chunk:
                raise ConnectionError("the browser went away")
            chunks.append(chunk)
            held += len(chunk)
        data = b"".join(chunks)
        self._buffer = data[count:]
        return data[:count]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
