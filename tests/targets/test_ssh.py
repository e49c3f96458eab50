"""Addresses, settings and messages of ssh targets, with the real client and no server."""
from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgepress.errors import DeviceError, UnsupportedError
from edgepress.targets import connect
from edgepress.targets.ssh import Place, SshTransport, _short_folder, explain, parse

ADDRESS = "ssh://pi@raspberrypi.local"


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    config = tmp_path / "config"
    config.write_text("Host pi\n HostName 127.0.0.1\n Port 9\n User frank\n UserKnownHostsFile /known/by/user\n RemoteCommand bash\n RequestTTY force\n ControlPath /nowhere\n ForwardAgent yes\n")
    monkeypatch.setenv("EDGEPRESS_SSH_CONFIG", str(config))
    monkeypatch.setenv("EDGEPRESS_HOME", str(tmp_path / "home"))
    return config


@pytest.mark.parametrize(("address", "place"), [
    ("ssh://pi", Place("pi", None, None)), ("ssh://pi@raspberrypi.local/", Place("raspberrypi.local", "pi", None)), ("ssh://a-b@10.0.0.7:2222", Place("10.0.0.7", "a-b", 2222)),
    ("ssh://pi@[fe80::1%eth0]:22", Place("fe80::1%eth0", "pi", 22))])
def test_addresses(address: str, place: Place) -> None:
    assert parse(address) == place


@pytest.mark.parametrize("address", ["ssh://", "ssh://-oProxyCommand=id", "ssh://-l@host", "ssh://pi:secret@host", "ssh://host/etc", "ssh://host:0", "ssh://host:99999", "ssh://a b", "ssh://host\n", "ssh://$(id)"])
def test_what_is_no_address_is_refused_before_anything_runs(address: str) -> None:
    with pytest.raises(UnsupportedError, match="is not an address of a device"):
        connect(address)


def test_the_command_line(own_settings: Path, tmp_path: Path) -> None:
    transport = SshTransport("ssh://root@pi:22")
    argv = transport.argv("echo 'a b' \"$HOME\"")
    assert argv[:5] == ["ssh", "-F", str(own_settings), "-T", "-a"] and argv[-6:] == ["-l", "root", "-p", "22", "pi", "exec sh -c 'echo '\"'\"'a b'\"'\"' \"$HOME\"'"]
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "RemoteCommand=none", "ClearAllForwardings=yes", f'UserKnownHostsFile="{tmp_path}/home/known_hosts" /known/by/user'):
        assert argv[argv.index(option) - 1] == "-o"
    socket_path = Path(argv[argv.index("-S") + 1])
    assert len(str(socket_path)) < 80 and os.stat(socket_path.parent).st_mode & 0o777 == 0o700
    transport.close()
    assert not socket_path.parent.exists()


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DeviceError, match="pi is there, but no ssh server answers; on the device: sudo systemctl enable --now ssh"):
        connect(f"ssh://pi:{port}")
    with pytest.raises(DeviceError, match="there is no host nothing.invalid"):
        connect("ssh://nothing.invalid")


@pytest.mark.slow
def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.targets.ssh._OPTIONS", ("BatchMode=yes", "ConnectTimeout=1", "LogLevel=ERROR"))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(DeviceError, match="127.0.0.1 does not answer"):
            connect(f"ssh://pi@127.0.0.1:{server.getsockname()[1]}")


def test_settings_that_ssh_refuses(own_settings: Path) -> None:
    own_settings.write_text("Nonsense yes\n")
    before = set(Path(_short_folder()).glob("ep-*"))
    with pytest.raises(DeviceError, match="ssh refuses its configuration: .*[Bb]ad configuration option(.|\n)*; mend .*config"):
        connect("ssh://pi")
    assert set(Path(_short_folder()).glob("ep-*")) <= before


@pytest.mark.parametrize(("stderr", "words"), [
    ("@  WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!  @\nHost key verification failed.", "edgepress device forget ssh://pi@raspberrypi.local"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED!\nOffending ED25519 key in /home/me/.ssh/known_hosts:3\n", "ssh-keygen -f '/home/me/.ssh/known_hosts' -R 'raspberrypi.local'"),
    ("No ED25519 host key is known for pi and you have requested strict checking.\nHost key verification failed.", "edgepress device add ssh://pi@raspberrypi.local"),
    ("pi@raspberrypi.local: Permission denied (publickey,password).", "ssh-copy-id pi@raspberrypi.local"), ("ssh: connect to host x port 22: No route to host", "ping raspberrypi.local")])
def test_messages_of_the_client_are_explained(stderr: str, words: str) -> None:
    error = explain(ADDRESS, parse(ADDRESS), stderr)
    assert error is not None and error.hint is not None and words in error.hint


def test_other_messages_are_left_alone() -> None:
    assert explain(ADDRESS, parse(ADDRESS), "Welcome to Raspberry Pi OS\n") is None


def test_no_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="ssh client is not installed here; install it with: apt install openssh-client"):
        connect("ssh://pi")
