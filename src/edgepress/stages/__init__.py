"""The stage table: name, inputs, config and what each stage needs; the modules are imported only when a stage runs."""
from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Mapping, Optional, Tuple

from edgepress import recipe


@dataclass(frozen=True)
class Input:
    """One input of a stage: a keyword of its function, and how the command line spells it."""

    role: str
    help: str
    flag: Optional[str] = None  # None: a positional argument
    optional: bool = False
    many: bool = False


@dataclass(frozen=True)
class Stage:
    """One row of the table. The function is `edgepress.stages.<name>.<name>(out, *, <inputs>, config)`."""

    name: str
    help: str
    config: type
    inputs: Tuple[Input, ...]
    version: int = 1  # raise when the result of the stage changes
    needs: Tuple[str, ...] = ()  # distributions whose version is part of the key
    tensorflow: bool = False  # neighbouring TensorFlow stages of one run share a child process

    def function(self) -> Callable[..., None]:
        """The stage's function; imports its module."""
        return getattr(self._module(), self.name)

    def prepare(self, cache: Path, **arguments: Any) -> None:
        """What of the stage's work can be done, or found impossible, before TensorFlow is there (its module's `prepare`, where it has one)."""
        prepare = getattr(self._module(), "prepare", None)
        if prepare:
            prepare(cache, **arguments)

    def _module(self) -> ModuleType:
        return importlib.import_module(f"edgepress.stages.{self.name}")


_MODEL = Input("model", "model file, or a folder that holds one")
_IMAGES = Input("dataset", "dataset artifact, folder of class folders, or a CSV of path,label", flag="--images")
_RUN = Input("run", "folder of a run")

STAGES: Mapping[str, Stage] = {stage.name: stage for stage in (
    Stage("dataset", "Read photos into train, validation and test splits.", recipe.DatasetConfig,
          (Input("images", "folder of class folders, a CSV of path,label, or digits"),), needs=("pillow",)),
    Stage("finetune", "Teach a pretrained backbone your classes.", recipe.FinetuneConfig,
          (Input("dataset", "dataset artifact, or what `edgepress dataset` takes"),), needs=("tensorflow", "tf_keras", "ai-edge-litert", "scipy", "numpy", "pillow"), tensorflow=True),
    Stage("prune", "Set small weights to zero: a smaller compressed file, not a faster one.", recipe.PruneConfig, (_MODEL, _IMAGES),
          version=2, needs=("tensorflow", "tf_keras", "tensorflow-model-optimization"), tensorflow=True),
    Stage("convert", "Write the float TFLite and ONNX files.", recipe.ConvertConfig, (_MODEL,),
          needs=("tensorflow", "tf_keras", "tf2onnx", "onnx"), tensorflow=True),
    Stage("quantize", "Make a smaller file from a float one.", recipe.QuantizeConfig,
          (_MODEL, Input("dataset", "calibration images: dataset artifact (training split) or folder", flag="--calibration", optional=True)),
          version=2, needs=("ai-edge-quantizer", "ai-edge-litert", "onnx", "onnxruntime", "numpy", "pillow")),
    Stage("evaluate", "Score a file on test images in its own runtime.", recipe.EvaluateConfig, (_MODEL, _IMAGES),
          needs=("ai-edge-litert", "onnxruntime", "numpy", "pillow")),
    Stage("certify", "Say what a file lost against its float reference.", recipe.CertifyConfig,
          (_MODEL, Input("reference", "float file to compare with", flag="--reference"), replace(_IMAGES, optional=True)),
          needs=("ai-edge-litert", "onnxruntime", "numpy", "pillow")),
    Stage("benchmark", "Measure latency, memory and size.", recipe.BenchmarkConfig, (replace(_MODEL, many=True),),
          version=2, needs=("ai-edge-litert", "onnxruntime", "numpy", "pillow")),
    Stage("report", "Write one HTML page, JSON and Markdown about a run.", recipe.ReportConfig, (_RUN,)),
    Stage("bundle", "Pack the file that ships with everything it needs.", recipe.BundleConfig, (_RUN,), version=2),
)}
