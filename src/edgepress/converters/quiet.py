"""Keep what C++ libraries print away from the user, unless something fails."""
from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from typing import Iterator

from edgepress.errors import EdgepressError, ModelError

_SHOWN = 3000  # characters of captured output that an error may carry
_MESSAGE = 800  # characters of the exception's own message: MLIR prints whole graphs


@contextlib.contextmanager
def captured_output(doing: str, *, hint: str) -> Iterator[None]:
    """Send file descriptors 1 and 2 to a temporary file while the body runs.

    The TFLite converter and tf2onnx write to both from C++, where no logger reaches. Our own errors pass through.

    Raises:
        ModelError: the body raised; carries its message, the end of what was printed, and `hint`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except EdgepressError:
            raise
        except Exception as error:  # whatever a foreign converter raises means: not convertible
            sys.stdout.flush()
            sys.stderr.flush()
            raise ModelError(f"{doing} failed: {_brief(error)}{_tail(sink)}", hint) from error
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, copy in zip((1, 2), saved):
                os.dup2(copy, target)
                os.close(copy)


def _brief(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text[:_MESSAGE]}" + (" …" if len(text) > _MESSAGE else "")


def _tail(sink: "tempfile._TemporaryFileWrapper[bytes]") -> str:
    sink.seek(0, os.SEEK_END)
    sink.seek(max(0, sink.tell() - _SHOWN))
    lines = [line for line in sink.read().decode("utf-8", "replace").splitlines() if "error" in line.lower()]
    return "\nit printed: " + "\n".join(line[:300] for line in lines[-5:]) if lines else ""
