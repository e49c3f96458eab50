"""The rules of a connection, in the shells that devices have; the way there is a process of this machine."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable, Iterator, List

import pytest
from shell_transport import ShellTransport

from edgepress import channel, remote
from edgepress.errors import DeviceError, JobError, UnsupportedError
from edgepress.remote import RemoteConnection, open_remote
from edgepress.targets.base import NotThereError

SHELLS = [shell for shell in (("dash",), ("bash",), ("mksh",), ("busybox", "sh")) if shutil.which(shell[0])]
Opener = Callable[..., RemoteConnection]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    connections: List[RemoteConnection] = []

    def make(**options: object) -> RemoteConnection:
        connections.append(open_remote(ShellTransport(tmp_path / "device", **options)))  # type: ignore[arg-type]
        return connections[-1]
    yield make
    for connection in connections:
        connection.close()


def run(connection: RemoteConnection, script: str, *, seconds: float = 20):  # type: ignore[no-untyped-def]
    return connection.run(["sh", "-c", script], environment={}, timeout_seconds=seconds)


def wait_until(is_true: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not is_true() and time.monotonic() < end:
        time.sleep(0.05)
    return is_true()


def is_running(words: str) -> bool:
    return subprocess.run(["pgrep", "-f", words], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_scripts_work_in_the_shells_of_devices(opened: Opener, tmp_path: Path, shell: tuple) -> None:
    connection = opened(shell=shell)
    done = run(connection, "echo said; echo warned >&2; exit 3")
    assert (done.exit_code, done.stdout, done.stderr) == (3, "said\n", "warned\n")
    there = connection.make_folder(tmp_path)
    run(connection, f"printf result > {there}/out")
    connection.pull(f"{there}/out", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "result" and connection.probe()["system"] == "Linux"
    with pytest.raises(JobError, match="did not end within 0.5 s"):
        run(connection, "sleep 71.5", seconds=0.5)
    with pytest.raises(DeviceError, match=r"is in use by .*@.* \(process "):
        opened(shell=shell)
    assert not is_running("sleep 71[.]5")
    connection.close()
    assert not os.path.lexists(tmp_path / "device" / "lock")


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_what_nobody_asks_for_leaves_the_store(opened: Opener, tmp_path: Path, shell: tuple) -> None:
    connection = opened(shell=shell)
    stored = []
    for name in ("forgotten", "asked for again"):
        (tmp_path / name).write_text(name)
        stored.append(Path(connection.push(tmp_path / name)))
    connection.close()
    for file in stored:
        os.utime(file.parent, (0, time.time() - 40 * 86400))
    connection = opened(shell=shell)  # sweeps
    assert not any(file.exists() for file in stored)
    there = Path(connection.push(tmp_path / "asked for again"))
    connection.close()
    os.utime(there.parent, (0, time.time() - 20 * 86400))
    connection = opened(shell=shell)
    assert connection.push(tmp_path / "asked for again") == str(there) and time.time() - there.parent.stat().st_mtime < 60


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_job_ends_with_the_process_that_wanted_it(tmp_path: Path, shell: tuple) -> None:
    code = (f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom pathlib import Path\nfrom shell_transport import ShellTransport\nfrom edgepress.remote import open_remote\n"
            f"c = open_remote(ShellTransport(Path({str(tmp_path)!r}), shell={shell!r}))\nprint('open', flush=True)\nc.run(['sleep', '72.25'], environment={{}}, timeout_seconds=99)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"open\n" and wait_until(lambda: is_running("^sleep 72[.]25"))
    process.kill()
    process.wait()
    assert wait_until(lambda: not is_running("sleep 72[.]25"))
    open_remote(ShellTransport(tmp_path, shell=shell)).close()


def test_what_start_files_say_does_no_harm(opened: Opener, tmp_path: Path) -> None:
    noise = "printf 'Welcome\\r\\nEDGEPRESS-END 0 0 -\\n\\033[2J'; echo oops >&2; printf 'without an end'"
    connection = opened(before=noise, after="echo logout; echo bye >&2")
    done = run(connection, "printf 'a\\033[31mb\\tc\\r\\n\\342\\200\\256d'")
    assert done.stdout == "a[31mb\tc\nd" and connection.shell("printf '\\000x'").stdout == "x"
    (tmp_path / "file").write_bytes(b"\r\n\x00")
    connection.pull(connection.push(tmp_path / "file"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"\r\n\x00"


@pytest.mark.parametrize("way", ["sh -c {script} | head -c 40; exit 0", "sh -c {script} | grep -v EDGEPRESS-END; exit 0", "exit 0", "kill -9 $$", "sh -c {script} | sed 's/EDGEPRESS-END [0-9a-f]*/EDGEPRESS-END 0123456789abcdef/'"])
def test_without_the_end_line_nothing_succeeded(opened: Opener, tmp_path: Path, way: str) -> None:
    connection = opened()
    (tmp_path / "file").write_bytes(b"x")
    connection._transport.broken = way  # type: ignore[attr-defined]
    for action in (lambda: run(connection, "true"), lambda: connection.push(tmp_path / "file"), lambda: connection.shell("true"), lambda: connection.pull("/etc/hostname", tmp_path / "to")):
        with pytest.raises(DeviceError, match="ended in the middle; nothing of it counts"):
            action()
    assert not (tmp_path / "to").exists()


def test_bytes_that_changed_on_the_way_are_noticed(opened: Opener, tmp_path: Path) -> None:
    connection = opened()
    there = connection.make_folder(tmp_path)
    run(connection, f"echo 1234567 > {there}/out")
    connection._transport.broken = "sh -c {script} | sed s/1234567/7654321/"  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="not what the device vouched for"):
        connection.pull(f"{there}/out", tmp_path / "out")
    (tmp_path / "file").write_bytes(b"1234567")
    connection._transport.broken = "sed s/1234567/7654321/ | sh -c {script}"  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="arrived damaged"):
        connection.push(tmp_path / "file")
    assert not list((tmp_path / "device" / "store").rglob("*/file*")) and not (tmp_path / "out").exists()


def test_a_result_that_changed_after_the_run_is_none(opened: Opener, tmp_path: Path) -> None:
    connection = opened()
    there = connection.make_folder(tmp_path)
    run(connection, f"echo first > {there}/out")
    (Path(there) / "out").write_text("other\n")
    (Path(there) / "late").write_text("late\n")
    with pytest.raises(DeviceError, match="vouched for"):
        connection.pull(f"{there}/out", tmp_path / "out")
    with pytest.raises(NotThereError):
        connection.pull(f"{there}/late", tmp_path / "out")


def test_another_model_of_the_same_size_is_replaced(opened: Opener, tmp_path: Path) -> None:
    connection = opened()
    (tmp_path / "m.tflite").write_bytes(b"new model")
    there = Path(connection.push(tmp_path / "m.tflite"))
    connection.close()
    there.write_bytes(b"old model")
    assert opened().push(tmp_path / "m.tflite") == str(there) and there.read_bytes() == b"new model"


def test_a_file_that_is_there_is_not_sent_again(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.tflite").write_bytes(b"model")
    first = opened()
    there = first.push(tmp_path / "m.tflite")
    first.close()
    second = opened()
    monkeypatch.setattr(RemoteConnection, "_put", lambda *_, **__: pytest.fail("sent again"))
    assert second.push(tmp_path / "m.tflite") == there


def test_names_of_files_are_harmless_there(opened: Opener, tmp_path: Path) -> None:
    file = tmp_path / "-rf 'größe' $(id)\n.tflite"
    file.write_bytes(b"x")
    assert opened().push(file).rpartition("/")[2] == "rf__gr__e____id__.tflite"


@pytest.mark.slow
def test_a_dead_holder_is_replaced_and_its_job_ended(opened: Opener, tmp_path: Path) -> None:
    first = opened()
    thread = threading.Thread(target=lambda: pytest.raises(DeviceError, run, first, "trap '' TERM HUP; sleep 73.5; sleep 73.5"), daemon=True)
    thread.start()
    assert wait_until(lambda: is_running("^sleep 73[.]5"))
    job = int((tmp_path / "device" / "running").read_text().split()[0])
    for pid in (int(os.readlink(tmp_path / "device" / "lock").split()[1]), *watchers(job)):
        os.kill(pid, signal.SIGKILL)
    thread.join(5)
    assert not thread.is_alive(), "its death was not noticed"
    left = tmp_path / "device" / "jobs" / "half"
    left.mkdir()
    second = opened()
    assert not is_running("sleep 73[.]5") and not left.exists() and run(second, "true").exit_code == 0
    with pytest.raises(DeviceError):
        run(first, "true")


def watchers(job: int) -> List[int]:
    """The wrapper of a job and its processes, but for the job itself: all that could end it."""
    parent = int(Path(f"/proc/{job}/stat").read_text().rpartition(")")[2].split()[1])
    return [parent, *(int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split() if int(pid) != job)]


def test_a_lock_of_another_boot_is_stale(opened: Opener, tmp_path: Path) -> None:
    opened().close()
    holder = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / "device" / "lock").symlink_to(f"0000-another-boot {os.getpid()} {holder} somebody")
    opened().close()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (tmp_path / "device" / "lock").symlink_to(f"{boot} {os.getpid()} {holder} alice@laptop (process 7)")
    with pytest.raises(DeviceError, match=r"in use by alice@laptop \(process 7\)"):
        opened()
    (tmp_path / "device" / "lock").unlink()


def test_ten_that_come_at_once_to_a_dead_holders_device(tmp_path: Path) -> None:
    """One gets it, nine are told so."""
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "lock").symlink_to("boot 1 2 somebody who died")
    got, told = [], []

    def come() -> None:
        try:
            got.append(open_remote(ShellTransport(tmp_path / "device")))
        except DeviceError as error:
            told.append(str(error))
    threads = [threading.Thread(target=come) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(told) == 9 and all("in use by" in text for text in told), [text for text in told if 'in use by' not in text]
    run(got[0], "true")
    got[0].close()


@pytest.mark.slow
def test_death_is_noticed_at_once(opened: Opener, tmp_path: Path) -> None:
    connection = opened()
    started = time.monotonic()
    threading.Timer(0.3, lambda: os.kill(int(os.readlink(tmp_path / "device" / "lock").split()[1]), signal.SIGKILL)).start()
    with pytest.raises(DeviceError, match="ended in the middle"):
        run(connection, "sleep 74")
    assert time.monotonic() - started < 5
    with pytest.raises(DeviceError):
        connection.shell("true")
    connection.remove(connection.home)  # quiet


def test_what_is_too_much_is_cut(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TEXT_BYTES", 1000)
    monkeypatch.setattr(channel, "NOISE_BYTES", 1000)
    connection = opened()
    with pytest.raises(DeviceError, match="sent more than is accepted"):
        connection._ask("yes", "0", timeout_seconds=20, max_bytes=1000)
    connection._transport.broken = "printf '\\nEDGEPRESS-BEGIN 0\\n'; yes"  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="sent more than is accepted"):
        connection.pull("/etc/hostname", tmp_path / "to", max_bytes=1000)
    assert not (tmp_path / "to").exists()


def test_a_full_disk_is_said_and_leaves_nothing(opened: Opener, tmp_path: Path) -> None:
    connection = opened()
    (tmp_path / "file").write_bytes(b"x" * 9000)
    connection._transport.broken = "ulimit -f 4; trap '' XFSZ; sh -c {script}"  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="cannot be stored there: it cannot be written there .*too large.*; make room"):
        connection.push(tmp_path / "file")
    assert not [file for file in (tmp_path / "device" / "store").rglob("*") if file.is_file()]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("a file")
    transport = ShellTransport(tmp_path / "device")
    with pytest.raises(DeviceError, match="cannot make the folder .*device"):
        open_remote(transport)
    assert transport.is_closed


def test_the_transport_says_why(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="it is switched off; switch it on"):
        open_remote(ShellTransport(tmp_path, broken="echo 'no route to host' >&2; exit 255"))


def test_a_device_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.keeper.OPEN_SECONDS", 0.5)
    with pytest.raises(DeviceError, match="did not answer within"):
        open_remote(ShellTransport(tmp_path, broken="sleep 75"))
    assert not is_running("^sleep 75$")


def test_interpreters(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    own = tmp_path / "device" / "runtimes" / "litert" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text(f"#!/bin/sh\nexec {sys.executable} \"$@\"\n")
    own.chmod(0o755)
    connection = opened()
    assert connection.interpreter("litert") == str(own)
    assert connection.interpreter("onnxruntime") == str(Path(sys.executable).parent / "python3")
    with pytest.raises(UnsupportedError, match="no Python on ssh://sh has tflite-runtime"):
        connection.interpreter("tflite_runtime")
