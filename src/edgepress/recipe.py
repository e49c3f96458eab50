"""Every config dataclass, and the recipe file that holds them: the one source of options for CLI, recipe and Python."""
from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Mapping, Optional, Tuple, get_args, get_origin

from edgepress.errors import RecipeError, nearest

Scheme = Literal["float32", "float16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8", "static_wi8_ai16"]
Format = Literal["tflite", "onnx"]
RuntimeName = Literal["litert", "tflite_runtime", "onnxruntime", "keras"]
Normalization = Literal["0..255", "0..1", "-1..1", "imagenet", "caffe"]


def option(default: Any, text: str, **metadata: Any) -> Any:
    """A config field with its one-line help."""
    return field(default=default, metadata={"help": text, **metadata})


@dataclass(frozen=True)
class DatasetConfig:
    """How photos become a dataset with train, validation and test splits."""

    validation: float = option(0.15, "share of the images used to choose between settings, where the folder has no split of its own")
    test: float = option(0.2, "share of the images that nothing but the certificate sees, where the folder has no split of its own")
    near_duplicate_bits: Optional[int] = option(4, "largest perceptual-hash distance (of 64 bits) that counts as the same photo; none switches it off", minimum=0, maximum=20)
    max_megapixels: float = option(64.0, "images with more pixels than this are skipped as decompression bombs", minimum=0.01)
    min_images: int = option(10, "fewest usable images a class may have")


@dataclass(frozen=True)
class FinetuneConfig:
    """How a pretrained backbone learns the user's classes."""

    backbone: str = option("mobilenet_v2_1.0_224", "backbone by name, family[_width]_size; `edgepress backbones` lists them")
    weights: str = option("imagenet", "imagenet, none (random initialisation), a path, or a file name in $EDGEPRESS_WEIGHTS")
    strategy: Literal["head", "finetune"] = option("finetune", "head: fit the classifier only; finetune: then train the backbone too")
    resize: Literal["stretch", "crop", "pad"] = option("stretch", "how a photo becomes the input size")
    views: int = option(4, "augmented views (flips, crops) of each training photo whose features are cached", minimum=1, maximum=8)
    epochs: int = option(8, "epochs of fine-tuning", minimum=1)
    batch_size: int = option(32, "photos per training step", minimum=1)
    learning_rate: float = option(0.003, "peak learning rate of fine-tuning", minimum=1e-8)
    layer_decay: float = option(0.9, "each freeze point towards the stem learns this much slower", minimum=0.0, maximum=1.0)
    label_smoothing: float = option(0.05, "label smoothing of fine-tuning", minimum=0.0, maximum=0.9)
    ema: float = option(0.99, "decay of the exponential moving average of the weights", minimum=0.0, maximum=0.9999)
    patience: int = option(3, "stop after this many epochs without a better validation loss", minimum=1)
    class_weights: Literal["balanced", "none"] = option("balanced", "weigh classes by the inverse of their image count, or not")
    augment: bool = option(True, "flip, crop and jitter photos while fine-tuning")
    seed: int = option(0, "seed of everything random")


@dataclass(frozen=True)
class PruneConfig:
    """Magnitude pruning: makes the compressed file smaller, not the inference faster."""

    sparsity: float = option(0.5, "share of zero weights in each pruned layer, 0–1", minimum=0.01, maximum=0.99)
    schedule: Literal["polynomial", "constant"] = option("polynomial", "how sparsity grows during fine-tuning")
    pattern: Literal["unstructured", "block", "2:4"] = option("unstructured", "which weights may be zero together")
    method: Literal["auto", "tfmot", "mask"] = option("auto", "auto: TensorFlow Model Optimization where it can, our mask pruner where it refuses")
    epochs: int = option(10, "epochs of fine-tuning while pruning; sparsity above 0.5 wants more", minimum=1)
    batch_size: int = option(32, "photos per training step", minimum=1)
    learning_rate: float = option(0.0005, "peak learning rate", minimum=1e-8)
    seed: int = option(0, "seed of everything random")


@dataclass(frozen=True)
class ConvertConfig:
    """How a Keras model becomes float TFLite and ONNX files."""

    formats: Tuple[Format, ...] = option(("tflite", "onnx"), "files to write")
    opset: int = option(15, "ONNX opset", minimum=13, maximum=18)
    batch: Optional[int] = option(1, "batch size fixed in the file; none leaves it dynamic", minimum=1)
    input_type: Literal["uint8", "float32"] = option("uint8", "uint8: raw RGB bytes with the normalisation inside the graph; float32: already normalised")
    layout: Literal["nhwc", "nchw"] = option("nhwc", "axis order of the ONNX input")
    output: Literal["probabilities", "logits"] = option("probabilities", "end with the softmax or before it")
    normalization: Optional[Normalization] = option(None, "what a model of your own was trained on; known for models made by edgepress")
    channel_order: Literal["rgb", "bgr"] = option("rgb", "channel order a model of your own was trained on")
    resize: Literal["stretch", "crop", "pad"] = option("stretch", "how photos were resized for a model of your own")
    labels: Optional[str] = option(None, "text file with one label per line, for a model of your own")
    allow_flex: bool = option(False, "allow TensorFlow Select (Flex) operators, which no small runtime ships")
    allow_unsafe: bool = option(False, "load a model file even if that runs code stored in it")


@dataclass(frozen=True)
class QuantizeConfig:
    """How a float file becomes a smaller one."""

    scheme: Scheme = option("static_wi8_ai8", "which numbers weights (w) and activations (a) become")
    backend: Literal["auto", "ai_edge_quantizer", "tflite_converter", "onnxruntime"] = option("auto", "quantizer; auto is ai_edge_quantizer for TFLite, onnxruntime for ONNX")
    profile: Optional[str] = option(None, "target profile (see `edgepress runtimes`): refuses what is known not to work there; default: this machine")
    samples: int = option(200, "calibration images, from the training split only", minimum=1)
    calibration_method: Literal["minmax", "moving_average", "percentile", "entropy"] = option("minmax", "how activation ranges are chosen")
    per_channel: bool = option(True, "one scale per output channel of a weight, or one per tensor")
    seed: int = option(0, "seed of the choice of calibration images")


@dataclass(frozen=True)
class EvaluateConfig:
    """How one file is scored on images."""

    runtime: Optional[RuntimeName] = option(None, "runtime that executes the file; default: the first installed one for its format")
    split: Literal["train", "validation", "test"] = option("test", "which images of a dataset")
    threads: int = option(1, "threads of the runtime", minimum=1, maximum=256)
    batch: int = option(1, "images per run, where the file's batch is dynamic", minimum=1)
    target: str = option("local", "where the file runs: local, or a device by name or address (`edgepress device list`); several with commas: each in a folder of its own")


@dataclass(frozen=True)
class CertifyConfig:
    """How much accuracy a compressed file may lose against its reference."""

    max_drop: float = option(1.0, "largest accepted accuracy drop, in percentage points", minimum=0.0, maximum=100.0)
    confidence: float = option(0.95, "confidence of the intervals")
    runtime: Optional[RuntimeName] = option(None, "runtime that executes both files; default: the first installed one for each format")
    threads: int = option(1, "threads of the runtime", minimum=1, maximum=256)
    target: str = option("local", "where both files run: local, or a device by name or address (`edgepress device list`); several with commas: each in a folder of its own")


@dataclass(frozen=True)
class BenchmarkConfig:
    """How latency and memory are measured."""

    runtimes: Tuple[RuntimeName, ...] = option((), "runtimes to measure; default: every installed one that opens the file")
    threads: Tuple[int, ...] = option((), "thread counts; default: 1 and all cores", minimum=1, maximum=256)
    effort: Literal["quick", "normal", "long"] = option("normal", "how long: quick (3 rounds of processes), normal (4 or more, until ratios are known to 1 %), long (at least 1,024 runs and 60 s)")
    min_runs: Optional[int] = option(None, "fewest timed runs; default: 50, long 1024", minimum=1)
    min_seconds: Optional[float] = option(None, "shortest timed period; default: quick 1.5, normal 2, long 60", minimum=0.0)
    max_seconds: Optional[float] = option(None, "longest time for a file once its fewest rounds are done; default: quick 2, normal 10, long 600", minimum=0.1)
    batch: Tuple[int, ...] = option((1,), "inputs per run, where the file leaves its batch open", minimum=1)
    processes: Tuple[int, ...] = option((), "also measure the throughput of so many processes at once", minimum=1, maximum=64)
    warmup_seconds: float = option(0.2, "shortest warm-up", minimum=0.0)
    accelerator: Tuple[str, ...] = option((), "accelerators to measure besides the CPU: cuda, tensorrt, openvino:device_type=GPU … (onnxruntime), gpu (litert, keras); \";copies=out\" leaves the copies untimed")
    target: Tuple[str, ...] = option(("local",), "where files are measured: local, and devices by name or address, all at once")


@dataclass(frozen=True)
class ReportConfig:
    """What the report shows."""

    title: Optional[str] = option(None, "heading of the page")
    thumbnails: int = option(24, "most misclassified or flipped photos shown per file", minimum=0)


@dataclass(frozen=True)
class BundleConfig:
    """What goes into the folder that ships."""

    name: Optional[str] = option(None, "name of the app that it becomes on a device; default: that of the photos' folder")
    choose: str = option("auto", "file to ship: auto (fastest certified), or a variant name from the report")
    golden: int = option(8, "test images with expected probabilities for the self-test", minimum=1)
    also: Tuple[str, ...] = option((), "more variants to pack, for runtimes or browsers that need another file")
    offline: Tuple[str, ...] = option((), "pack the wheels for these Pythons and machines, such as 3.13-aarch64, so that nothing is downloaded there")
    web: bool = option(False, "pack web/ too: a page that classifies in any browser, also offline, for any web server (30 MB)")


SECTIONS: Mapping[str, type] = {
    "dataset": DatasetConfig, "finetune": FinetuneConfig, "prune": PruneConfig, "convert": ConvertConfig, "quantize": QuantizeConfig,
    "evaluate": EvaluateConfig, "certify": CertifyConfig, "benchmark": BenchmarkConfig, "report": ReportConfig, "bundle": BundleConfig,
}


def _is_optional(kind: Any) -> bool:
    return get_origin(kind) is typing.Union and type(None) in get_args(kind)


def check_value(kind: Any, value: Any, *, where: str, metadata: Mapping[str, Any] = {}) -> Any:
    """`value` as the type `kind` of a config field (numbers widened, lists to tuples).

    Raises:
        RecipeError: wrong type, a choice that does not exist, or a number out of range.
    """
    if _is_optional(kind):
        inner = next(k for k in get_args(kind) if k is not type(None))
        return None if value is None or value == "none" else check_value(inner, value, where=where, metadata=metadata)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RecipeError(f"{where} is {value!r}; {nearest(str(value), map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where} is {value!r}; accepted: a list")
        return tuple(check_value(get_args(kind)[0], v, where=where, metadata=metadata) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RecipeError(f"{where} is {value!r}; accepted: {kind.__name__}")
    for bound, wrong in (("minimum", lambda v, b: v < b), ("maximum", lambda v, b: v > b)):
        if bound in metadata and wrong(value, metadata[bound]):
            raise RecipeError(f"{where} is {value!r}; the {bound} is {metadata[bound]}")
    return value


def make_config(config_type: type, values: Mapping[str, Any], *, where: str) -> Any:
    """An instance of `config_type` from plain values; unknown keys and wrong types are errors that name `where`."""
    fields = {f.name: f for f in dataclasses.fields(config_type)}
    kinds = typing.get_type_hints(config_type)
    checked = {}
    for key, value in values.items():
        if key not in fields:
            raise RecipeError(f"{where} has the unknown key {key!r}; {nearest(key, fields)}")
        checked[key] = check_value(kinds[key], value, where=f"{where} {key}", metadata=fields[key].metadata)
    return config_type(**checked)


@dataclass(frozen=True)
class Recipe:
    """What `edgepress run` does: one config per stage; `prune` only where asked for."""

    images: str = option("", "folder of class folders, a CSV of path,label, or digits")
    schemes: Tuple[Scheme, ...] = option(("float32", "float16", "dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8"), "quantization schemes to try in every format")
    runtimes: Tuple[RuntimeName, ...] = option((), "runtimes that evaluate and benchmark; default: every installed one")
    dataset: DatasetConfig = DatasetConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    prune: Optional[PruneConfig] = None
    convert: ConvertConfig = ConvertConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    certify: CertifyConfig = CertifyConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig(effort="quick")  # many files: the time of a run is bounded
    report: ReportConfig = ReportConfig()
    bundle: BundleConfig = BundleConfig()


# Keys of a recipe's tables that the run sets itself, and what to write instead.
_SET_BY_RUN = {("quantize", "scheme"): 'schemes = ["..."] at the top', ("evaluate", "runtime"): 'runtimes = ["..."] at the top',
               ("certify", "runtime"): 'runtimes = ["..."] at the top', ("evaluate", "split"): "nothing: a run is certified on the test split"}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe TOML: top-level `images`, `schemes`, `runtimes`, and one table per stage.

    Raises:
        RecipeError: unreadable, not TOML, an unknown section or key, or a value of the wrong type.
    """
    import tomllib  # Python 3.11; recipes are never read on a device

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not valid TOML ({error})") from error
    kinds = typing.get_type_hints(Recipe)
    values: dict = {}
    for key, value in data.items():
        if key in SECTIONS:
            if not isinstance(value, dict):
                raise RecipeError(f"{path}: {key} is {value!r}; accepted: a table [{key}]")
            for name in value:
                if (key, name) in _SET_BY_RUN:
                    raise RecipeError(f"{path} [{key}] {name} has no effect in a run", f"write {_SET_BY_RUN[key, name]}")
            values[key] = make_config(SECTIONS[key], value, where=f"{path} [{key}]")
        elif key in kinds:
            values[key] = check_value(kinds[key], value, where=f"{path} {key}")
        else:
            raise RecipeError(f"{path} has the unknown key {key!r}; {nearest(key, kinds)}")
    if not values.get("images"):
        raise RecipeError(f"{path} does not say which images", 'add a first line such as: images = "photos/"')
    return Recipe(**values)
