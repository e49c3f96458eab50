"""The emulated Raspberry Pi 4 that device tests share: a real arm64 user space with a real sshd and adbd, in private namespaces."""
from __future__ import annotations

import os
from typing import Iterator

import pytest

from edgepress.emulator import Emulated, start
from edgepress.emulator.requirements import reason
from edgepress.emulator.root import emulator_home

HOME = emulator_home()  # read now: tests that need a device first may have set EDGEPRESS_HOME to a folder of their own


def need_emulator() -> None:
    """Skip where this machine cannot emulate a device; fail where EDGEPRESS_REQUIRE_EMULATOR says that it must."""
    why = reason()
    if why and os.environ.get("EDGEPRESS_REQUIRE_EMULATOR"):
        pytest.fail(f"EDGEPRESS_REQUIRE_EMULATOR is set, but {why}")
    if why:
        pytest.skip(why)


@pytest.fixture(scope="session")
def emulated_pi() -> Iterator[Emulated]:
    """A running Pi 4; plain `ssh -F $EDGEPRESS_SSH_CONFIG emulated-pi` and `adb` reach it while tests run."""
    need_emulator()
    with start("rpi4", home=HOME) as device, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_SSH_CONFIG", str(device.ssh_config))
        patch.setenv("ADB_SERVER_SOCKET", device.adb_socket)
        yield device
