"""Probing: the real scripts in real shells, and what is made of answers that a device should not give."""
from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping, Sequence

import pytest

from edgepress import power
from edgepress.device_probe import DATA, decode_throttled, probe, read_lines, to_facts
from edgepress.errors import DeviceError
from edgepress.targets.base import Completed
from edgepress.targets.local import LocalConnection

PYTHON = {"path": "/usr/bin/python3", "prefix": "/usr", "version": "3.13.5", "implementation": "CPython", "bits": 64, "venv": False, "free_threaded": False, "ensurepip": True,
          "glibc": "glibc 2.41", "externally_managed": True, "packages": {"numpy": "2.2.4"}}


class Elsewhere(LocalConnection):
    """This machine under another address, with another PATH and home: a device without what is not in it."""

    address = "ssh://pi@pi"
    home = ""  # the script finds it

    def __init__(self, path: Path, home: Path) -> None:
        self.environment = {"PATH": str(path), "HOME": str(home)}

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        return super().run([str(Path("/bin/sh").resolve()), *command[1:]], environment={**environment, **self.environment}, timeout_seconds=timeout_seconds)


class Says(LocalConnection):
    """A connection that answers a fixed text in which NONCE is the nonce."""

    address = "ssh://pi@pi"

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, command: Sequence[str], *, environment: Mapping[str, str], timeout_seconds: float) -> Completed:
        return Completed(0, self.text.replace("NONCE", command[4]), "")


def program(folder: Path, name: str, text: str) -> None:
    """A shell program."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.slow
def test_this_machine() -> None:
    facts = probe(LocalConnection())
    assert facts["machine"] == os.uname().machine and facts["release"] == os.uname().release and facts["page_size"] == os.sysconf("SC_PAGE_SIZE")
    first = facts["python"][0]
    assert os.path.realpath(first["prefix"]) == os.path.realpath(sys.prefix) and first["version"] == "%d.%d.%d" % sys.version_info[:3] and first["bits"] == 64
    import numpy

    assert facts["numpy"] == numpy.__version__ and facts["glibc"] and facts["memory_bytes"] > 1 << 20 and facts["free_bytes"] > 0
    assert "litert" not in facts["runtimes"] or facts["runtimes"]["litert"][0].isdigit()
    assert len({python["prefix"] for python in facts["python"]}) == len(facts["python"])
    json.dumps(facts)


def test_the_programs_of_the_firmware_and_of_a_phone_are_asked(tmp_path: Path) -> None:
    program(tmp_path / "bin", "vcgencmd", 'if [ "$1" = get_throttled ]; then echo throttled=0x50005; else echo "     3V7_WL_SW_A current(0)=0.09A"; fi')
    program(tmp_path / "bin", "getprop", 'case "$1" in ro.build.version.sdk) echo 34;; ro.product.cpu.abi) echo arm64-v8a;; ro.product.model) echo "Pixel 7";; esac')
    program(tmp_path / "bin", "dumpsys", 'if [ "$1" = battery ]; then printf "  AC powered: false\\n  USB powered: true\\n  level: 87\\n  temperature: 285\\n"; else echo "Thermal Status: 2"; fi')
    facts = probe(Elsewhere(tmp_path / "bin", tmp_path))
    assert facts["throttled"]["now"] == ["under-voltage", "throttled"] and facts["pmic"] is True
    assert facts["android"]["sdk"] == 34 and facts["android"]["model"] == "Pixel 7" and facts["android"]["thermal_status"] == 2
    assert facts["android"]["battery"] == {"level_percent": 87, "temperature_c": 28.5, "powered": True}


def test_virtual_environments_broken_and_talkative_pythons(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".edgepress" / "runtimes" / "litert")], check=True)
    program(tmp_path / "bin", "python3.9", "exit 1")
    program(tmp_path / "bin", "python3.12", f'echo hello; echo "python={{broken"; exec {sys.executable} "$@"')
    facts = probe(Elsewhere(tmp_path / "bin", tmp_path))
    venvs = [python for python in facts["python"] if python["venv"] and "runtimes/litert" in python["prefix"]]
    assert len(venvs) == 1 and venvs[0]["externally_managed"] is False
    assert str(tmp_path / "bin" / "python3.9") in facts["python_broken"]
    assert any(python["prefix"] == sys.prefix for python in facts["python"])  # the talkative one counts all the same


def test_a_folder_without_python_says_so() -> None:
    facts = to_facts({"machine": ["aarch64"], "system": ["Linux"], "long_bit": ["32"]})
    assert facts["python"] == [] and facts["runtimes"] == {} and facts["numpy"] is None and facts["bits"] == 32


def test_a_32_bit_system_under_a_64_bit_kernel() -> None:
    facts = to_facts({"machine": ["aarch64"], "long_bit": ["64"], "python": [json.dumps({**PYTHON, "bits": 32})]})
    assert facts["bits"] == 32


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash", "busybox", "mksh", "yash") if shutil.which(shell)])
def test_the_script_is_understood_by_each_shell(shell: str, tmp_path: Path) -> None:
    command = [shell, *(["sh"] if shell == "busybox" else []), "-c", (DATA / "probe.sh").read_text(), "probe", "n1", "print('python={}')", "", ""]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, check=False)
    lines = read_lines(done.stdout, "n1")
    assert lines is not None and lines["system"] == ["Linux"] and lines["writable"] == ["yes"] and int(lines["free_kb"][0]) > 0


def test_the_python_part_is_old_python() -> None:
    tree = ast.parse((DATA / "probe.py").read_text(), feature_version=(3, 5))
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(tree))  # f-strings came with 3.6


@pytest.mark.parametrize("text", ["", "nothing", "EDGEPRESS-PROBE-BEGIN other\nmachine=x\nEDGEPRESS-PROBE-END other\n", "EDGEPRESS-PROBE-BEGIN NONCE\nmachine=aarch64\n",
                                  "EDGEPRESS-PROBE-BEGIN NONCE\n" + "machine=a\n" * 30_000 + "EDGEPRESS-PROBE-END NONCE"])
def test_an_answer_without_its_marks_is_an_error(text: str) -> None:
    with pytest.raises(DeviceError, match="did not answer the probe"):
        probe(Says(text))


def test_a_talkative_shell_and_carriage_returns_do_not_matter() -> None:
    facts = probe(Says("Welcome!\nmachine=evil\nEDGEPRESS-PROBE-BEGIN NONCE\r\nmachine=aarch64\r\nEDGEPRESS-PROBE-END NONCE\r\nmachine=evil\n"))
    assert facts["machine"] == "aarch64"


@pytest.mark.parametrize("key, value, fact, expected", [
    ("machine", "aarch64\x1b[31m", "machine", "aarch64[31m"), ("page_size", "-4096", "page_size", None), ("page_size", "99999999999999999999", "page_size", None), ("page_size", "16384", "page_size", 16384),
    ("memory_kb", "x", "memory_bytes", None), ("throttled", "0x50005; rm -rf", "throttled", None), ("glibc", "glibc 2.41", "glibc", "2.41"), ("glibc", "musl 1.2", "glibc", None),
    ("cpu_flags", "fp asimd $(x) asimddp", "cpu_flags", ["asimd", "asimddp", "fp"]), ("temperature", "48300", "temperature_c", 48.3), ("temperature", "-274000", "temperature_c", None),
    ("cpu_part", "0xd08", "cpu", "Cortex-A72"), ("load_average", "0.42 0.3 0.2 1/200 1", "load_average", 0.42), ("clock_khz", "1800000", "clock_mhz", {"now": 1800.0, "limit": None, "max": None})])
def test_each_value_is_checked(key: str, value: str, fact: str, expected: Any) -> None:
    assert probe(Says(f"EDGEPRESS-PROBE-BEGIN NONCE\n{key}={value}\nEDGEPRESS-PROBE-END NONCE\n"))[fact] == expected


@pytest.mark.parametrize("change", [{"version": "3"}, {"bits": "64"}, {"venv": 1}, {"path": "python"}, {"packages": []}, {"packages": {"numpy": 2}}, {"packages": {"a b": "1"}}, {"packages": {"numpy": "1;x"}}])
def test_a_python_that_answers_nonsense_is_left_out(change: dict) -> None:
    assert to_facts({"python": [json.dumps(PYTHON)]})["python"] == [PYTHON]
    assert to_facts({"python": [json.dumps({**PYTHON, **change})]})["python"] == []


def test_throttling_is_decoded_bit_by_bit() -> None:
    assert decode_throttled(0) == {"raw": 0, "now": [], "since_start": []}
    for bit, text in power.NOW.items():
        assert decode_throttled(1 << bit)["now"] == [text] and decode_throttled(1 << bit)["since_start"] == []
        assert decode_throttled(1 << bit + 16)["since_start"] == [text] and decode_throttled(1 << bit + 16)["now"] == []


def test_nothing_is_left_on_the_device(tmp_path: Path) -> None:
    program(tmp_path / "bin", "nothing", "exit 0")
    before = sorted(tmp_path.rglob("*"))
    probe(Elsewhere(tmp_path / "bin", tmp_path))
    assert sorted(tmp_path.rglob("*")) == before and stat.S_IMODE((tmp_path / "bin").stat().st_mode)
