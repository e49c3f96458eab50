"""The emulated device: real arm64 programs, reachable by the real ssh and adb clients, private, and gone when it ends."""
from __future__ import annotations

import os
import subprocess
from typing import List

import pytest

pytestmark = pytest.mark.device


def client(*command: str, timeout: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def ssh(command: str) -> subprocess.CompletedProcess:
    return client("ssh", "-F", os.environ["EDGEPRESS_SSH_CONFIG"], "-o", "BatchMode=yes", "emulated-pi", command)


def adb(*arguments: str) -> subprocess.CompletedProcess:
    return client("adb", "-s", "127.0.0.1:25555", *arguments)


def test_runs_arm64_programs_of_the_profile_processor(emulated_pi) -> None:
    done = emulated_pi.shell("uname -m; id -un; cat /etc/edgepress-emulated; grep -m1 part /proc/cpuinfo")
    assert done.stdout.split("\n")[:3] == ["aarch64", "pi", "rpi4"] and "0xd08" in done.stdout  # 0xd08: Cortex-A72
    assert emulated_pi.shell("exit 7").exit_code == 7


def test_ssh_and_adb_reach_it_with_their_own_exit_codes(emulated_pi) -> None:
    assert (ssh("uname -m; exit 3").stdout, ssh("exit 3").returncode) == ("aarch64\n", 3)
    done = adb("shell", "uname -m; getprop ro.product.cpu.abi; exit 4")
    assert (done.stdout, done.returncode) == ("aarch64\narm64-v8a\n", 4)
    assert client("sh", "-c", "command -v getprop").returncode and ssh("command -v getprop").returncode  # a board is no phone
