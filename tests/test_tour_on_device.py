"""The commands of the device tour, typed one after the other, on the emulated Raspberry Pi: over ssh as a Pi, over adb as a phone with Python."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from stages.test_bundle import make_photos, make_run

pytestmark = pytest.mark.device
NAME = "colours"
APPS = {"pi": "/home/pi/.edgepress/apps", "phone": "/data/local/tmp/edgepress/apps"}


def edgepress(*words: object, code: int = 0) -> str:
    """Run a command as a user types it; what it printed to stdout (to stderr where it is to fail)."""
    done = subprocess.run([sys.executable, "-m", "edgepress", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, f"edgepress {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stderr if code else done.stdout


@pytest.fixture(scope="module")
def tour(emulated_pi: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with the run of two small models, and both ways to the device by their names."""
    folder = tmp_path_factory.mktemp("tour")
    make_run(folder)
    for index, label in enumerate(("rød", "green", "青")):
        make_photos(folder / "all" / label, 3 * (index + 1))
        for path in (folder / "all" / label).iterdir():
            if int(path.stem[-2:]) % 3 != index:
                path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_HOME", str(folder / "home"))
        edgepress("device", "add", emulated_pi.ssh_address, "--name", "pi")
        edgepress("device", "add", emulated_pi.adb_address, "--name", "phone")
        edgepress("bundle", folder / "run", "-o", folder / "bundle")
        edgepress("bundle", folder / "run", "-o", folder / "second.zip", "--golden", 2)
        yield folder


def on_device(device: Any, name: str, command: str) -> str:
    """What a command prints there, typed into the device's own client."""
    if name == "pi":
        argv: List[str] = ["ssh", "-F", os.environ["EDGEPRESS_SSH_CONFIG"], device.ssh_address.removeprefix("ssh://"), command]
    else:
        argv = ["adb", "-s", device.adb_address.removeprefix("adb://"), "shell", command]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(tour: Path) -> Dict[str, Any]:
    """The first bundle on both devices, deployed at the same time; what the command said, by device."""
    documents = json.loads(edgepress("deploy", tour / "bundle", "--target", "pi,phone", "--json"))
    return {document["target"]: document for document in documents}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pi", "phone"])
def test_a_bundle_is_deployed_proven_and_used(emulated_pi: Any, tour: Path, deployed: Dict[str, Any], name: str) -> None:
    document, photo = deployed[name], tour / "all" / "green" / "photo 01.png"
    assert document["measured_on"] == "emulated" and document["parity"]["passed"] and document["previous"] is None
    assert {case["decoding"] for case in document["parity"]["cases"]} == {"same"} and document["parity"]["largest_difference"] <= 1 / 256  # one step
    assert edgepress("predict", photo, "--target", name).startswith(f"{photo}: green 9")
    assert "green 9" in on_device(emulated_pi, name, f"{APPS[name]}/{NAME}/run {APPS[name]}/{NAME}/current/golden/01.png")


@pytest.mark.slow
def test_an_update_is_taken_back(emulated_pi: Any, tour: Path, deployed: Dict[str, Any]) -> None:
    first = deployed["pi"]["release"]
    second = edgepress("deploy", tour / "second.zip", "--target", "pi")
    assert f"is current (before: {first[:12]}" in second and "(an emulated device)" in second
    assert f"release {first[:12]} is current again" in edgepress("device", "rollback", "pi")
    assert on_device(emulated_pi, "pi", f"readlink {APPS['pi']}/{NAME}/current").strip() == f"releases/{first}"


@pytest.mark.slow
def test_parity_and_accuracy_on_two_devices_at_once_and_no_milliseconds(tour: Path) -> None:
    model = tour / "bundle" / "model.tflite"
    reports = json.loads(edgepress("device", "parity", "pi,phone", tour / "bundle", "--json"))
    assert [(report["target"], report["passed"], report["measured_on"]) for report in reports] == [("pi", True, "emulated"), ("phone", True, "emulated")]
    documents: List[Dict[str, Any]] = json.loads(edgepress("evaluate", model, "--images", tour / "all", "--target", "pi,local", "-o", tour / "scores", "--json"))
    assert [(one["target"], one["accuracy"]) for one in documents] == [("pi", 1.0), ("local", 1.0)] and documents[0]["measured_on"] == "emulated"
    assert {path.name for path in tour.glob("scores-*")} == {"scores-pi", "scores-local"}
    assert "no latency" in edgepress("device", "bench", "pi", tour / "bundle", code=1)
    records = json.loads(edgepress("benchmark", model, "--target", "pi,local", "--threads", "1", "--effort", "quick", "--max-seconds", "0.5", "-o", tour / "latency", "--json"))
    assert [(one["target"], one["status"], bool(one["rounds"])) for one in records if one["runtime"] == "litert"] == [("pi", "unsupported", False), ("local", "ok", True)]
    assert "edgepress device instructions" in records[0]["reason"]
