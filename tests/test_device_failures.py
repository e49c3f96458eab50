"""A hundred failures of clients, daemons, disks and devices, at random moments: no false success, no stale model, death noticed at once."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator, List

import pytest
from emulated import need_emulator
from failing import DEATH_SECONDS, Lane, command_line, ours

from edgepress.emulator import Emulated, start
from edgepress.errors import DeviceError
from edgepress.remote import open_remote
from edgepress.targets.adb import AdbTransport
from edgepress.targets.ssh import SshTransport

pytestmark = [pytest.mark.device, pytest.mark.slow]
SEED = 7
HOLDER = 'set -- $(readlink {home}/lock); read -r line < /proc/$2/stat; set -- ${{line##*) }}; kill -{signal} $2'  # the daemon's session: the parent of the process that holds the device
JOB = 'read -r job since < {home}/running && kill -9 -- -$job'
WRAPPER = 'read -r job since < {home}/running; read -r line < /proc/$job/stat; set -- ${{line##*) }}; kill -9 $2'


@pytest.fixture(scope="module")
def device() -> Iterator[Emulated]:
    """A device of its own: others are not to be rebooted."""
    need_emulator()
    with start("rpi4") as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_SSH_CONFIG", str(running.ssh_config))
        patch.setenv("ADB_SERVER_SOCKET", running.adb_socket)
        yield running
        end(ours(running, "fork-server"))  # an adb client starts a server where it finds none


def end(pids: List[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_hundred_failures(device: Emulated, tmp_path: Path) -> None:
    lanes = []
    for name, transport in (("ssh", lambda: SshTransport(device.ssh_address)), ("adb", lambda: AdbTransport(device.adb_address))):
        (tmp_path / name).mkdir()
        lanes.append(Lane(device, transport, tmp_path / name, SEED))
    started = time.monotonic()
    threads = [threading.Thread(target=guarded, args=(run, lane)) for run, lane in zip((ssh_failures, adb_failures), lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lane in lanes:
        reboots(lane)
    deaths = sorted(second for lane in lanes for second in lane.deaths)
    print(f"\n{sum(lane.count for lane in lanes)} failures in {time.monotonic() - started:.0f} s; {len(deaths)} deaths, the latest noticed after {deaths[-1]:.1f} s; "
          f"{sum(lane.survived for lane in lanes)} measurements were right all the same")
    print(*[said for lane in lanes for said in lane.wrong + lane.slow], sep="\n")
    assert not [said for lane in lanes for said in lane.wrong]
    assert not [said for lane in lanes for said in lane.slow], f"noticed later than {DEATH_SECONDS} s"
    assert sum(lane.count for lane in lanes) == 100 and len(deaths) > 30


def guarded(run, lane: Lane) -> None:  # type: ignore[no-untyped-def]
    try:
        run(lane)
    except BaseException as error:  # a thread's error would be lost
        lane.wrong.append(repr(error))
        raise


def ssh_failures(lane: Lane) -> None:
    device, home = lane.device, "~/.edgepress"
    for _ in range(8):
        lane.interrupt("client killed", lambda: end(ours(device, "-S /")))
    for _ in range(8):
        lane.interrupt("session killed", lambda: device.shell(HOLDER.format(home=home, signal=9)))
    for _ in range(6):
        lane.interrupt("sshd killed", lambda: device.kill("sshd"), heal=lambda: device.restart("sshd"))
    for _ in range(2):
        lane.interrupt("session hangs", lambda: device.shell(HOLDER.format(home=home, signal="STOP")), heal=lambda: device.shell(HOLDER.format(home=home, signal=9)), latest=1.0, closes=False)
    shared_failures(lane, home, last_bytes=6)
    noisy_shells(lane)
    for _ in range(4):
        changed_key(lane)
    for _ in range(3):
        killed_measurer(lane)


def adb_failures(lane: Lane) -> None:
    device = lane.device
    for _ in range(6):
        lane.interrupt("client killed", lambda: end(ours_adb()))
    for _ in range(6):
        lane.interrupt("adbd killed", lambda: device.kill("adbd"), heal=lambda: device.restart("adbd"))
    for _ in range(6):
        lane.interrupt("adb server killed", lambda: device.kill("adb server"), heal=lambda: (end(ours(device, "fork-server")), device.restart("adb server")))  # type: ignore[func-returns-value]
    shared_failures(lane, "/data/local/tmp/edgepress", last_bytes=2)  # 14 s each: adbd keeps the connection open for what else holds it, so that only the limit ends it


def ours_adb() -> List[int]:
    """The adb clients that this process started."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    found = [int(pid) for file in children for pid in file.read_text().split()]
    return [pid for pid in found if b"adb\0-s\0" in command_line(pid)]


def shared_failures(lane: Lane, home: str, *, last_bytes: int) -> None:
    for _ in range(5):
        lane.interrupt("worker killed", lambda: lane.device.shell(JOB.format(home=home)), closes=False)
    for _ in range(last_bytes):
        trial = lane.trial(last_words=WRAPPER.format(home=home), limit_seconds=2)
        trial.run()
        lane.judge("dead after the last byte", trial, must_fail=True)
    for _ in range(4):
        stale_model(lane)
    for _ in range(3):
        two_at_once(lane)
    for _ in range(3):
        full_disk(lane)
    trial = lane.trial(last_words="sleep 60", limit_seconds=1)
    trial.run()
    lane.judge("hang", trial, must_fail=True)


def stale_model(lane: Lane) -> None:
    """Other bytes of the same size lie there under the very name."""
    trial = lane.trial()

    def spoil(connection) -> None:  # type: ignore[no-untyped-def]
        import hashlib

        folder = f"{connection.home}/store/{hashlib.sha256(trial.model).hexdigest()}"
        assert connection.shell(f"mkdir -p {folder} && head -c {len(trial.model)} /dev/zero > {folder}/model.tflite").exit_code == 0

    trial.while_open = spoil
    trial.run()
    lane.judge("stale model", trial, must_succeed=True)


def two_at_once(lane: Lane) -> None:
    """The second one is told who has the device, and the first one is not disturbed."""
    refused = []

    def intrude(connection) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(DeviceError, match="is in use by .*@") as caught:
            open_remote(lane.transport())
        refused.append(caught)

    trial = lane.trial(while_open=intrude)
    trial.run()
    lane.judge("two at once", trial, must_succeed=True)
    if not refused:
        lane.wrong.append("two at once: the second was let in")


def full_disk(lane: Lane) -> None:
    """A disk of 1 MB with some room left, none at all at the end."""
    mount = f"/small-{lane.folder.name}"
    (lane.device.root / mount[1:]).mkdir(exist_ok=True)
    inside = f"{lane.device.state}/root{mount}"
    enter = [*lane.device._enter("--mount", "--pid"), "mount"]
    subprocess.run([*enter, "-t", "tmpfs", "-o", "size=1m,mode=0777", "small", inside], check=True)
    try:
        lane.device.shell(f"head -c {1_048_576 - lane.random.randrange(0, 60_000)} /dev/zero > {mount}/full")

        def small():  # type: ignore[no-untyped-def]
            transport = lane.transport()
            transport.home = f"{mount}/edgepress"
            return transport

        trial = lane.trial(transport=small)
        trial.run()
        lane.judge("disk full", trial)
    finally:
        subprocess.run([*enter[:-1], "umount", "-l", inside], check=True)


def noisy_shells(lane: Lane) -> None:
    """Start files that talk, also like us, and that end badly."""
    noises = ("echo Welcome; echo EDGEPRESS-END 0 0 -", "printf 'no newline'; echo trouble >&2", "head -c 50000 /dev/zero", "echo EDGEPRESS-READY; false")
    for noise in noises:
        lane.device.shell(f"cat > ~/.bashrc <<'EOF'\n{noise}\nEOF")
        trial = lane.trial()
        trial.run()
        lane.judge("noisy shell", trial, must_succeed=True)
    lane.device.shell("echo exit 0 > ~/.bashrc")
    trial = lane.trial()
    trial.run()
    lane.judge("shell that ends at once", trial, must_fail=True)
    lane.device.shell("rm ~/.bashrc")


def changed_key(lane: Lane) -> None:
    known = lane.device.files / "ssh" / "known_hosts"
    before = known.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(lane.folder / f"key{lane.count}")], check=True)
    known.write_text("emulated-pi " + (lane.folder / f"key{lane.count}.pub").read_text())
    trial = lane.trial()
    trial.run()
    known.write_text(before)
    lane.judge("changed host key", trial, must_fail=True)
    if "another host key" not in str(trial.error):
        lane.wrong.append(f"changed host key: {trial.error}")


def killed_measurer(lane: Lane) -> None:
    """Our own process is killed: its job there ends by itself, and the device is free at once."""
    code = (f"from edgepress.targets import connect\nc = connect({lane.device.ssh_address!r})\nprint('open', flush=True)\n"
            "c.run(['sleep', '77.5'], environment={}, timeout_seconds=99)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    time.sleep(lane.random.uniform(0.0, 1.0))
    process.kill()
    process.wait()
    killed = time.monotonic()
    while lane.device.shell("cat /proc/[0-9]*/cmdline").stdout.count("77.5") and time.monotonic() < killed + DEATH_SECONDS:
        time.sleep(0.2)
    if time.monotonic() - killed > DEATH_SECONDS:
        lane.slow.append("the job of a killed process goes on")
    trial = lane.trial()
    trial.run()
    lane.judge("measurer killed", trial, must_succeed=True)


def reboots(lane: Lane) -> None:
    for _ in range(3):
        lane.interrupt("reboot", lane.device.reboot)
