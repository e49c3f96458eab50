"""Progress for people: stages report, whoever started them draws."""
from __future__ import annotations

import sys
import threading
import time
from typing import Callable, Optional

Sink = Callable[[str, Optional[float]], None]


def _plain(text: str, done: Optional[float]) -> None:
    sys.stderr.write(text + (f" {done:.0%}" if done is not None else "") + "\n")


class _State:
    sink: Sink = staticmethod(_plain)


def report_progress(text: str, *, done: Optional[float] = None) -> None:
    """Tell the user what is being done; `done` is a share 0–1 where known."""
    _State.sink(text, done)


def set_sink(sink: Optional[Sink]) -> None:
    """Send progress somewhere else (None: back to plain lines on stderr)."""
    _State.sink = staticmethod(sink or _plain)


class TerminalLine:
    """A sink that redraws one line with the time left; on a pipe it prints a line at most every `interval_seconds`."""

    def __init__(self, prefix: str = "", *, interval_seconds: float = 10.0) -> None:
        self._prefixes = threading.local()  # stages that run beside each other have one each
        self.prefix, self.interval_seconds = prefix, interval_seconds
        self.live = sys.stderr.isatty()
        self.text, self.started, self.printed = "", 0.0, 0.0

    @property
    def prefix(self) -> str:
        """What stands before the text of the calling thread."""
        return getattr(self._prefixes, "text", "")

    @prefix.setter
    def prefix(self, text: str) -> None:
        self._prefixes.text = text

    def __call__(self, text: str, done: Optional[float] = None) -> None:
        now = time.monotonic()
        if text != self.text:
            self.text, self.started, self.printed = text, now, 0.0 if self.live or done is None else now
        if now - self.printed < (0.1 if self.live else self.interval_seconds):
            return
        self.printed = now
        line = self.prefix + text
        if done is not None:
            line += f" {done:4.0%}"
            if 0.02 < done < 1:
                line += f", {(now - self.started) * (1 - done) / done:.0f} s left"
        sys.stderr.write("\r\x1b[2K" + line if self.live else line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the terminal on a clean line."""
        if self.live:
            sys.stderr.write("\r\x1b[2K")


class drawn_progress:
    """Draws progress while a command works."""

    def __enter__(self) -> TerminalLine:
        self.line = TerminalLine()
        set_sink(self.line)
        return self.line

    def __exit__(self, *_: object) -> None:
        self.line.close()
        set_sink(None)
