"""What adb says about devices, by a stand-in for its client; the real one and a real daemon are in the contract test."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from edgepress.errors import DeviceError, UnsupportedError
from edgepress.targets import connect
from edgepress.targets.adb import AdbTransport, choose

Client = Callable[..., None]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Put a script in adb's place: the devices it lists, what `connect` adds to them, and what its shell does."""
    def use(devices: str = "", *, version: str = "34.0.5-debian", connected: str = "", shell: str = "exit 0") -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "devices").write_text("* daemon started successfully\nList of devices attached\n" + devices)
        script = (f"#!/bin/sh\ncase $1 in\nversion) echo 'Android Debug Bridge version 1.0.41'; echo 'Version {version}';;\ndevices) cat {folder}/devices;;\n"
                  f"connect) printf '{connected}' >> {folder}/devices;;\n-s) {shell};;\nesac\n")
        (folder / "adb").write_text(script)
        (folder / "adb").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return use


@pytest.mark.parametrize(("state", "words"), [
    ("unauthorized", "has not allowed this computer; unlock it and accept"), ("offline", "is offline"), ("recovery", "recovery mode"),
    ("no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com]", "udev rules"), ("somehow", "adb calls it 'somehow'")])
def test_states_are_explained(client: Client, state: str, words: str) -> None:
    client(f"PIXEL\t{state}\n")
    with pytest.raises(DeviceError, match=words):
        connect("adb://PIXEL")


def test_which_device(client: Client) -> None:
    client("PIXEL\tdevice\n")
    assert choose("adb://PIXEL") == choose("adb://") == "PIXEL"
    client("PIXEL\tdevice\nOTHER\tdevice\n")
    assert choose("adb://OTHER") == "OTHER"
    with pytest.raises(DeviceError, match="adb knows 2 devices: PIXEL, OTHER; name one: adb://SERIAL"):
        choose("adb://")
    with pytest.raises(DeviceError, match=r"there is no device PIXLE \(adb knows: PIXEL, OTHER\)"):
        choose("adb://PIXLE")
    client("")
    with pytest.raises(DeviceError, match=r"there is no device on adb \(adb knows none\)"):
        choose("adb://")


def test_a_network_address_is_connected_to_once(client: Client) -> None:
    client("", connected="192.168.0.7:5555\\tdevice\\n")
    assert choose("adb://192.168.0.7:5555") == "192.168.0.7:5555"


@pytest.mark.parametrize("address", ["adb://-s", "adb://a b", "adb://$(id)", "adb://x/y"])
def test_what_is_no_serial_is_refused(client: Client, address: str) -> None:
    client("PIXEL\tdevice\n")
    with pytest.raises(UnsupportedError, match="is not an address of a device; accepted: adb://SERIAL"):
        connect(address)


def test_the_client_must_be_there_and_new_enough(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client("PIXEL\tdevice\n", version="27.0.1")
    with pytest.raises(DeviceError, match="the adb client is version 27; accepted: 28 or newer"):
        connect("adb://PIXEL")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="adb client is not installed here; install it with: apt install adb"):
        connect("adb://PIXEL")


def test_an_exit_code_of_zero_is_not_believed(client: Client) -> None:
    client("PIXEL\tdevice\n", shell="echo some output; exit 0")
    with pytest.raises(DeviceError, match="ended in the middle; nothing of it counts"):
        connect("adb://PIXEL")


def test_an_old_android_is_named(client: Client) -> None:
    client("PIXEL\tdevice\n", shell="echo 'error: target does not support PTY args -Tt' >&2; exit 1")
    with pytest.raises(DeviceError, match="too old.*accepted: Android 7 or newer"):
        connect("adb://PIXEL")


def test_the_command_line_names_the_device(client: Client) -> None:
    client("PIXEL\tdevice\n")
    assert AdbTransport("adb://").argv("echo 'x'") == ["adb", "-s", "PIXEL", "shell", "-T", "-e", "none", "exec sh -c 'echo '\"'\"'x'\"'\"''"]
