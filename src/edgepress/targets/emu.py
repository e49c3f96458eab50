"""A Raspberry Pi played by this machine as a target: `emu://rpi4`. Answers are those of the real programs and kernels, time is not.

Each connection is a device fresh from the factory that ends with it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Sequence

from edgepress.emulator import start
from edgepress.errors import DeviceError

if TYPE_CHECKING:
    from edgepress.remote import RemoteConnection

NAME = "emu"


class EmulatedTransport:
    """Runs scripts in a device that this object owns."""

    home = "~/.edgepress"

    def __init__(self, address: str) -> None:
        self.address = address
        self._device = start(address.partition("://")[2], daemons=())

    def argv(self, script: str) -> Sequence[str]:
        """Straight into its namespaces, no daemon in between."""
        return self._device.command(["/bin/sh", "-c", script])

    def explain(self, exit_code: int, stderr: str) -> Optional[DeviceError]:
        """What a missing answer means."""
        if not self._device.is_running:
            return DeviceError(f"{self.address} has ended in the middle; nothing of it counts", "try again; if it happens again, look whether this machine runs out of memory")
        return None

    def close(self) -> None:
        """End the device."""
        self._device.close()


def connect(address: str) -> RemoteConnection:
    """Start an emulated device.

    Raises:
        UnsupportedError: no such profile, or this machine cannot emulate; says what to install or switch on.
        DeviceError: it did not come up.
    """
    from edgepress.remote import open_remote

    return open_remote(EmulatedTransport(address))
