"""One client process (ssh, adb, …) whose streams stay within bounds, and the framed answer it brings."""
from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, List, Optional, Sequence, Tuple, Union

from edgepress.errors import DeviceError

if TYPE_CHECKING:
    from edgepress.targets.base import Transport

NOISE_BYTES = 1 << 20  # banners and start files may say so much before our first line
STDERR_BYTES = 1 << 20
TEXT_BYTES = 4 << 20  # of what a command prints
STRAGGLER_SECONDS = 1.0  # a process that the client left behind may hold a stream open
_IN_MEMORY = 1 << 20
# What could steer a terminal: C0 but tab and newline, DEL, C1, line separators and marks that turn the direction of writing.
_CONTROL = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)))
HELD = "held"  # stdin: open, silent, and closed by us at the end


@dataclass
class Answer:
    """What the client process said until it ended or was ended."""

    exit_code: int
    stdout: BinaryIO
    stderr: bytes
    seconds: float
    stopped: Optional[str] = None  # "timeout" | "overflow" | "lost": we ended it


@dataclass(frozen=True)
class Frame:
    """The part of stdout between our begin line and our end line, and what the end line says."""

    start: int
    stop: int
    exit_code: int
    digest: str


class Exchange:
    """A running client process. `end` may be called from another thread."""

    def __init__(self, argv: Sequence[str], *, stdin: Union[None, str, IO[bytes]] = None, max_bytes: int) -> None:
        self._stopped: Optional[str] = None
        self._started = time.monotonic()
        self._held: Optional[int] = None
        source: Union[int, IO[bytes]] = subprocess.DEVNULL if stdin is None else stdin  # type: ignore[assignment]
        if stdin == HELD:
            source, self._held = os.pipe()
        try:
            self._process = subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            self.let_go()
            raise DeviceError(f"{argv[0]} cannot be started: {error.strerror}", f"install {argv[0]}, or put it on PATH") from error
        finally:
            if stdin == HELD:
                os.close(source)  # type: ignore[arg-type]
        self._out: BinaryIO = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # type: ignore[assignment]
        self._err: BinaryIO = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # type: ignore[assignment]
        self._news, self._silent = threading.Condition(), False
        self._is_over = False
        self._readers = [threading.Thread(target=self._collect, args=arguments, daemon=True)
                         for arguments in ((self._process.stdout, self._out, max_bytes + NOISE_BYTES, True), (self._process.stderr, self._err, STDERR_BYTES, False))]
        for reader in self._readers:
            reader.start()

    def _collect(self, stream: IO[bytes], to: BinaryIO, most: int, stop: bool) -> None:
        size = 0
        for chunk in iter(lambda: stream.read1(65536), b""):  # type: ignore[attr-defined]
            size += len(chunk)
            if size <= most:
                with self._news:
                    if self._is_over:
                        break
                    to.write(chunk)
                    self._news.notify_all()
            elif stop:
                self.end("overflow")
                break
        stream.close()
        with self._news:
            self._silent |= to is self._out
            self._news.notify_all()

    def wait_for(self, lines: str, timeout_seconds: float) -> Optional["re.Match[str]"]:
        """Sleep until one of our lines was said; None where the client ended first, or said nothing of the kind in time."""
        pattern = re.compile(lines, re.MULTILINE)

        def found() -> Optional["re.Match[str]"]:
            self._out.seek(0)
            return pattern.search(self._out.read().decode(errors="replace").replace("\r\n", "\n"))
        with self._news:
            self._news.wait_for(lambda: found() or self.is_silent, timeout_seconds)
            return found()

    @property
    def is_silent(self) -> bool:
        """Whether nothing more can be said: stdout is at its end."""
        return self._silent

    def wait(self, timeout_seconds: Optional[float]) -> Answer:
        """Sleep until the client ends, at most so long."""
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.end("timeout")
            self._process.wait()
        finally:
            if self._process.poll() is None:
                self.end("lost")
                self._process.wait()
            self.let_go()
            deadline = time.monotonic() + STRAGGLER_SECONDS
            for reader in self._readers:
                reader.join(max(deadline - time.monotonic(), 0))
            with self._news:
                self._is_over = True
        self._out.seek(0)
        self._err.seek(0)
        return Answer(self._process.returncode, self._out, self._err.read(), time.monotonic() - self._started, self._stopped)

    def end(self, why: str) -> None:
        """End the client and what it started here."""
        if self._process.poll() is None:
            self._stopped = self._stopped or why
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Close our end of a held stdin: what runs there is told to end."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def find_frame(stdout: BinaryIO, nonce: str) -> Optional[Frame]:
    """Where our answer lies in all that was said; None where the end line is missing: then nothing is known to have succeeded."""
    head = stdout.read(NOISE_BYTES + 100)
    begin = re.search(rb"(?:^|\n)EDGEPRESS-BEGIN %s\r?\n" % nonce.encode(), head)
    size = stdout.seek(0, os.SEEK_END)
    tail_at = max(size - 8192, 0)
    stdout.seek(tail_at)
    ends = list(re.finditer(rb"(?:^|\n)EDGEPRESS-END %s (\d{1,3}) ([0-9a-f]{64}|-)\r?\n" % nonce.encode(), stdout.read()))
    if not begin or not ends or tail_at + ends[-1].start() < begin.end() - 1:
        return None
    return Frame(begin.end(), max(tail_at + ends[-1].start(), begin.end()), int(ends[-1][1]), ends[-1][2].decode())


def clean(text: str) -> str:
    """Text from a device without what could steer a terminal: control characters but newline and tab."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def no_answer(transport: Transport, answer: Answer, timeout_seconds: float) -> DeviceError:
    """Why an answer has no end line: what the client says if we know its message, else how it ended."""
    stderr = clean(answer.stderr.decode(errors="replace"))
    if answer.stopped == "timeout":
        return DeviceError(f"{transport.address} did not answer within {timeout_seconds:.0f} s", "look whether it is still running; then try again")
    if answer.stopped == "overflow":
        return DeviceError(f"{transport.address} sent more than is accepted", "look at what that command prints there")
    known = transport.explain(answer.exit_code, stderr)
    said = " / ".join([line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith("EDGEPRESS-")][-3:])[-500:]
    return known or DeviceError(f"the connection to {transport.address} ended in the middle; nothing of it counts" + (f" ({said})" if said else ""),
                                "look whether the device is still running; then try again")


def new_nonce() -> str:
    """A name that nobody there can have used before."""
    return secrets.token_hex(8)


def split_digests(listing: str) -> List[Tuple[str, str]]:
    """(sha256, path) of the lines of `sha256sum`."""
    return [(line[:64], line[66:]) for line in listing.splitlines() if re.fullmatch(r"[0-9a-f]{64} [ *].+", line)]
