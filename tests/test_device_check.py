"""The check: each failure of the field is told beforehand, with what mends it, and what works is not spoken ill of."""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest
from click.testing import CliRunner

from edgepress import device_findings
from edgepress.cli import cli
from edgepress.device_check import ModelFacts, check, look_at, read_model
from edgepress.device_findings import OK, PROBLEM, WARNING, Finding
from edgepress.device_install import choose_lock, install_commands, installable, lock_for
from edgepress.device_probe import decode_throttled, probe
from edgepress.device_profiles import device_data, fits, profile_facts, profile_names
from edgepress.device_text import check_text, probe_text
from edgepress.device_use import hold
from edgepress.errors import DeviceError, RecipeError, UnsupportedError
from edgepress.locks import DISTRIBUTIONS, PYTHONS
from edgepress.targets.base import Completed
from edgepress.targets.local import LocalConnection

TINY = Path(__file__).parent / "data" / "tiny_float.onnx"


def problems(findings: List[Finding]) -> Dict[str, Finding]:
    return {finding.code: finding for finding in findings if finding.level == PROBLEM}


def pi(name: str = "rpi4", **changes: Any) -> Dict[str, Any]:
    options = {key: changes.pop(key) for key in ("python", "bits", "numpy") if key in changes and not isinstance(changes[key], list)}
    return {**profile_facts(name, **options), **changes}


def with_package(facts: Dict[str, Any], **packages: str) -> Dict[str, Any]:
    """The facts of a device whose first Python has these packages."""
    names = {"numpy": "numpy", "pillow": "pillow", **DISTRIBUTIONS}
    first = {**facts["python"][0], "packages": {names[name]: version for name, version in packages.items()}}
    return {**facts, "python": [first, *facts["python"][1:]], "runtimes": {name: version for name, version in packages.items() if name in DISTRIBUTIONS}, "numpy": packages.get("numpy")}


# What people report most (data/devices.toml, [[field]]): the code that must tell of it → a device that has it, and what works nearby.
FIELD: Dict[str, Callable[[], tuple]] = {
    "wheel": lambda: (check(pi(python="3.13"), runtime="tflite_runtime"), check(pi(python="3.11"), runtime="tflite_runtime")),
    "numpy-abi": lambda: (check(pi(python="3.11"), runtime="tflite_runtime", numpy="2.2.4"), check(pi(python="3.11"), runtime="tflite_runtime", numpy="1.26.4")),
    "cpu": lambda: (check(pi(), runtime="onnxruntime", version="1.21.0"), check(pi(), runtime="onnxruntime", version="1.21.1")),
    "managed": lambda: (check(pi()), check(pi(python="3.9"))),
    "bits": lambda: (check(pi(bits=32, python="3.11")), check(pi(python="3.11"))),
    "channel-order": lambda: (check(pi(), model=read_model(TINY)), check(pi(), model=replace(read_model(TINY), channel_order="rgb"))),
    "page-size": lambda: (check(pi("rpi5", page_size=1 << 18)), check(pi("rpi5"))),
    "permission": lambda: (check(pi(place={"path": "/mnt/x", "writable": True, "noexec": True})), check(pi(place={"path": "/home/pi/.edgepress", "writable": True, "noexec": False}))),
    "throttled": lambda: (check(pi(throttled=decode_throttled(0x50005))), check(pi(throttled=decode_throttled(0)))),
}


@pytest.mark.parametrize("entry", device_data()["field"], ids=lambda entry: entry["code"])
def test_each_field_failure_is_told_beforehand(entry: dict) -> None:
    if entry["code"] == "unreachable":
        class Offline(LocalConnection):
            address = "ssh://pi@pi"

            def run(self, *args: Any, **options: Any) -> Completed:
                return Completed(255, "", "ssh: connect to host pi port 22: No route to host")

        with pytest.raises(DeviceError, match="No route to host"):
            probe(Offline())
        return
    bad, good = FIELD[entry["code"]]()
    told = {finding.code for finding in bad if finding.level in (PROBLEM, WARNING)} | ({"managed"} & {finding.code for finding in bad})
    quiet = {finding.code for finding in good if finding.level in (PROBLEM, WARNING)} | ({"managed"} & {finding.code for finding in good})
    assert entry["code"] in told and entry["code"] not in quiet
    assert all("/" in source and "#" in source for source in entry["sources"])


@pytest.mark.parametrize("name, version, breaks", [("rpi3", "1.21.0", True), ("rpi4", "1.21.0", True), ("zero2w", "1.21.0", True), ("rpi5", "1.21.0", False),
                                                   ("rpi4", "1.20.1", False), ("rpi4", "1.21.1", False), ("rpi4", "1.22.1", False), ("rpi4", "1.31.1", False), ("rpi3", "1.31.1", False)])
def test_the_illegal_instruction_of_onnxruntime(name: str, version: str, breaks: bool) -> None:
    found = problems(check(pi(name, python="3.13"), runtime="onnxruntime", version=version))
    assert set(found) == ({"cpu"} if breaks else set())
    if breaks:
        assert "Illegal instruction" in found["cpu"].message and "microsoft/onnxruntime#23957" in found["cpu"].sources and found["cpu"].fix


def test_an_installed_version_that_will_die_is_a_problem_though_others_work() -> None:
    found = check(with_package(pi(), onnxruntime="1.21.0", numpy="2.2.4", pillow="11.0.0"))
    assert set(problems(found)) == {"cpu"} and installable(pi(), found) == ["litert", "onnxruntime"]  # the locked version mends it


def test_the_environment_of_the_runtime_itself_counts_first() -> None:
    facts = with_package(pi(place={"path": "/home/pi/.edgepress", "writable": True, "noexec": False}), onnxruntime="1.21.0", numpy="2.2.4", pillow="11.0.0")
    own = {**facts["python"][0], "path": "/home/pi/.edgepress/runtimes/onnxruntime/bin/python", "prefix": "/home/pi/.edgepress/runtimes/onnxruntime", "venv": True,
           "packages": {"onnxruntime": "1.31.1", "numpy": "2.5.5", "pillow": "13.0.0"}}
    assert problems(check(facts)) and not problems(check({**facts, "python": [*facts["python"], own]}))


def test_tflite_runtime_on_python_3_13_names_what_exists_and_what_works() -> None:
    found = problems(check(pi(python="3.13"), runtime="tflite_runtime"))["wheel"]
    assert "no wheel for Python 3.13 on aarch64, only for 3.8 to 3.11" in found.message and "litert" in str(found.fix) and "tensorflow/tensorflow#60115" in found.sources


def test_tflite_runtime_beside_numpy_2_and_alone() -> None:
    assert set(problems(check(with_package(pi(python="3.11"), tflite_runtime="2.14.0", numpy="2.2.4", pillow="11.0.0")))) == {"numpy-abi"}
    assert not problems(check(with_package(pi(python="3.11"), tflite_runtime="2.14.0", numpy="1.26.4", pillow="11.0.0")))
    assert not problems(check(pi(python="3.11", numpy="2.2.4"), runtime="tflite_runtime"))  # the virtual environment brings its own 1.26.4


def test_a_system_numpy_2_under_a_32_bit_lock_is_foreseen() -> None:
    facts = pi(python="3.11", bits=32)
    assert not problems(check(facts, runtime="tflite_runtime"))  # apt of bookworm: 1.24
    assert set(problems(check({**facts, "numpy": "2.2.4"}, runtime="tflite_runtime"))) == {"numpy-abi"}


def test_litert_on_32_bits_and_an_old_c_library() -> None:
    assert "only for aarch64 and x86_64" in problems(check(pi(python="3.11", bits=32), runtime="litert"))["wheel"].message
    old = check(pi(python="3.9"), runtime="tflite_runtime", version="2.14.0")
    assert "needs glibc 2.34" in problems(old)["glibc"].message
    assert not problems(check(pi(python="3.9"), runtime="tflite_runtime"))  # 2.13.0 is locked there
    assert problems(check({**pi(python="3.9"), "machine": "armv6l", "bits": 32}))["system"].fix


def test_nothing_works_on_a_32_bit_trixie() -> None:
    found = check(pi(python="3.13", bits=32))
    assert {finding.subject for finding in found if finding.code == "wheel" and finding.level == PROBLEM} == set(DISTRIBUTIONS) and installable(pi(python="3.13", bits=32), found) == []


@pytest.mark.parametrize("name", profile_names())
def test_a_new_device_as_it_comes_has_no_problem(name: str) -> None:
    found = check(profile_facts(name))
    assert not problems(found) and {finding.code for finding in found} <= set(device_findings.CODES) and {finding.level for finding in found} <= {OK, WARNING, PROBLEM}


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_of_a_64_bit_pi_can_get_a_runtime_for_both_formats(python: str) -> None:
    facts = pi(python=python)
    assert {"litert", "onnxruntime"} <= set(installable(facts, check(facts)))


@pytest.mark.parametrize("changes, code, level", [
    ({"free_bytes": 50 << 20}, "space", PROBLEM), ({"memory_free_bytes": 20 << 20}, "memory", PROBLEM), ({"temperature_c": 78.0}, "temperature", WARNING), ({"temperature_c": 48.0}, "temperature", OK),
    ({"governor": "powersave"}, "governor", WARNING), ({"governor": "ondemand"}, "governor", OK), ({"load_average": 3.9, "cpus": 4}, "load", WARNING), ({"throttled": decode_throttled(0x50000)}, "throttled", WARNING),
    ({"throttled": decode_throttled(0x4)}, "throttled", PROBLEM), ({"vcgencmd_error": "Can't open device file: /dev/vcio"}, "throttled", WARNING), ({"python": []}, "python", PROBLEM),
    ({"system": "Darwin"}, "system", PROBLEM), ({"glibc": None}, "glibc", WARNING), ({"emulated": "rpi4"}, "emulated", WARNING), ({"place": {"path": "/x", "writable": False, "noexec": False}}, "permission", PROBLEM),
    ({"clock_mhz": {"now": 600.0, "limit": 600.0, "max": 1800.0}}, "clock", WARNING)])
def test_state_and_room(changes: dict, code: str, level: str) -> None:
    assert (code, level) in {(finding.code, finding.level) for finding in check(pi(**changes))}


def test_a_python_that_cannot_make_environments_names_the_package() -> None:
    facts = pi()
    facts["python"][0]["ensurepip"] = False
    assert problems(check(facts))["python"].fix == "sudo apt install python3-venv"


def test_the_model_decides_the_runtime_and_brings_its_own_limits() -> None:
    onnx = read_model(TINY)
    assert {finding.subject for finding in check(pi(), model=onnx)} == {"device", "onnxruntime", "model"}
    assert "does not open .onnx" in problems(check(pi(), runtime="litert", model=onnx))["format"].message
    dynamic = ModelFacts("m.tflite", "tflite", 1000, "rgb", {"format": "tflite", "operators": {"FULLY_CONNECTED": {"version": 12}}, "hybrid_dense_per_channel": False, "scheme": "float32", "sparse": False,
                                                               "hybrid_depthwise": False, "activations": None, "weight_bits": 8})
    assert "does not load in tflite-runtime 2.14" in problems(check(pi(python="3.11"), runtime="tflite_runtime", model=dynamic))["file"].message
    assert not problems(check(pi(python="3.11"), runtime="litert", model=dynamic))
    int8 = replace(dynamic, known={**dynamic.known, "operators": {}, "scheme": "static_wi8_ai8"})  # slow in tflite-runtime on x86, where this test may run, and not on Arm
    assert "file" not in {finding.code for finding in check(pi(python="3.11"), runtime="tflite_runtime", model=int8)}
    assert "file" in {finding.code for finding in check(pi(python="3.11", machine="x86_64"), runtime="tflite_runtime", model=int8)}
    assert "was not made for it" in problems(check(pi(python="3.11"), runtime="tflite_runtime", model=replace(dynamic, runtimes=["litert"])))["format"].message
    assert {finding.subject for finding in check(pi(python="3.11"), model=replace(dynamic, runtimes=["litert"]))} == {"device", "litert", "model"}
    assert problems(check(pi(free_bytes=400 << 20), model=replace(onnx, size_bytes=200 << 20)))["space"]


@pytest.mark.parametrize("address, copy, home", [
    ("ssh://pi@berry:2222", "scp -P 2222 -r wheels pi@berry:", "~/.edgepress"), ("ssh://berry", "scp -r wheels berry:", "~/.edgepress"), (None, "scp -r wheels pi@raspberrypi.local:", "~/.edgepress"),
    ("adb://ABC123", "adb -s ABC123 push wheels /data/local/tmp/edgepress/", "/data/local/tmp/edgepress")])
def test_the_commands_that_install(address: Optional[str], copy: str, home: str) -> None:
    facts = pi(place={"path": None if home.startswith("~") else home, "writable": True, "noexec": False})
    commands = install_commands(facts, "litert", target="berry", address=address)
    assert [command for _, command in commands][:3] == ["edgepress device wheels berry --runtime litert -o wheels", copy, f"/usr/bin/python3 -m venv {home}/runtimes/litert"]
    assert commands[3][1].startswith(f"{home}/runtimes/litert/bin/python -m pip install --no-index --find-links ") and "--require-hashes -r" in commands[3][1]
    assert "--break-system-packages" not in str(commands) and "sudo pip" not in str(commands)


def test_an_emulated_device_that_forgets_gets_no_commands() -> None:
    assert install_commands(pi(), "litert", target="emu://rpi4", address="emu://rpi4") == []
    assert "pip install" not in check_text(pi(), check(pi()), target="e", option="e", address="emu://rpi4").replace("`pip install`", "")


def test_a_version_that_is_not_locked_is_said() -> None:
    assert ("version", WARNING) in {(f.code, f.level) for f in check(pi(), runtime="onnxruntime", version="1.21.1")}
    assert "version" not in {f.code for f in check(pi(), runtime="onnxruntime", version="1.21.0")}  # its problem is enough


def test_a_32_bit_system_takes_numpy_from_apt() -> None:
    commands = [command for _, command in install_commands(pi(bits=32, python="3.11"), "tflite_runtime", target="p", address=None)]
    assert "sudo apt install python3-numpy python3-pil" in commands and any("--system-site-packages" in command for command in commands)


def test_the_system_python_comes_before_a_virtual_environment() -> None:
    facts = pi()
    venv = {**facts["python"][0], "path": "/home/pi/env/bin/python", "prefix": "/home/pi/env", "venv": True}
    python, lock = choose_lock({**facts, "python": [venv, *facts["python"]]}, "litert")
    assert python is not None and python["path"] == "/usr/bin/python3" and lock is not None and lock.python == "3.13"
    assert lock_for(facts, "litert") == lock
    with pytest.raises(UnsupportedError, match="no wheels for Python 3.13 on aarch64"):
        lock_for(facts, "tflite_runtime")


def test_versions_are_compared_as_numbers() -> None:
    assert fits("1.21.0", "==1.21") and fits("1.9.1", "<1.10") and fits("1.18.1", ">=1.17,<1.19") and not fits("1.19.0", ">=1.17,<1.19") and fits("2.0.0rc1", ">=2") and not fits("1.26.4", ">=2")


def test_mistakes_say_what_is_accepted() -> None:
    for call, said in ((lambda: profile_facts("rpi9"), "did you mean"), (lambda: profile_facts("rpi4", bits=16), "32 or 64"), (lambda: profile_facts("rpi4", python="three"), "a version such as"),
                       (lambda: look_at(None, profile=None), "either a device"), (lambda: look_at("local", profile="rpi4"), "either a device"), (lambda: look_at("local", profile=None, bits=32), "--bits is for"),
                       (lambda: check(pi(), version="1.0"), "together with --runtime")):
        with pytest.raises(RecipeError, match=said):
            call()
    with pytest.raises(UnsupportedError, match="accepted: litert"):
        check(pi(), runtime="torch")


def test_what_is_printed() -> None:
    facts = pi(throttled=decode_throttled(0x50005), temperature_c=48.0)
    text = check_text(facts, check(facts), target="berry", option="berry", address="ssh://pi@berry")
    assert "PROBLEM  it is slowed down at this moment: under-voltage, throttled" in text and "→ use the official power supply" in text and text.endswith("1 problem in the way")
    assert max(map(len, [line for line in text.splitlines() if "pip install" not in line])) <= 120
    shown = probe_text(facts, target="berry")
    assert "now: under-voltage, throttled" in shown and "no dot product instructions" in shown and "None" not in shown


@pytest.mark.parametrize("arguments, code, said", [
    (["--profile", "rpi4", "--runtime", "onnxruntime", "--runtime-version", "1.21.0"], 4, "Illegal instruction"), (["--profile", "rpi4", "--runtime", "onnxruntime", "--runtime-version", "1.21.1"], 0, "in the way"),
    (["--profile", "rpi4", "--python", "3.13", "--runtime", "tflite_runtime"], 4, "no wheel for Python 3.13"), (["--profile", "rpi4", "--python", "3.11", "--bits", "32", "--runtime", "litert"], 4, "no wheels for armv7l"),
    (["--profile", "rpi4", "--python", "3.11", "--runtime", "tflite_runtime", "--numpy", "2.2.4"], 4, "meets NumPy 2.2.4"), (["--profile", "rpi5", "--model", str(TINY)], 0, "pages of 16 KiB"), ([], 1, "either a device")])
def test_the_command(arguments: List[str], code: int, said: str) -> None:
    from edgepress.__main__ import main

    done = CliRunner().invoke(cli, ["device", "check", *arguments])
    assert said in done.output + str(done.exception) and (done.exception is None) == (code == 0)
    assert getattr(done.exception, "exit_code", 0) == code and callable(main)


def test_json_for_machines() -> None:
    done = CliRunner().invoke(cli, ["device", "check", "--profile", "rpi4", "--runtime", "onnxruntime", "--runtime-version", "1.21.0", "--json"])
    document = json.loads(done.stdout)
    assert document["passed"] is False and any(f["code"] == "cpu" and f["level"] == "problem" and f["sources"] for f in document["findings"]) and document["facts"]["cpu"] == "Cortex-A72"


@pytest.mark.slow
def test_probe_and_check_of_this_machine() -> None:
    done = CliRunner().invoke(cli, ["device", "probe", "local", "--json"])
    assert done.exit_code == 0 and json.loads(done.output)["machine"]
    assert "Python" in CliRunner().invoke(cli, ["device", "check", "local"]).output


@pytest.mark.device
def test_the_emulated_pi_says_what_it_is(emulated_pi: Any) -> None:
    for address, android in ((emulated_pi.ssh_address, False), (emulated_pi.adb_address, True)):
        with hold(address) as connection:
            facts = probe(connection)
        assert (facts["machine"], facts["bits"], facts["cpu"], facts["os_version"], facts["emulated"]) == ("aarch64", 64, "Cortex-A72", "13", "rpi4")
        assert facts["throttled"] == decode_throttled(0) and "asimddp" not in facts["cpu_flags"] and {"litert", "onnxruntime"} <= set(facts["runtimes"]) and bool(facts["android"]) == android
        assert not problems(check(facts)) and "emulated" in {finding.code for finding in check(facts)}


@pytest.mark.device
@pytest.mark.slow
def test_the_illegal_instruction_is_real_and_was_foretold(emulated_pi: Any, tmp_path: Path) -> None:
    """onnxruntime 1.21.0 is put where the device's Python finds it first: check tells what the import then does."""
    platform = ["--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64", "--python-version", "3.13", "--implementation", "cp", "--abi", "cp313", "--only-binary=:all:"]
    done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *platform, "--dest", str(tmp_path), "onnxruntime==1.21.0"], capture_output=True, text=True, check=False)
    if done.returncode and not os.environ.get("EDGEPRESS_REQUIRE_EMULATOR"):
        pytest.skip(f"the package index cannot be reached: {done.stderr[-200:]}")
    site = emulated_pi.root / "home/pi/.local/lib/python3.13/site-packages"
    try:
        zipfile.ZipFile(next(tmp_path.glob("onnxruntime-1.21.0-*.whl"))).extractall(site)
        with hold(emulated_pi.ssh_address) as connection:
            facts = probe(connection)
        found = problems(check(facts))
        assert facts["runtimes"]["onnxruntime"] == "1.21.0" and set(found) == {"cpu"} and "Cortex-A72" in found["cpu"].message
        done = emulated_pi.shell("python3 -c 'import onnxruntime'")
        assert done.exit_code == -signal.SIGILL and "Illegal instruction" in done.stderr
    finally:
        shutil.rmtree(emulated_pi.root / "home/pi/.local", ignore_errors=True)
    assert emulated_pi.shell("python3 -c 'import onnxruntime; print(onnxruntime.__version__)'").stdout.strip() == "1.31.1"


@pytest.mark.device
@pytest.mark.slow
def test_the_commands_of_check_install_a_runtime_without_a_network(emulated_pi: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are run as printed, the last ones on the device, which has no network."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    with hold(emulated_pi.ssh_address) as connection:
        facts = probe(connection)
    there = Path(emulated_pi.root) / "home/pi"
    try:
        commands = install_commands(facts, "litert", target=emulated_pi.ssh_address, address=emulated_pi.ssh_address)
        *here, environment, install = [command for _, command in commands]
        assert [where for where, _ in commands] == ["here", "here", "there", "there"]
        with ThreadPoolExecutor(1) as pool:  # the device is slow: it begins while wheels are brought
            made = pool.submit(emulated_pi.shell, environment)
            for command in here:
                command = command.replace("scp -r", f"scp -F {emulated_pi.ssh_config} -r")  # the device is in no configuration of the user's
                subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
        assert made.result().exit_code == 0, made.result().stderr
        done = emulated_pi.shell(f"PIP_NO_COMPILE=1 {install}")  # compiling is slow to emulate, and proves nothing
        assert done.exit_code == 0, done.stderr
        with hold(emulated_pi.ssh_address) as connection:
            python = connection.interpreter("litert")
        assert python == "/home/pi/.edgepress/runtimes/litert/bin/python"
        version = emulated_pi.shell(f"{python} -c 'import importlib.metadata as m, ai_edge_litert.interpreter; print(m.version(\"ai-edge-litert\"))'")
        assert version.stdout.strip() == lock_for(facts, "litert").version
    finally:
        shutil.rmtree(there / ".edgepress" / "runtimes", ignore_errors=True)
        shutil.rmtree(there / "wheels", ignore_errors=True)
