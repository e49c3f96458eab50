"""From a recipe to ordered steps, and running them: what `edgepress run` does and `--dry-run` prints."""
from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import shlex
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from edgepress.artifact import Inputs, artifact_digest, call_here, digest_file, digest_json, disk_error, is_artifact, run_stage, write_json
from edgepress.child import TENSORFLOW, StageChild
from edgepress.context import stage_context
from edgepress.errors import ArtifactError, EdgepressError, UnsupportedError
from edgepress.recipe import Recipe
from edgepress.report_data import RUN_FILE, is_run, read_run_file
from edgepress.stages import STAGES, Stage

SCHEMA = 1
OFFLINE_SOURCES = ("digits",)
TRUNK = ("dataset", "finetune", "prune", "convert")
VARIANT_STAGES = ("quantize", "evaluate", "certify")  # one step per variant, independent of each other
WORKERS = 2
QUANTIZERS = ("edgepress.stages.quantize", "ai_edge_quantizer", "onnxruntime.quantization")  # what a worker imports while the trunk is busy


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step, or one file of it."""

    step: str
    file: Optional[str] = None


@dataclass(frozen=True)
class Step:
    """One stage with its inputs; `variant` is `<scheme>.<format>` where there are several of the kind."""

    id: str
    stage: str
    inputs: Mapping[str, Union[Ref, Path, Tuple[Ref, ...]]]
    config: Any
    variant: Optional[str] = None
    runtime: Optional[str] = None
    required: bool = True  # a failure ends the run; otherwise it is written down and the run goes on


def plan(recipe: Recipe, *, runtimes: Mapping[str, Tuple[str, ...]]) -> List[Step]:
    """The steps of a recipe in order.

    Args:
        runtimes: format → runtimes that evaluate its files, e.g. {"tflite": ("litert",), "onnx": ("onnxruntime",)}.
    """
    trunk = [Step("dataset", "dataset", {"images": Path(recipe.images)}, recipe.dataset),
             Step("finetune", "finetune", {"dataset": Ref("dataset")}, recipe.finetune)]
    if recipe.prune is not None:
        trunk.append(Step("prune", "prune", {"model": Ref("finetune"), "dataset": Ref("dataset")}, recipe.prune))
    trunk.append(Step("convert", "convert", {"model": Ref(trunk[-1].id)}, recipe.convert))
    variants = _variant_files(recipe)
    quantized = [Step(f"quantize:{name}", "quantize", {"model": Ref("convert", f"model.{name.rpartition('.')[2]}"), "dataset": Ref("dataset")},
                      replace(recipe.quantize, scheme=name.rpartition(".")[0]), variant=name, required=False)
                 for name, ref in variants.items() if ref.step != "convert"]
    evaluated = [Step(f"evaluate:{name}@{runtime}", "evaluate", {"model": ref, "dataset": Ref("dataset")},
                      replace(recipe.evaluate, runtime=runtime), variant=name, runtime=runtime, required=False)
                 for name, ref in variants.items() for runtime in runtimes.get(name.rpartition(".")[2], ())]
    reference = evaluated[0].id if evaluated else None
    certified = [Step(f"certify:{step.variant}@{step.runtime}", "certify", {"model": Ref(step.id), "reference": Ref(reference)},
                      recipe.certify, variant=step.variant, runtime=step.runtime, required=False)
                 for step in evaluated[1:]] if reference else []
    benchmark = Step("benchmark", "benchmark", {"model": tuple(variants.values())}, replace(recipe.benchmark, runtimes=recipe.benchmark.runtimes or recipe.runtimes))
    return trunk + quantized + evaluated + certified + [benchmark]


def _variant_files(recipe: Recipe) -> Dict[str, Ref]:
    """Variant name → its file; the float reference first, whether or not it was asked for."""
    schemes = ("float32",) + tuple(s for s in recipe.schemes if s != "float32")
    names = [f"{scheme}.{form}" for form in recipe.convert.formats for scheme in schemes]
    return {name: Ref("convert", f"model.{name.rpartition('.')[2]}") if name.startswith("float32.") else
            Ref(f"quantize:{name}", f"model.{name.rpartition('.')[2]}") for name in names}


def commands(steps: List[Step], out: Path) -> List[str]:
    """The commands that do the same as the steps, one line each."""
    places = {step.id: out / (step.variant if step.stage == "quantize" and step.variant else step.id.replace(":", "-").replace("@", "-")) for step in steps}
    return [_command(step, places) for step in steps] + [shlex.join(["edgepress", "report", str(out)]), shlex.join(["edgepress", "bundle", str(out), "-o", str(out / "bundle")])]


def _command(step: Step, places: Mapping[str, Path]) -> str:
    words = ["edgepress", step.stage]
    for declared in STAGES[step.stage].inputs:
        value = step.inputs.get(declared.role)
        for item in value if isinstance(value, tuple) else [value] if value is not None else []:
            words += ([declared.flag] if declared.flag else []) + [str(item if isinstance(item, Path) else _place(item, places))]
    for key, value in dataclasses.asdict(step.config).items():
        if value != getattr(type(step.config)(), key):
            words += flag(key, value)
    return shlex.join(words + ["-o", str(places[step.id])])


def _place(ref: Ref, places: Mapping[str, Path]) -> Path:
    """Where a step's file is: a quantized file stands alone, everything else lies in its folder."""
    return places[ref.step] / ref.file if ref.file and not ref.step.startswith("quantize:") else places[ref.step]


def flag(key: str, value: Any) -> List[str]:
    """How the command line spells a config value."""
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, (tuple, list)):
        return [f"--{name}", ",".join(map(str, value))]
    return [f"--{name}", "none" if value is None else str(value)]


def digest_input(path: Path, *, cache: Path) -> str:
    """Digest of any stage input: a file, an artifact, a run folder, or the images of a folder.

    Args:
        cache: where the hashes of the user's photos are remembered between commands.
    """
    if str(path) in OFFLINE_SOURCES:
        return str(path)
    if path.is_file() and path.suffix.lower() != ".csv":
        return digest_file(path)
    if is_artifact(path):
        return artifact_digest(path)
    if (path / RUN_FILE).is_file():
        return run_digest(path)
    if (path / "saved_model.pb").is_file():
        return digest_json([[p.relative_to(path).as_posix(), digest_file(p)] for p in sorted(path.rglob("*")) if p.is_file()])
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", "check the path")
    from edgepress.imageset import source_digest

    return source_digest(path, cache=cache)


def run_digest(folder: Path) -> str:
    """Digest of a run: what its steps made, not how long they took."""
    return digest_json([[s["stage"], s["variant"], s["runtime"], s["artifact"], s["status"]] for s in read_run_file(folder)["steps"]
                        if s["stage"] not in ("report", "bundle")])


class Runner:
    """Runs steps into one folder and keeps run.json true after each of them."""

    def __init__(self, recipe: Recipe, out: Path, *, on_step: Callable[[str, str, float], None]) -> None:
        self.recipe, self.out, self.on_step = recipe, Path(os.path.abspath(out)), on_step
        self.digest = partial(digest_input, cache=self.out / ".cache")
        self.artifacts: Dict[str, Path] = {}
        self.records: Dict[str, Dict[str, Any]] = {}
        self.order: List[str] = []  # run.json lists steps as planned, whichever ended first: the same run has the same digest
        self.stopped = False  # interrupted: what still ends is written down, but not shown
        self.lock = threading.Lock()

    def run(self, steps: List[Step]) -> None:
        """All steps, then the report and the bundle. Raises what a required step raises; GateError if nothing may ship."""
        try:
            self._claim_folder()
            self.run_steps(steps)
            for name in ("report", "bundle"):
                self._step(Step(name, name, {"run": self.out}, getattr(self.recipe, name)))
                self._point_to(self.artifacts[name])
        except OSError as error:
            mended = disk_error(error, self.out)
            if mended is error:
                raise
            raise mended from error

    def _claim_folder(self) -> None:
        """Make the run folder. Raises ArtifactError where it is a file, or somebody's folder."""
        if self.out.exists() and not self.out.is_dir():
            raise ArtifactError(f"{self.out} exists and is a file; accepted: a folder to make", "choose another -o")
        if self.out.is_dir() and any(".part-" not in p.name for p in self.out.iterdir()):  # parts: we were killed before the first line was written
            ours = any(is_artifact(p) for p in self.out.iterdir()) or is_run(self.out)
            if not ours:
                raise ArtifactError(f"{self.out} exists, is not empty and was not made by edgepress", "choose another -o, or empty the folder")
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / RUN_FILE).is_file():  # the folder is ours from now on, even if the first step is killed
            self._save()

    def run_steps(self, steps: List[Step]) -> None:
        """The given steps alone: the trunk one by one in a child that has TensorFlow, its variants two at a time, benchmarks alone."""
        self.order = [step.id for step in steps]
        with contextlib.ExitStack() as stack:
            trunk = stack.enter_context(StageChild(TENSORFLOW))
            workers = [stack.enter_context(StageChild(*QUANTIZERS)) for _ in range(WORKERS)]
            for step in steps:
                if step.stage in TRUNK:
                    self._step(step, self._trunk_call(step.stage, trunk, workers))
            trunk.close()
            self._beside_each_other([s for s in steps if s.stage in VARIANT_STAGES], workers)
        for step in steps:
            if step.stage not in TRUNK + VARIANT_STAGES:
                self._step(step)

    def _trunk_call(self, stage: str, trunk: StageChild, workers: List[StageChild]) -> Callable[..., None]:
        """How a trunk stage is run, if it must be: while one core imports TensorFlow, the other does the imports of what comes next."""
        def call(declared: Stage, out: Path, inputs: Inputs, config: Any) -> None:
            for child in [trunk] + (workers if declared.tensorflow else []):
                child.start()
            (trunk.call if declared.tensorflow else call_here)(declared, out, inputs, config)

        return call

    def _beside_each_other(self, steps: List[Step], workers: List[StageChild]) -> None:
        """Each step waits for the ones it needs; those were submitted before it, so two workers never wait for each other.

        What needs none of the others goes first, whatever its place in the plan: at the end, no core waits for a long chain.
        """
        futures: Dict[str, Future] = {}
        depth: Dict[str, int] = {}
        for step in steps:
            depth[step.id] = 1 + max((depth[value.step] for value in step.inputs.values() if isinstance(value, Ref) and value.step in depth), default=0)
        children: "queue.SimpleQueue[StageChild]" = queue.SimpleQueue()
        for child in workers:
            children.put(child)

        def work(step: Step) -> None:
            for value in step.inputs.values():
                if isinstance(value, Ref) and value.step in futures:
                    futures[value.step].result()
            child = children.get()
            try:
                self._step(step, child.call if step.stage == "quantize" else None)
            finally:
                children.put(child)

        pool = ThreadPoolExecutor(WORKERS)
        try:
            for step in sorted(steps, key=lambda step: depth[step.id]):
                futures[step.id] = pool.submit(work, step)
            for future in futures.values():
                future.result()
        except BaseException:
            self.stopped = True
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _step(self, step: Step, call: Optional[Callable[..., None]] = None) -> None:
        stage, started = STAGES[step.stage], time.monotonic()
        self.on_step(step.id, "start", 0.0)
        record: Dict[str, Any] = {"id": step.id, "stage": step.stage, "variant": step.variant, "runtime": step.runtime, "inputs": {}, "artifact": None, "status": "unfinished", "reason": None}
        try:
            inputs = {role: self._resolve(value) for role, value in step.inputs.items()}
            record["inputs"] = {role: [self._show(p) for p in v] if isinstance(v, list) else self._show(v) for role, v in inputs.items()}
            path = run_stage(stage, inputs=inputs, config=step.config, work=self.out, digest=self.digest, context=stage_context(step.stage, step.config, inputs), call=call)
            self.artifacts[step.id] = path
            record.update(artifact=path.name, status="ok")
        except EdgepressError as error:
            record.update(status="skipped" if isinstance(error, (UnsupportedError, _Missing)) else "failed", reason=str(error))
            if step.required:
                raise
        finally:
            self._write(record, started)

    def _point_to(self, artifact: Path) -> None:
        """A link without the key, such as `report` -> `report-1a2b3c`: a place that stays the same from run to run."""
        link = self.out / artifact.name.partition("-")[0]
        if link.exists() and not link.is_symlink():
            return  # somebody's own: the folder with the key is there all the same
        part = self.out / f".{link.name}.part-{os.getpid()}"
        part.unlink(missing_ok=True)
        inside = f"{artifact.name}/{link.name}"  # a bundle is a folder in its artifact, whose record stays here
        part.symlink_to(inside if (self.out / inside).is_dir() else artifact.name, target_is_directory=True)
        os.replace(part, link)

    def _resolve(self, value: Union[Ref, Path, Tuple[Ref, ...]]) -> Any:
        if isinstance(value, tuple):
            return [self._resolve(ref) for ref in value if ref.step in self.artifacts]
        if isinstance(value, Path):
            return value
        if value.step not in self.artifacts:
            raise _Missing(f"the step {value.step} made no file")
        folder = self.artifacts[value.step]
        return folder / value.file if value.file else folder

    def _show(self, path: Path) -> str:
        return os.path.relpath(path, self.out) if self.out in Path(path).parents else str(path)

    def _write(self, record: Dict[str, Any], started: float) -> None:
        with self.lock:
            record["seconds"] = round(time.monotonic() - started, 3)
            self.records[record["id"]] = record
            self._save()
            if not self.stopped:
                self.on_step(record["id"], record["status"] if not record["reason"] else f"{record['status']}: {record['reason']}", record["seconds"])

    def _save(self) -> None:
        steps = sorted(self.records.values(), key=lambda r: self.order.index(r["id"]) if r["id"] in self.order else len(self.order))
        write_json(self.out / RUN_FILE, {"schema": SCHEMA, "recipe": dataclasses.asdict(self.recipe), "steps": steps})


class _Missing(EdgepressError):
    """An input that an earlier step did not make."""
