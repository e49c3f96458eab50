"""A child process that runs stages: TensorFlow stages share one, and others run beside each other in theirs."""
from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, TextIO

import edgepress.errors as errors
from edgepress.artifact import Inputs
from edgepress.progress import report_progress, set_sink
from edgepress.recipe import make_config
from edgepress.stages import STAGES, Stage


class StageChild:
    """One child process; `call` has the shape that `artifact.run_stage` wants. `preload` names modules to import while it waits."""

    def __init__(self, *preload: str) -> None:
        self.preload = preload
        self._process: Optional[subprocess.Popen] = None
        self._log: Any = None

    def start(self) -> None:
        """Start the process and its imports now, beside whatever else is being done."""
        if self._process is not None:
            return
        requests, self._send_fd = os.pipe()
        self._receive_fd, replies = os.pipe()
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen([sys.executable, "-m", "edgepress.child", str(requests), str(replies), *self.preload], pass_fds=(requests, replies),
                                         stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        os.close(requests)
        os.close(replies)
        self._send, self._receive = os.fdopen(self._send_fd, "w"), os.fdopen(self._receive_fd)

    def call(self, stage: Stage, out: Path, inputs: Inputs, config: Any) -> None:
        """Run `stage` in the child; progress and errors come back as if it ran here."""
        import dataclasses

        self.start()
        if stage.tensorflow:
            stage.prepare(out.parent / ".cache", **inputs, config=config)  # here, while the child is busy with its imports
        paths = {role: [str(p) for p in v] if isinstance(v, (list, tuple)) else v and str(v) for role, v in inputs.items()}
        with contextlib.suppress(BrokenPipeError):
            self._send.write(json.dumps({"stage": stage.name, "out": str(out), "inputs": paths, "config": dataclasses.asdict(config)}) + "\n")
            self._send.flush()
        for line in self._receive:
            reply = json.loads(line)
            if reply["kind"] == "progress":
                report_progress(reply["text"], done=reply["done"])
            elif reply["kind"] == "done":
                return
            else:
                raise _rebuild(reply)
        raise self._death(stage)

    def _death(self, stage: Stage) -> errors.JobError:
        assert self._process is not None
        code = self._process.wait()
        name = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._log.seek(0)
        hint = "most likely the machine ran out of memory" + ("; try a smaller --batch-size" if stage.tensorflow else "") if code == -signal.SIGKILL else None
        log = self._log.read().decode(errors="replace")
        self.close()  # the next call starts another
        return errors.JobError(f"the process that ran the {stage.name} stage ended with {name}", hint=hint, stderr=log)

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._send.close()
            self._receive.close()
            self._process.terminate()
            self._process.wait()
            self._log.close()
            self._process = None

    def __enter__(self) -> "StageChild":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rebuild(reply: Dict[str, Any]) -> Exception:
    if reply["error"] == "OSError":
        return OSError(reply["errno"], reply["message"], reply["filename"])
    kind = getattr(errors, reply["error"], None)
    if kind is None:
        return RuntimeError(reply["message"])
    error = kind.__new__(kind)
    Exception.__init__(error, reply["message"])
    error.message, error.hint = reply["message"], reply["hint"]
    return error


TENSORFLOW = "tensorflow"


def _preload(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(errors.EdgepressError, ImportError):  # the stage that needs it says so itself
            if name == TENSORFLOW:
                from edgepress.tf import import_tensorflow

                import_tensorflow()
            else:
                importlib.import_module(name)


def _serve(requests: TextIO, replies: TextIO, preload: Sequence[str]) -> None:
    def reply(**fields: Any) -> None:
        replies.write(json.dumps(fields) + "\n")
        replies.flush()

    set_sink(lambda text, done: reply(kind="progress", text=text, done=done))
    _preload(preload)
    for line in requests:
        request = json.loads(line)
        stage = STAGES[request["stage"]]
        inputs = {role: [Path(p) for p in v] if isinstance(v, list) else v and Path(v) for role, v in request["inputs"].items()}
        try:
            stage.function()(Path(request["out"]), config=make_config(stage.config, request["config"], where=stage.name), **inputs)
        except errors.EdgepressError as error:
            known = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
            reply(kind="error", error=known, message=error.message, hint=error.hint)
        except OSError as error:
            reply(kind="error", error="OSError", errno=error.errno, message=error.strerror or str(error), filename=error.filename and str(error.filename))
        except Exception:
            reply(kind="error", error="", message=traceback.format_exc(), hint=None)
        else:
            reply(kind="done")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        _serve(os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w"), sys.argv[3:])
