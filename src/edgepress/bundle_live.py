"""The child process of run.py: open a bundle's model once, then answer photo after photo, or frame after frame, one JSON line each.

    python -c "…" FOLDER OPTIONS.json      (bundle_programs starts it; a file that crashes its runtime takes this process with it and no other)
"""
from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Sequence, Tuple

import numpy as np
from PIL import Image

from edgepress.artifact import digest_file
from edgepress.bundle_files import install_command, rank, read_manifest, select_model
from edgepress.errors import DatasetError, EdgepressError, ModelError, UnsupportedError
from edgepress.feeding import feed_pixels, read_scores
from edgepress.modelspec import ModelSpec, read_spec
from edgepress.preprocess import load_pixels, to_pixels
from edgepress.runtimes import load_runtime
from edgepress.runtimes.base import Session

FRAME = (640, 480)  # of the camera's stream, before the resize of the model: (width, height)


def main(folder: str, options: Mapping[str, Any]) -> int:
    """Answer everything that the options ask for; the exit code. Errors are a JSON line too."""
    try:
        _answer_all(Path(folder), options)
    except EdgepressError as error:
        _say({"error": str(error)})
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our lines is gone
    return 0


def _answer_all(folder: Path, options: Mapping[str, Any]) -> None:
    manifest = select_model(read_manifest(folder), options.get("model"))
    spec = read_spec(folder)
    session, runtime = open_session(folder, manifest, runtime=options.get("runtime"), threads=options["threads"])
    notify("READY=1")
    for name, pixels in (_frames(options, spec) if options.get("camera") else _photos(options["photos"], spec)):
        if isinstance(pixels, str):
            _say({"photo": name, "problem": pixels})
            continue
        started = time.perf_counter()
        scores = read_scores(session.run([_fill(feed_pixels(pixels[None], session.inputs[0], spec), session)])[0], session.outputs[0], logits=spec.output == "logits")[0]
        answer = rank([float(score) for score in scores], spec, top=options["top"], file=manifest["model"])
        _say({"photo": name, **answer, "inference_ms": round((time.perf_counter() - started) * 1e3, 2), "runtime": runtime})
        notify("WATCHDOG=1")


def _fill(array: np.ndarray, session: Session) -> np.ndarray:
    """One row repeated where the file was made for several at once."""
    batch = session.inputs[0].shape[0] if session.inputs[0].shape else 1
    return np.repeat(array, batch, axis=0) if batch > 1 else array


def open_session(folder: Path, manifest: Mapping[str, Any], *, runtime: Any, threads: int) -> Tuple[Session, Dict[str, Any]]:
    """The bundle's model, open in the first of its runtimes that works here, and that runtime's name and version.

    Raises:
        ModelError: the file's bytes are not those of the manifest: it is not loaded.
        UnsupportedError: no runtime of the bundle works here.
    """
    path = folder / manifest["model"]
    if path.is_symlink() or not path.is_file() or digest_file(path) != manifest["files"][manifest["model"]]["sha256"]:
        raise ModelError(f"{path} is not the file that was packed (its sha256 is another one) and is not loaded", "copy the whole bundle folder again")
    reasons = []
    for name in [runtime] if runtime else manifest["runtimes"]:
        module = load_runtime(name)
        reason = module.health_check()
        if reason is None:
            try:
                return module.open_model(str(path), threads=threads), {"name": name, "version": module.version()}
            except (ModelError, UnsupportedError) as error:
                reason = str(error)
        reasons.append(f"{name}: {reason}")
    raise UnsupportedError("nothing on this machine can run the model (" + "; ".join(reasons) + ")", "install what it needs: " + install_command(folder, manifest))


def _photos(paths: Sequence[str], spec: ModelSpec) -> Iterator[Tuple[str, Any]]:
    """(path, pixels uint8 [H, W, 3] or what is wrong with it)."""
    for path in paths:
        try:
            yield path, load_pixels(path, spec)
        except DatasetError as error:
            yield path, getattr(error, "reason", error.message)


def _frames(options: Mapping[str, Any], spec: ModelSpec) -> Iterator[Tuple[str, np.ndarray]]:
    """Frames of the Raspberry Pi's camera, at most one each `interval` seconds."""
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise UnsupportedError(f"the camera needs picamera2, which this Python does not have ({error})",
                               "sudo apt install python3-picamera2, and make the virtual environment with --system-site-packages") from error
    camera = Picamera2()
    # picamera2 names formats by their order in memory as a number: "BGR888" is the one whose arrays are R, G, B (raspberrypi/picamera2#1148).
    camera.configure(camera.create_video_configuration(main={"size": FRAME, "format": "BGR888"}))
    camera.start()
    try:
        number = 0
        while options["count"] is None or number < options["count"]:
            due = time.monotonic() + options["interval"]
            number += 1
            frame = np.ascontiguousarray(camera.capture_array("main")[..., :3])
            yield f"frame {number}", to_pixels(Image.fromarray(frame), size=spec.size, resize=spec.resize)
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        camera.stop()


def notify(state: str) -> None:
    """Tell systemd, where it started us (sd_notify(3)): that the model is open, and after each answer that we are alive."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line, ensure_ascii=False), flush=True)
