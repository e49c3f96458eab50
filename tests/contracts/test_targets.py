"""What every target does alike: this machine, ssh, adb, emulated."""
from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

from edgepress.errors import DeviceError, JobError, UnsupportedError
from edgepress.jobs import available_runtimes, run_job
from edgepress.targets import TARGETS, connect
from edgepress.targets.base import Connection, NotThereError

MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny_int8.tflite"
DEVICE = [pytest.mark.device, pytest.mark.slow]
NAMES = ["local", *(pytest.param(name, marks=DEVICE) for name in ("ssh", "adb", "emu"))]


def test_every_target_is_tested_here() -> None:
    assert set(TARGETS) == {"local", "ssh", "adb", "emu", "browser"}, "browser runs no commands: tests/browser"


@pytest.fixture(scope="module", params=NAMES)
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    name = request.param
    if name == "emu":
        from emulated import need_emulator

        need_emulator()
    device = request.getfixturevalue("emulated_pi") if name in ("ssh", "adb") else None
    opened = connect({"local": "local", "emu": "emu://rpi5"}.get(name) or getattr(device, f"{name}_address"))
    yield opened
    opened.close()


def run(connection: Connection, *command: str, timeout_seconds: float = 60, **environment: str):  # type: ignore[no-untyped-def]
    return connection.run(command, environment=environment, timeout_seconds=timeout_seconds)


def test_both_streams_the_exit_code_and_the_environment(connection: Connection) -> None:
    done = run(connection, "sh", "-c", "echo \"to be $A\"; echo 'or not' >&2; exit 7", A="or 'not' $HOME; \\ \"")
    assert (done.exit_code, done.stdout, done.stderr) == (7, "to be or 'not' $HOME; \\ \"\n", "or not\n")


def test_arguments_arrive_as_they_are(connection: Connection) -> None:
    arguments = ["", "a b", "it's", '"$HOME" `id` $(id)', "*", "{nonce} {list}", "größe\nzwei", "--help", "\\n", "EDGEPRESS-END 0 0 -"]
    assert run(connection, "printf", "<%s>", *arguments).stdout == "".join(f"<{argument}>" for argument in arguments)


def test_a_signal_is_a_signal(connection: Connection) -> None:
    assert run(connection, "sh", "-c", "kill -9 $$").exit_code == -9


@pytest.mark.slow
def test_a_command_that_goes_on_is_stopped(connection: Connection) -> None:
    with pytest.raises(JobError, match="did not end within 1 s"):
        run(connection, "sleep", "77", timeout_seconds=1)


def test_files_go_there_and_back(connection: Connection, tmp_path: Path) -> None:
    data = os.urandom(70_000) + b"\r\n\0EDGEPRESS-END"
    (tmp_path / "a photo's name.jpg").write_bytes(data)
    there = connection.push(tmp_path / "a photo's name.jpg")
    assert connection.push(tmp_path / "a photo's name.jpg") == there
    digest = run(connection, "sha256sum", there).stdout
    connection.pull(there, tmp_path / "back", max_bytes=100_000)
    assert digest.startswith(hashlib.sha256(data).hexdigest()) and (tmp_path / "back").read_bytes() == data
    with pytest.raises(DeviceError, match="larger than accepted"):
        connection.pull(there, tmp_path / "again", max_bytes=70_000)
    with pytest.raises(NotThereError, match="no such file"):
        connection.pull(there + "x", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_folder_of_a_job(connection: Connection, tmp_path: Path) -> None:
    there = connection.make_folder(tmp_path)
    connection.write(b"\x00\xff\n", f"{there}/in")
    assert run(connection, "sh", "-c", f"cp {there}/in {there}/out; echo done").stdout == "done\n"
    connection.pull(f"{there}/out", tmp_path / "brought")
    assert (tmp_path / "brought").read_bytes() == b"\x00\xff\n"
    connection.remove(there)
    assert run(connection, "test", "-e", there).exit_code == 1


def test_it_says_what_it_is(connection: Connection) -> None:
    facts = connection.probe()
    assert facts["system"] == "Linux" and facts["cpus"] >= 1 and facts["memory_bytes"] > 1e8 and facts["bits"] == 64
    assert facts["machine"] == ("aarch64" if connection.measured_on == "emulated" else os.uname().machine)
    assert connection.measured_on == ("real" if connection.address == "local" else "emulated")


def test_a_job_gives_this_machines_answer(connection: Connection, tmp_path: Path) -> None:
    assert "litert" in available_runtimes("tflite", connection=connection)
    np.save(tmp_path / "rows.npy", np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3))
    job = {"job": "predict", "runtime": "litert", "model": str(MODEL), "tensors": "rows.npy"}
    result = run_job({**job, "output": "there.npy"}, work=tmp_path, target=connection)
    run_job({**job, "output": "here.npy"}, work=tmp_path)
    assert result["status"] == "ok" and result["host"]["machine"] == connection.probe()["machine"]
    assert np.array_equal(np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy")), "int8, the same runtime: not one bit differs"


def test_what_runs_here_only_is_refused_there(connection: Connection) -> None:
    if connection.address != "local":
        with pytest.raises(UnsupportedError, match="this machine only"):
            connection.interpreter("keras")
