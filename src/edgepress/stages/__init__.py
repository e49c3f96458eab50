"""The stage table: name, inputs, config and what each stage needs; the modules are imported only when a stage runs."""
from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Callable, Mapping, Tuple

from edgepress import recipe


@dataclass(frozen=True)
class Stage:
    """One row of the table. The function is `edgepress.stages.<name>.<name>(out, *, <inputs>, config)`."""

    name: str
    help: str
    config: type
    inputs: Tuple[str, ...]  # roles; a trailing "?" marks one that may be absent, "*" one that takes several paths
    version: int = 1  # raise when the result of the stage changes
    needs: Tuple[str, ...] = ()  # distributions whose version is part of the key
    tensorflow: bool = False  # neighbouring TensorFlow stages of one run share a child process

    def function(self) -> Callable[..., None]:
        """The stage's function; imports its module."""
        return getattr(importlib.import_module(f"edgepress.stages.{self.name}"), self.name)


STAGES: Mapping[str, Stage] = {stage.name: stage for stage in (
    Stage("dataset", "Read photos into train, validation and test splits.", recipe.DatasetConfig, ("images",), needs=("pillow",)),
    Stage("finetune", "Teach a pretrained backbone your classes.", recipe.FinetuneConfig, ("dataset",),
          needs=("tensorflow", "tf_keras"), tensorflow=True),
    Stage("prune", "Set small weights to zero: a smaller compressed file, not a faster one.", recipe.PruneConfig, ("model", "dataset"),
          needs=("tensorflow", "tf_keras", "tensorflow-model-optimization"), tensorflow=True),
    Stage("convert", "Write the float TFLite and ONNX files.", recipe.ConvertConfig, ("model",),
          needs=("tensorflow", "tf_keras", "tf2onnx", "onnx"), tensorflow=True),
    Stage("quantize", "Make a smaller file from a float one.", recipe.QuantizeConfig, ("model", "dataset?"),
          needs=("ai-edge-quantizer", "ai-edge-litert", "onnx", "onnxruntime")),
    Stage("evaluate", "Score a file on test images in its own runtime.", recipe.EvaluateConfig, ("model", "dataset"),
          needs=("ai-edge-litert", "onnxruntime")),
    Stage("certify", "Say what a file lost against its float reference.", recipe.CertifyConfig, ("model", "reference", "dataset?"),
          needs=("ai-edge-litert", "onnxruntime")),
    Stage("benchmark", "Measure latency, memory and size.", recipe.BenchmarkConfig, ("model*",),
          needs=("ai-edge-litert", "onnxruntime")),
    Stage("report", "Write one HTML page, JSON and Markdown about a run.", recipe.ReportConfig, ("run",)),
    Stage("bundle", "Pack the file that ships with everything it needs.", recipe.BundleConfig, ("run",)),
)}
