"""Hold a device: one process there is the lease, for exactly as long as it and the way to it live."""
from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import threading
import time
from typing import Dict, Iterator, List, Optional

from edgepress import remote_scripts as scripts
from edgepress.channel import HELD, TEXT_BYTES, Exchange, clean, new_nonce, no_answer
from edgepress.errors import DeviceError
from edgepress.targets.base import Transport

OPEN_SECONDS = 40.0
CLOSE_SECONDS = 3.0


class Keeper:
    """The process there that holds the device for us; when it ends, the connection has ended, and whatever we wait for is given up at once."""

    def __init__(self, transport: Transport) -> None:
        self._transport, self._nonce = transport, new_nonce()
        self._lock, self._waiting = threading.Lock(), []  # type: threading.Lock, List[Exchange]
        self._ended: Optional[DeviceError] = None
        self._exchange = Exchange(transport.argv(scripts.opening(home=transport.home, nonce=self._nonce, who=_who())), stdin=HELD, max_bytes=TEXT_BYTES)
        self.facts = self._open()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _open(self) -> Dict[str, str]:
        """What the device says of itself once it is ours.

        Raises:
            DeviceError: unreachable, refused, or somebody else's.
        """
        try:
            line = self._exchange.wait_for(rf"^EDGEPRESS-(READY|HELD|FAIL) {self._nonce}(.*)\n", OPEN_SECONDS)
        except BaseException:
            self._exchange.end("lost")
            raise
        if line and line[1] == "READY":
            return dict(re.findall(rf"^EDGEPRESS-FACT {self._nonce} (\w+) ?(.*)$", clean(line.string), re.MULTILINE))
        if not line and not self._exchange.is_silent:
            self._exchange.end("timeout")
        answer = self._exchange.wait(CLOSE_SECONDS)
        said = clean(line[2]).strip() if line else ""
        if line and line[1] == "HELD":
            raise DeviceError(f"{self._transport.address} is in use by {said}", "wait until it is free; only one at a time can measure there")
        if line:
            raise DeviceError(f"{self._transport.address}: {said} ({clean(answer.stderr.decode(errors='replace')).strip()[-300:]})", "make room there, or look at the rights of that folder")
        raise no_answer(self._transport, answer, OPEN_SECONDS)

    def _watch(self) -> None:
        answer = self._exchange.wait(None)
        with self._lock:
            self._ended = no_answer(self._transport, answer, OPEN_SECONDS)
            waiting = list(self._waiting)
        time.sleep(0.2 if waiting else 0)  # what has arrived already may be read
        for exchange in waiting:
            exchange.end("lost")

    def check(self) -> None:
        """Raises DeviceError where the device is not ours any more."""
        if self._ended is not None:
            raise self._ended

    @contextlib.contextmanager
    def watching(self, exchange: Exchange) -> Iterator[None]:
        """While something is waited for: it ends when the keeper does."""
        with self._lock:
            self._waiting.append(exchange)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.remove(exchange)

    def close(self) -> None:
        """Give the device back."""
        self._exchange.let_go()
        self._watcher.join(CLOSE_SECONDS)
        self._exchange.end("lost")


def _who() -> str:
    """Who we are, for the person who finds the device taken."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    text = f"{user}@{socket.gethostname()} (process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M')})"
    return re.sub(r"[^A-Za-z0-9@._(), :-]", "_", text)
