"""Joins stdin and stdout to a TCP port: what ssh runs, inside the emulated device's private network, instead of connecting itself."""
from __future__ import annotations

import os
import select
import socket
import sys


def join(port: int) -> None:
    """Copy both ways until both sides have ended, or the far one has."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as far:
        far.settimeout(None)
        near = [0]
        while True:
            ready, _, _ = select.select([far, *near], [], [])
            if far in ready:
                data = far.recv(1 << 16)
                if not data:
                    return
                _write_all(data)
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if data:
                    far.sendall(data)
                else:
                    far.shutdown(socket.SHUT_WR)
                    near.clear()


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]


if __name__ == "__main__":
    try:
        join(int(sys.argv[1]))
    except OSError as error:
        sys.exit(f"the emulated device does not answer on port {sys.argv[1]}: {error.strerror or error}")
