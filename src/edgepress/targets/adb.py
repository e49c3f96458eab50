"""Targets over adb: phones, and boards with an adb daemon. Its client's exit code is never believed: `adb shell` ends with 0 when the device dies."""
from __future__ import annotations

import re
import shlex
import subprocess
from typing import Dict, List, Optional

from edgepress.errors import DeviceError, UnsupportedError
from edgepress.remote import RemoteConnection, open_remote

NAME = "adb"
HOME_THERE = "/data/local/tmp/edgepress"
OLDEST_CLIENT = 28  # older ones end a shell's stdin in other ways
SECONDS = 20
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*")
_STATES = {
    "unauthorized": ("{serial} has not allowed this computer", "unlock it and accept the question about USB debugging; then try again"),
    "authorizing": ("{serial} is just asking about this computer", "unlock it and accept the question about USB debugging; then try again"),
    "offline": ("{serial} is offline: it is known to adb, but does not answer", "take the cable out and in again, or: adb reconnect offline"),
    "recovery": ("{serial} is in recovery mode", "start it normally"),
    "sideload": ("{serial} is in sideload mode", "start it normally"),
    "bootloader": ("{serial} is in its boot loader", "start it normally"),
    "no permissions": ("this user may not open the USB device of {serial}", "install the udev rules of your system: apt install android-sdk-platform-tools-common; then plug it in again"),
}


def client(*words: str) -> str:
    """What `adb WORDS` prints.

    Raises:
        DeviceError: there is no client, or it does not answer.
    """
    try:
        done = subprocess.run(["adb", *words], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)
    except OSError as error:
        raise DeviceError("the adb client is not installed here", "install it with: apt install adb") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"`adb {' '.join(words)}` did not answer within {SECONDS} s", "end its server with: adb kill-server; then try again") from error
    return done.stdout + done.stderr


def check_client() -> None:
    """Raises DeviceError where the client is too old."""
    text = client("version")
    match = re.search(r"^Version (\d+)\.", text, re.MULTILINE)
    if not match or int(match[1]) < OLDEST_CLIENT:
        raise DeviceError(f"the adb client is version {match[1] if match else 'unknown'}; accepted: {OLDEST_CLIENT} or newer", "install a newer one: developer.android.com/tools/releases/platform-tools")


def list_states() -> Dict[str, str]:
    """Serial → state of every device that adb knows."""
    lines = client("devices").partition("List of devices attached")[2].splitlines()
    return {serial: state.strip() for serial, _, state in (line.partition("\t") for line in lines) if state}


def choose(address: str) -> str:
    """The serial that an address means; `adb://` alone is the only device there is.

    Raises:
        DeviceError: not there, not ready, or several to choose from.
        UnsupportedError: it is not such an address.
    """
    serial = address[len("adb://"):].rstrip("/")
    if serial and not _SERIAL.fullmatch(serial):
        raise UnsupportedError(f"{address!r} is not an address of a device; accepted: adb://SERIAL", "`adb devices` lists them")
    check_client()
    states = list_states()
    if serial and serial not in states and re.search(r":\d+$", serial):  # over the network: a server that was started anew does not know it
        client("connect", serial)
        states = list_states()
    if not serial and len(states) > 1:
        raise DeviceError(f"adb knows {len(states)} devices: {', '.join(states)}", "name one: adb://SERIAL")
    serial = serial or next(iter(states), "")
    if serial not in states:
        listed = f"adb knows: {', '.join(states)}" if states else "adb knows none"
        raise DeviceError(f"there is no device {serial or 'on adb'} ({listed})", "plug it in and allow USB debugging (developer options); over the network: adb connect HOST:PORT")
    _check_state(serial, states[serial])
    return serial


def _check_state(serial: str, state: str) -> None:
    for name, (problem, fix) in _STATES.items():
        if state.startswith(name):
            raise DeviceError(problem.format(serial=serial), fix)
    if state != "device":
        raise DeviceError(f"{serial} is not ready: adb calls it {state!r}", "look at its screen")


class AdbTransport:
    """One device by its serial. Without a terminal (`-T`), streams are separate and end where they end; Android 7 and newer."""

    home = HOME_THERE

    def __init__(self, address: str) -> None:
        self.address, self._serial = address, choose(address)

    def argv(self, script: str) -> List[str]:
        """See `base.Transport`."""
        return ["adb", "-s", self._serial, "shell", "-T", "-e", "none", f"exec sh -c {shlex.quote(script)}"]

    def explain(self, exit_code: int, stderr: str) -> Optional[DeviceError]:
        """See `base.Transport`."""
        if "PTY args" in stderr:
            return DeviceError(f"{self.address} is too old: its shell cannot keep streams apart; accepted: Android 7 or newer", "measure on another phone, or in its browser: edgepress device serve")
        if re.search(r"device '.*' not found|device offline|device unauthorized|no devices|more than one device", stderr):
            try:
                choose(self.address)
            except DeviceError as error:
                return error
        return None

    def close(self) -> None:
        """Nothing was made here."""


def connect(address: str) -> RemoteConnection:
    """Open the target."""
    return open_remote(AdbTransport(address))
