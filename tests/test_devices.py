"""The list of devices, host keys, and leases."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from click.testing import CliRunner
from shell_transport import ShellTransport

from edgepress import devices, host_keys
from edgepress.cli import cli
from edgepress.devices import add_device, forget_device, lease, list_devices, resolve
from edgepress.emulator import Emulated
from edgepress.errors import DeviceError, UnsupportedError
from edgepress.remote import open_remote


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address leads to a shell of this machine, with a known host key."""
    monkeypatch.setattr(devices, "connect", lambda address: open_remote(ShellTransport(tmp_path / "device")))
    monkeypatch.setattr(host_keys, "is_known", lambda address: True)


@pytest.mark.parametrize(("address", "name"), [("ssh://pi@raspberrypi.local", "raspberrypi"), ("ssh://pi@10.0.0.7:22", "10-0-0-7"), ("adb://PIXEL9", "PIXEL9"), ("adb://127.0.0.1:5555", "127-0-0-1-5555")])
def test_a_device_has_a_name(anywhere: None, address: str, name: str) -> None:
    added = add_device(address)
    assert (added.name, added.address, added.measured_on) == (name, address, "real") and list_devices() == [added]
    assert resolve(name) == address == resolve(address) and resolve("local") == "local"
    assert forget_device(name) == added and list_devices() == []


def test_names_that_cannot_be(anywhere: None) -> None:
    for name in ("local", "a/b", "", "-x", "a b"):
        if name:
            with pytest.raises(UnsupportedError, match="is not a name for a device"):
                add_device("adb://ONE", name)
    add_device("adb://ONE", "phone")
    add_device("adb://ONE", "phone")
    with pytest.raises(DeviceError, match="phone is the name of adb://ONE already; .* device forget phone"):
        add_device("adb://TWO", "phone")
    for address in ("phone", "http://x", "local"):
        with pytest.raises(UnsupportedError, match="is not an address"):
            add_device(address)
    with pytest.raises(UnsupportedError, match=r"there is no device 'fone'; accepted: local, phone \(did you mean 'phone'\?\)"):
        resolve("fone")
    with pytest.raises(DeviceError, match="there is no device 'fone'"):
        forget_device("fone")


def test_a_list_that_cannot_be_read_is_left_alone(anywhere: None, home: Path) -> None:
    home.mkdir()
    (home / "devices.json").write_text('{"devices": {"pi": {"address": 1}}}')
    with pytest.raises(DeviceError, match="devices.json cannot be read"):
        add_device("adb://ONE")
    assert "address" in (home / "devices.json").read_text()


def test_one_at_a_time(anywhere: None, home: Path) -> None:
    add_device("adb://ONE", "phone")
    with lease("phone"):
        with pytest.raises(DeviceError, match=r"adb://ONE is in use by process \d+ of this machine, since"):
            with lease("adb://ONE"):
                pass
        with lease("adb://TWO"), lease("emu://rpi4"), lease("emu://rpi4"):
            pass
    with lease("phone"):
        pass


def test_a_lease_ends_with_its_process(home: Path) -> None:
    code = "from edgepress.devices import lease\nwith lease('adb://ONE'):\n print('held', flush=True)\n input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(DeviceError, match=f"process {process.pid} "):
            with lease("adb://ONE"):
                pass
        process.kill()
    with lease("adb://ONE"):
        pass


def test_the_commands(anywhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.device_use.connect", lambda address: open_remote(ShellTransport(tmp_path / "device")))
    call = CliRunner().invoke
    assert "next: edgepress device check pi" in call(cli, ["device", "add", "ssh://pi@host", "--name", "pi"]).output
    assert json.loads(call(cli, ["device", "list", "--json"]).output)[0]["address"] == "ssh://pi@host" and "ssh://pi@host" in call(cli, ["device", "list"]).output
    (tmp_path / "m.tflite").write_bytes(b"model")
    there = call(cli, ["device", "push", "pi", str(tmp_path / "m.tflite")]).output.strip()
    assert Path(there).read_bytes() == b"model"
    assert call(cli, ["device", "forget", "pi"]).output == "pi (ssh://pi@host) is forgotten\n"
    assert "no device is registered" in call(cli, ["device", "list"]).output


@pytest.fixture
def unknown_pi(emulated_pi: Emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The emulated device, to a user whose ssh has never seen it."""
    lines = [line for line in emulated_pi.ssh_config.read_text().splitlines() if "KnownHostsFile" not in line]
    (tmp_path / "config").write_text("\n".join([*lines, f"    UserKnownHostsFile {tmp_path}/none\n"]))
    monkeypatch.setenv("EDGEPRESS_SSH_CONFIG", str(tmp_path / "config"))
    yield emulated_pi.ssh_address


@pytest.mark.device
@pytest.mark.slow
def test_a_host_key_is_shown_pinned_and_kept(unknown_pi: str, home: Path, tmp_path: Path) -> None:
    shown = []
    with pytest.raises(DeviceError, match=r"was not accepted: SHA256:.*--accept-host-key SHA256:"):
        add_device(unknown_pi, ask=lambda fingerprint: bool(shown.append(fingerprint)))
    with pytest.raises(DeviceError, match="is not known here"):
        devices.connect(unknown_pi)
    with pytest.raises(DeviceError, match="not the accepted SHA256:other"):
        add_device(unknown_pi, accept_host_key="SHA256:other")
    assert not (home / "known_hosts").exists() and list_devices() == []
    added = add_device(unknown_pi, "pi", accept_host_key=shown[0])
    assert added.host_key == shown[0] and added.measured_on == "emulated" and (home / "known_hosts").stat().st_mode & 0o777 == 0o600
    assert add_device(unknown_pi, "pi", ask=lambda _: pytest.fail("it is known")).name == "pi"

    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    (home / "known_hosts").write_text("emulated-pi " + (tmp_path / "other.pub").read_text())
    for refused in (lambda: devices.connect(unknown_pi), lambda: add_device(unknown_pi, accept_host_key=shown[0])):
        with pytest.raises(DeviceError, match="shows another host key .* edgepress device forget"):
            refused()
    forget_device("pi")
    assert "emulated-pi" not in (home / "known_hosts").read_text()
    assert add_device(unknown_pi, "pi", ask=lambda fingerprint: fingerprint == shown[0]).host_key == shown[0]
