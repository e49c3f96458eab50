"""The emulated device: real arm64 programs, reachable by the real ssh and adb clients, private, and gone when it ends."""
from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, List, Optional

import emulated
import pytest
from emulated import HOME, need_emulator

from edgepress.emulator import Emulated, build_root, packages, requirements, root, running, start
from edgepress.emulator.instructions import count_instructions, format_counts
from edgepress.errors import DeviceError, JobError, ModelError, UnsupportedError
from edgepress.jobs import run_job
from edgepress.targets import connect

pytestmark = pytest.mark.device
TINY = Path(__file__).with_name("data")


def client(*command: str, timeout: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def ssh(device: Emulated, command: str) -> subprocess.CompletedProcess:
    return client("ssh", "-F", str(device.ssh_config), "-o", "BatchMode=yes", "emulated-pi", command)


def adb(*arguments: str) -> subprocess.CompletedProcess:
    return client("adb", "-s", "127.0.0.1:25555", *arguments)


def processes_of(device: Emulated) -> List[int]:
    """Processes of this machine that live in the device's own process namespace."""
    def namespace(pid: object) -> str:
        try:
            return os.readlink(f"/proc/{pid}/ns/pid")
        except OSError:
            return ""
    own = namespace(device.pid)
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and own and namespace(name) == own]


# -- a shared, running one -----------------------------------------------------------------------------------------------------------------
def test_runs_arm64_programs_of_the_profile_processor(emulated_pi: Emulated) -> None:
    done = emulated_pi.shell("uname -m; id -un; cat /etc/edgepress-emulated; grep -m1 part /proc/cpuinfo")
    assert done.stdout.split("\n")[:3] == ["aarch64", "pi", "rpi4"] and "0xd08" in done.stdout  # 0xd08: Cortex-A72
    assert emulated_pi.shell("exit 7").exit_code == 7
    assert emulated_pi.shell("cat", stdin=b"\xc3\xa4").stdout == "ä"


def test_ssh_and_adb_reach_it_with_their_own_exit_codes(emulated_pi: Emulated) -> None:
    assert (ssh(emulated_pi, "uname -m; exit 3").stdout, ssh(emulated_pi, "exit 3").returncode) == ("aarch64\n", 3)
    done = adb("shell", "uname -m; getprop ro.product.cpu.abi; exit 4")
    assert (done.stdout, done.returncode) == ("aarch64\narm64-v8a\n", 4)
    assert ssh(emulated_pi, "command -v getprop").returncode  # a board is no phone


def test_standins_say_that_they_are_and_answer_what_a_test_sets(emulated_pi: Emulated) -> None:
    assert emulated_pi.shell("vcgencmd get_throttled").stdout == "throttled=0x0\n"
    (emulated_pi.root / "run/edgepress-standin/throttled").write_text("throttled=0x50005\n")
    assert emulated_pi.shell("vcgencmd get_throttled; rm /run/edgepress-standin/throttled").stdout == "throttled=0x50005\n"
    assert adb("shell", "dumpsys thermalservice").stdout.splitlines()[-1] == "Thermal Status: 0"
    for name in ("usr/bin/vcgencmd", "system/bin/getprop", "system/bin/dumpsys"):
        assert "STAND-IN" in (emulated_pi.root / name).read_text()


def test_nothing_of_it_listens_on_this_machine(emulated_pi: Emulated) -> None:
    for port in (22022, 25555, 5037):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0 or port == 5037 and _is_ours(port)
    assert emulated_pi.shell("cat /proc/net/dev").stdout.count(":") == 1  # its loopback is its only network


def _is_ours(port: int) -> bool:
    """Whether it is some other adb server of this machine, which knows no such device."""
    return "25555" not in client("adb", "-P", str(port), "devices").stdout


def test_killed_daemons_are_gone_until_they_are_restarted_and_commands_go_on(emulated_pi: Emulated) -> None:
    assert ssh(emulated_pi, "nohup sleep 77 >/dev/null 2>&1 & echo started").stdout == "started\n"
    emulated_pi.kill("sshd")
    assert ssh(emulated_pi, "true").returncode == 255
    emulated_pi.kill("adbd")
    assert "sleep 77" in emulated_pi.shell("ps -eo args").stdout
    emulated_pi.restart("sshd")
    emulated_pi.restart("adbd")
    assert ssh(emulated_pi, "true").returncode == 0 and adb("shell", "exit 9").returncode == 9
    emulated_pi.restart("adb server")
    assert adb("shell", "exit 8").returncode == 8


def test_a_reboot_ends_what_runs_and_keeps_files(emulated_pi: Emulated) -> None:
    emulated_pi.shell("nohup sleep 66 >/dev/null 2>&1 & echo 1 > /tmp/volatile; echo 2 > ~/lasting")
    emulated_pi.reboot()
    done = emulated_pi.shell("ls /tmp; cat ~/lasting; rm ~/lasting; ps -eo args")
    assert done.stdout.startswith("2\n") and "sleep 66" not in done.stdout and "sshd" in done.stdout
    assert ssh(emulated_pi, "true").returncode == 0 and adb("shell", "exit 6").returncode == 6


def test_its_changes_stay_in_memory(emulated_pi: Emulated) -> None:
    emulated_pi.shell("mkdir -p ~/deep && echo hello > ~/deep/file; rm /usr/bin/free")
    kept = build_root(HOME)
    assert (emulated_pi.root / "home/pi/deep/file").read_text() == "hello\n" and not (emulated_pi.root / "usr/bin/free").exists()
    assert not (kept / "home/pi/deep").exists() and (kept / "usr/bin/free").exists() and not (kept / "etc/edgepress-emulated").exists()


def test_this_machines_kernel_settings_are_read_only_there(emulated_pi: Emulated) -> None:
    enter = emulated_pi._enter("--mount", "--pid")  # as the namespace's root, which is more than `pi` may
    for path in ("proc/sys/kernel/hostname", "sys/kernel/mm/transparent_hugepage/enabled"):
        assert "Read-only" in client(*enter, "sh", "-c", f"echo x > {emulated_pi.state}/root/{path}").stderr


# -- one's own -----------------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def own() -> Iterator[Emulated]:
    need_emulator()
    with start("rpi5", home=HOME) as device:
        yield device


def test_nothing_is_left_when_it_ends(own: Emulated) -> None:
    before = [Path(name).read_text() for name in ("/proc/self/mountinfo", "/proc/net/tcp", "/proc/net/unix")]
    own.shell("setsid nohup sleep 55 >/dev/null 2>&1 &")
    pids = processes_of(own)
    assert len(pids) >= 5  # first process, sshd, adbd, adb server, sleep
    assert "asimddp" in own.shell("grep -m1 Features /proc/cpuinfo").stdout  # what a Cortex-A76 has and a Pi 4 has not
    own.close()
    assert not own.is_running and not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert Path("/proc/self/mountinfo").read_text() == before[0] and "25555" not in Path("/proc/net/unix").read_text()
    assert not [name for name in os.listdir("/proc/sys/fs/binfmt_misc") if "edgepress" in name]
    for use in (lambda: own.restart("sshd"), lambda: own.shell("true")):
        with pytest.raises(DeviceError, match="has ended"):
            use()


def test_it_dies_with_the_process_that_started_it() -> None:
    need_emulator()
    code = f"import sys; from pathlib import Path; from edgepress.emulator import start; d = start('rpi3', home=Path({str(HOME)!r})); print(d.pid, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        owner.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")


def test_emu_is_a_target_whose_results_are_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_emulator()
    monkeypatch.setenv("EDGEPRESS_HOME", str(HOME.parent))
    connection = connect("emu://rpi4")
    try:
        assert connection.measured_on == "emulated" and connection.probe()["machine"] == "aarch64"
        result = run_job({"job": "health", "runtime": "litert"}, work=tmp_path, target=connection)
        assert result["status"] == "ok" and result["runtime"]["version"] == "2.3.0"
        assert "Created TensorFlow Lite XNNPACK delegate" in result["stderr"]  # silently missing where /sys is not visible
    finally:
        connection.close()


# -- building ------------------------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_from_nothing_within_twenty_seconds_of_processor_time(tmp_path: Path) -> None:
    need_emulator()
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with start("rpi4", home=tmp_path) as device:
        elapsed = time.monotonic() - begin
        assert ssh(device, "uname -m").stdout == "aarch64\n"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 20 * 2, f"{used:.1f} s of processor time in {elapsed:.1f} s"  # the bar is 20 s on two quiet cores
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", f"root-{root.root_key()}"]


@pytest.mark.parametrize("release, said", [(None, "reachable"), ("Origin: Debian\nCodename: trixie\nSuite: stable\n", "sign")])
def test_a_build_from_an_absent_or_unsigned_archive_fails_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: Optional[str], said: str) -> None:
    need_emulator()
    if release:
        (tmp_path / "archive/dists/trixie").mkdir(parents=True)
        (tmp_path / "archive/dists/trixie/InRelease").write_text(release)
    monkeypatch.setenv(packages.MIRROR_VARIABLE, f"file://{tmp_path}/archive")
    monkeypatch.setattr(packages, "download_wheels", lambda *args, **kwargs: [])
    with pytest.raises(JobError, match=said):
        build_root(tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["lock"]


def test_the_archive_is_the_one_of_this_machines_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("# deb http://old.example/debian bookworm main\ndeb [arch=amd64] http://one.example/debian bookworm main\ndeb http://x.example/other stable main\n")
    (tmp_path / "sources.list.d" / "a.sources").write_text("Types: deb\nURIs: http://two.example/debian-security\n\nTypes: deb\nURIs: http://two.example/pub/debian/\nSuites: bookworm\n")
    assert packages._written_archives(tmp_path) == ["http://one.example/debian", "http://two.example/pub/debian/"]
    monkeypatch.setattr(packages, "SOURCES", tmp_path)
    monkeypatch.setattr(packages, "_run", lambda command, **kwargs: "")  # apt before its first update
    assert packages.mirror() == "http://one.example/debian"
    (tmp_path / "sources.list").unlink()
    (tmp_path / "sources.list.d" / "a.sources").unlink()
    with pytest.raises(UnsupportedError, match=packages.MIRROR_VARIABLE):
        packages.mirror()


def test_a_replaced_root_stays_while_a_device_stands_on_it(tmp_path: Path) -> None:
    old = tmp_path / ".part-1-old"
    (old / "root").mkdir(parents=True)
    (old / "built.json").write_text("{}")
    (tmp_path / ".part-2").mkdir()  # of a builder that was killed
    with root.hold_root(old / "root"):
        root._sweep(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [old.name]
    root._sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_kept_root_is_keyed_by_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    before = root.root_key()
    monkeypatch.setattr(root, "WHEELS", ("numpy==2.4.5",))
    assert root.root_key() != before


# -- what is missing is named, with the fix ------------------------------------------------------------------------------------------------
def test_an_old_qemu_is_refused_with_the_command_that_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "qemu-aarch64-static"
    old.write_text("#!/bin/sh\necho 'qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg)'\n")
    old.chmod(0o755)
    monkeypatch.setattr(requirements, "_PATH", f"{tmp_path}:{requirements._PATH}")
    with pytest.raises(UnsupportedError, match=r"is 7\.2: .* accepted: 10\.0 or newer; install with: sudo apt-get install .*qemu-user-static"):
        start("rpi4")


def test_missing_programs_and_namespaces_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_emulator()
    monkeypatch.setattr(requirements, "_USABLE", ["sh", "-c", "echo 'unshare failed: Operation not permitted' >&2; exit 1"])
    with pytest.raises(UnsupportedError, match="namespaces .*Operation not permitted.*; .*allow"):
        start("rpi4")
    monkeypatch.setattr(requirements, "_PATH", str(tmp_path))
    why = requirements.reason() or ""  # all at once, with one command
    assert "qemu-aarch64-static, unshare, " in why and "are not installed here; install with: sudo apt-get install" in why and "qemu-user-static util-linux" in why


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "pi", "6.12", "#1", "aarch64")))
    assert "aarch64; devices are emulated on x86_64 only" in (requirements.reason() or "")


def test_tests_skip_without_an_emulator_and_fail_where_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "reason", lambda: "no qemu here")
    monkeypatch.delenv("EDGEPRESS_REQUIRE_EMULATOR", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no qemu here"):
        need_emulator()
    monkeypatch.setenv("EDGEPRESS_REQUIRE_EMULATOR", "1")
    with pytest.raises(pytest.fail.Exception, match="no qemu here"):
        need_emulator()


def test_an_unknown_profile_is_refused_before_anything_is_built() -> None:
    with pytest.raises(UnsupportedError, match="accepted: rpi3, rpi4, rpi5 .*'rpi4'"):
        connect("emu://rp4")


def test_a_mount_point_above_the_emulators_own_files_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert running._mount_point(Path("/mnt/disk/root")) != Path("/mnt")
    monkeypatch.setattr(running, "_MOUNT_POINTS", ("/nonexistent",))
    with pytest.raises(DeviceError, match="no folder to mount"):
        running._mount_point(Path("/x"))


# -- field failures and counts -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("version, exit_code", [("1.21.0", 132), ("1.21.1", 0)])  # 132: SIGILL, as people saw it on a Raspberry Pi 4 (microsoft/onnxruntime#23957)
def test_onnxruntime_1_21_0_dies_of_an_illegal_instruction_on_a_pi_4(emulated_pi: Emulated, tmp_path: Path, version: str, exit_code: int) -> None:
    wheels = packages.download_wheels([f"onnxruntime=={version}"], python=root.PYTHON, folder=tmp_path, dependencies=False)
    packages.unpack_wheels(wheels, emulated_pi.root / "home/pi" / version)
    (emulated_pi.root / "home/pi/tiny.onnx").write_bytes((TINY / "tiny_float.onnx").read_bytes())
    code = "import onnxruntime as o; assert o.__version__ == '%s'; o.InferenceSession('tiny.onnx', providers=['CPUExecutionProvider'])" % version
    assert emulated_pi.shell(f"PYTHONPATH=~/{version} python3 -c \"{code}\"; code=$?; rm -r ~/{version}; exit $code").exit_code == exit_code


@pytest.mark.slow
def test_two_machines_count_the_same_instructions(tmp_path: Path) -> None:
    need_emulator()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes((TINY / "tiny_float.tflite").read_bytes()[:1500])
    files = [broken, TINY / "tiny_float.tflite", TINY / "tiny_float.onnx"]
    with ThreadPoolExecutor(2) as pool:
        (refused, *first), (_, *second) = pool.map(lambda profile: count_instructions(files, profile=profile, home=HOME), ("rpi4", "rpi4"))
    assert refused["status"] == "unsupported" and f"does not open {broken}" in refused["reason"]
    for record in first:
        assert record["status"] == "ok" and record["instructions"] > 1000 and record["measured_on"] == "emulated" and record["profile"] == "rpi4"
        assert not [key for key in record if "ms" in key.split("_") or "latency" in key]
    for one, other in zip(first, second):
        assert abs(one["instructions"] - other["instructions"]) <= max(0.001 * one["instructions"], 32)  # the clock is read in steps of 16
    assert first[0]["accelerator"] == "XNNPACK" and "not a time" in format_counts(first)


def test_counting_refuses_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(ModelError, match="tflite"):
        count_instructions([tmp_path / "model.txt"], profile="rpi4")
    with pytest.raises(UnsupportedError, match="accepted: rpi3"):
        count_instructions([TINY / "tiny_int8.tflite"], profile="rpi9")


def test_counts_are_shown_beside_what_could_not_be_counted() -> None:
    common = {"profile": "rpi4", "cpu": "cortex-a72", "measured_on": "emulated"}
    text = format_counts([{**common, "model": "a.tflite", "status": "unsupported", "runtime": {"name": "litert"}, "reason": "no such operator"},
                          {**common, "model": "b.tflite", "status": "ok", "runtime": {"name": "litert", "version": "2.3.0"}, "accelerator": "XNNPACK", "instructions": 2_000_000},
                          {**common, "model": "c.tflite", "status": "ok", "runtime": {"name": "litert", "version": "2.3.0"}, "accelerator": None, "instructions": 500_000}])
    assert "no such operator" in text and "2,000,000   1.00" in text and "500,000   0.25" in text
    assert json.dumps(text)
