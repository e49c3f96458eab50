"""Names of accelerators and what they stand for: `NAME` or `NAME:key=value,key=value`, as jobs carry them (`;` for `,` where a list has the commas).

`copies=out` leaves the copies to and from the device out of the timing (inputs and outputs stay in its memory); other keys are the execution provider's own options.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional, Tuple

from edgepress.errors import UnsupportedError, nearest


@dataclass(frozen=True)
class Provider:
    """An execution provider of onnxruntime: its name there, what brings it, the kind of device it runs on (None: its options decide), its option for threads of the CPU."""

    name: str
    distribution: str
    device: Optional[str]
    threads_option: Optional[str] = None


PROVIDERS: Mapping[str, Provider] = {
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", "GPU"), "tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu, and TensorRT", "GPU"),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", None, "num_of_threads"), "xnnpack": Provider("XnnpackExecutionProvider", "an onnxruntime built with --use_xnnpack", "CPU", "intra_op_num_threads"),
    "directml": Provider("DmlExecutionProvider", "onnxruntime-directml", "GPU"), "coreml": Provider("CoreMLExecutionProvider", "onnxruntime on macOS", None),
    "migraphx": Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx", "GPU"), "rocm": Provider("ROCMExecutionProvider", "onnxruntime-rocm", "GPU"),
    "qnn": Provider("QNNExecutionProvider", "onnxruntime-qnn", None), "nnapi": Provider("NnapiExecutionProvider", "an onnxruntime built for Android", None),
    "acl": Provider("ACLExecutionProvider", "an onnxruntime built with --use_acl", "CPU"), "dnnl": Provider("DnnlExecutionProvider", "an onnxruntime built with --use_dnnl", "CPU"),
}


@dataclass(frozen=True)
class Accelerator:
    """An accelerator as a job names it."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    copies: bool = True  # whether copies to and from the device are timed


def parse_accelerator(text: str) -> Accelerator:
    """`cuda:device_id=1,copies=out` taken apart.

    Raises:
        UnsupportedError: not of this form.
    """
    name, _, rest = text.partition(":")
    options: Dict[str, str] = {}
    for part in re.split("[,;]", rest) if rest else ():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UnsupportedError(f"accelerator {text!r} has the option {part!r}; accepted: key=value, with ; between them", "for example: cuda:device_id=0;copies=out")
        options[key] = value
    copies = options.pop("copies", "in")
    if copies not in ("in", "out"):
        raise UnsupportedError(f"accelerator {text!r}: copies is {copies!r}; accepted: in (timed), out (not timed)")
    return Accelerator(name, options, copies == "in")


def runtimes_of(text: str) -> Tuple[str, ...]:
    """The runtimes that know an accelerator: `gpu` is LiteRT's and Keras', everything else an execution provider of onnxruntime.

    Raises:
        UnsupportedError: no such accelerator.
    """
    name = parse_accelerator(text).name
    if name != "gpu":
        find_provider(name)
    return ("litert", "keras") if name == "gpu" else ("onnxruntime",)


def find_provider(name: str) -> Provider:
    """The provider of a short or full name; one that is not in the table is taken by its own name.

    Raises:
        UnsupportedError: no such provider.
    """
    for short, provider in PROVIDERS.items():
        if name.lower() == short or name == provider.name:
            return provider
    if name.endswith("ExecutionProvider"):
        return Provider(name, "the onnxruntime that brings it", None)
    raise UnsupportedError(f"onnxruntime has no accelerator {name!r}; {nearest(name, PROVIDERS)}", "leave the accelerator out for the CPU")


def device_of(provider: Provider, options: Mapping[str, str]) -> str:
    """The kind of device a provider runs on: CPU, GPU, NPU or unknown. OpenVINO's default is the CPU; "AUTO", "HETERO" and "MULTI" leave it open."""
    if provider.device:
        return provider.device
    if provider.name == PROVIDERS["openvino"].name:
        kind = options.get("device_type", "CPU").partition(".")[0].partition("_")[0].upper()
        return kind if kind in ("CPU", "GPU", "NPU") else "unknown"
    if provider.name == PROVIDERS["qnn"].name:
        path = options.get("backend_path", "").lower()
        return "NPU" if "htp" in path else "GPU" if "gpu" in path else "CPU" if "cpu" in path else "unknown"
    return "unknown"
