"""Target profiles: which quantized file runs where, how well, and how we know. Data, read by quantize, evaluate and benchmark.

A rule says for which profiles a file with certain facts (`file_facts`) is `refused` (wrong answers, or it does not open) or `slow`
(right, but there is something faster). Every row carries its evidence. "Here" is an AMD EPYC (Zen 5, AVX512-VNNI), MobileNetV2 1.0 at
224 × 224 with the ImageNet head, one thread, ai-edge-litert 2.3.0, tflite-runtime 2.14.0, onnxruntime 1.31.1.
"""
from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from edgepress.errors import ModelError, RecipeError, nearest

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Profile:
    """One kind of place a file can run, and how to quantize for it."""

    name: str
    format: str
    runtime: str
    help: str
    dense_per_tensor: bool = False
    signed_activations: bool = True
    reduce_range: bool = False


@dataclass(frozen=True)
class Rule:
    """One known limitation."""

    profiles: Tuple[str, ...]
    status: str  # refused | slow
    when: Callable[[Facts], bool]
    reason: str
    remedy: str


PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in (
    Profile("litert", "tflite", "litert", "ai-edge-litert on a 64-bit x86 or Arm computer"),
    Profile("litert_arm", "tflite", "litert", "ai-edge-litert on 64-bit Arm (Raspberry Pi 4, 5)"),
    Profile("tflite_runtime_2.14", "tflite", "tflite_runtime", "tflite-runtime 2.14, the last one: 32-bit Raspberry Pi OS, Python up to 3.11", dense_per_tensor=True),
    Profile("android", "tflite", "litert", "TensorFlow Lite or LiteRT inside an Android app"),
    Profile("onnxruntime_x86_vnni", "onnx", "onnxruntime", "onnxruntime on x86 with AVX512-VNNI or AVX-VNNI", signed_activations=False),
    Profile("onnxruntime_x86", "onnx", "onnxruntime", "onnxruntime on x86 without VNNI", signed_activations=False, reduce_range=True),
    Profile("onnxruntime_arm", "onnx", "onnxruntime", "onnxruntime on 64-bit Arm"),
)}
X86 = ("litert", "onnxruntime_x86_vnni", "onnxruntime_x86")
OLD = ("tflite_runtime_2.14",)
TFLITE = tuple(name for name, profile in PROFILES.items() if profile.format == "tflite")
ONNX_X86 = ("onnxruntime_x86_vnni", "onnxruntime_x86")
ONNX = ONNX_X86 + ("onnxruntime_arm",)


def _has(facts: Facts, name: str) -> bool:
    return name in facts["operators"]


def _version(facts: Facts, name: str) -> int:
    return facts["operators"].get(name, {}).get("version", 0)


RULES: Tuple[Rule, ...] = (
    # Here: a Keras Dense layer through TFLiteConverter with Optimize.DEFAULT is FULLY_CONNECTED version 12, and 2.14 says "Didn't find op for
    # builtin opcode 'FULLY_CONNECTED' version '12'". The same in tensorflow#80736, #76743, LiteRT#2146.
    Rule(OLD, "refused", lambda f: _version(f, "FULLY_CONNECTED") > 11,
         "FULLY_CONNECTED of this version does not load in tflite-runtime 2.14", "quantize again with --profile tflite_runtime_2.14"),
    # Here: one scale per output channel of a hybrid FULLY_CONNECTED, 40 ImageNet photos: agreement with float 0 % in 2.14.0, 95 % in
    # litert 2.3.0. The same file with one scale for that tensor: 97.5 % in 2.14.0. (2.14 reads the first scale only and says nothing.)
    Rule(OLD, "refused", lambda f: f["hybrid_dense_per_channel"],
         "tflite-runtime 2.14 reads only the first of the per-channel scales of a dynamic FULLY_CONNECTED and answers wrongly without an error",
         "quantize again with --profile tflite_runtime_2.14, which gives that operator one scale"),
    # Here: the Python wheel of 2.14 gives int8 operators to reference-like kernels, not to XNNPACK: float 7.2 ms, int8 57.7 ms. Arm has NEON kernels.
    Rule(OLD, "slow", lambda f: f["scheme"] == "static_wi8_ai8" and _meant_x86(f),
         "tflite-runtime 2.14 on x86 runs int8 operators without XNNPACK: 8 times slower than float (57.7 ms against 7.2 ms)",
         "measure int8 on the device itself or in litert"),
    # Here: MobileNetV3-Small 224, float 1.8 ms, int8 4.0 ms (quieter machine: 0.87 and 3.04): 20 delegate partitions instead of 1.
    Rule(TFLITE, "slow", lambda f: f["scheme"] == "static_wi8_ai8" and _has(f, "HARD_SWISH"),
         "int8 HARD_SWISH is taken by no delegate, so that the graph falls to pieces: MobileNetV3-Small ran 2 to 3 times slower than float",
         "use float16, a minimalistic MobileNetV3, or MobileNetV2"),
    # Here: float 6.9 ms, 16x8 440 ms; on a quieter machine 3.4 and 157. Arm: the same reference kernels.
    Rule(TFLITE, "slow", lambda f: f["scheme"] == "static_wi8_ai16",
         "16-bit activations run in reference kernels, 46 to 64 times slower than float (measured on x86)", "use it to find out what int8 activations cost, and ship static_wi8_ai8"),
    # Here: float 6.6 ms, dynamic 17.1 ms: DEPTHWISE_CONV_2D has no hybrid XNNPACK kernel. Left float behind int8 weights, as edgepress does: 4.8 ms.
    # Instructions on a Cortex-A72, in millions: float 123, dynamic 154, with float depthwise 139.
    Rule(("litert", "android") + OLD, "slow", lambda f: f["hybrid_depthwise"] and (_meant_x86(f) or f.get("profile") == "android"),
         "dynamic DEPTHWISE_CONV_2D is not delegated: 2.3 times slower than float on x86", "quantize the float file with edgepress, which leaves these float, or use static_wi8_ai8"),
    # LiteRT#9215, XNNPACK#11036: "failed to delegate FULLY_CONNECTED node".
    Rule(TFLITE, "refused", lambda f: f["sparse"] and f["scheme"] not in ("float32", "float16"),
         "sparse tensors together with 8-bit weights do not load under XNNPACK", "drop the sparse format: zeros are saved by compression (gzip) all the same"),
    # Neither ai-edge-litert nor tflite-runtime ships the Flex delegate.
    Rule(TFLITE, "refused", lambda f: any(name.startswith("CUSTOM:Flex") for name in f["operators"]),
         "TensorFlow Select (Flex) operators are in no small runtime", "convert again without --allow-flex"),
    # Here: float 7.3 ms, every convolution a ConvInteger 15.7 ms, the depthwise ones left float 9.0 ms.
    Rule(ONNX, "slow", lambda f: _has(f, "ConvInteger"),
         "ConvInteger computes without the prepared weights and fused activations of Conv: 1.2 to 2 times slower than float", "use static_wi8_ai8 for speed, weight_only_wi8_afp32 for size"),
    # Here: uint8 × int8 3.65 ms, int8 × int8 5.96 ms, float 7.8 ms.
    Rule(ONNX_X86, "slow", lambda f: f["activations"] == "int8",
         "int8 activations were made for Arm; on x86 uint8 ones are 1.6 times as fast", "quantize again with --profile onnxruntime_x86_vnni (or onnxruntime_x86)"),
    # onnxruntime docs, "Quantize ONNX models", on U8S8: VPMADDUBSW adds two products in 16 bits. Not measured: no such machine at hand.
    Rule(("onnxruntime_x86",), "slow", lambda f: f["activations"] == "uint8" and f["weight_bits"] > 7,
         "x86 without VNNI can saturate when uint8 activations meet 8-bit weights: answers may differ from those measured elsewhere",
         "quantize again with --profile onnxruntime_x86, which uses 7-bit weights"),
    # Here, static QOperator S8S8: 25.5 ms against 1.8 ms for QDQ U8S8.
    Rule(ONNX_X86, "slow", lambda f: _has(f, "QLinearConv") and f["activations"] == "int8",
         "QOperator files with int8 activations run in reference kernels on x86: 14 times slower than QDQ", "quantize the float file with edgepress"),
)


def find(name: Optional[str], form: str) -> Profile:
    """The profile called `name`; None: this machine with the default runtime for `form`.

    Raises:
        RecipeError: no such profile, or one for the other format.
    """
    name = name or this_machine(form)
    if name not in PROFILES:
        raise RecipeError(f"profile is {name!r}; {nearest(name, PROFILES)}")
    if PROFILES[name].format != form:
        fitting = ", ".join(p.name for p in PROFILES.values() if p.format == form)
        raise RecipeError(f"profile {name} is for {PROFILES[name].format} files and this one is {form}; accepted: {fitting}")
    return PROFILES[name]


def _is_x86(machine: Optional[str] = None) -> bool:
    return (machine or platform.machine()).lower() in ("x86_64", "amd64", "i686", "i386")


def _meant_x86(facts: Facts) -> bool:
    """Whether the machine that is asked about is one: facts["machine"], else this one."""
    return _is_x86(facts["machine"]) if facts.get("machine") else _is_x86()


def this_machine(form: str) -> str:
    """The profile of this computer for files of format `form`, with that format's default runtime."""
    if form == "tflite":
        return "litert" if _is_x86() else "litert_arm"
    if not _is_x86():
        return "onnxruntime_arm"
    return "onnxruntime_x86_vnni" if {"avx512_vnni", "avx_vnni"} & cpu_flags() else "onnxruntime_x86"


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset:
    """Instruction-set flags of the first CPU; empty where Linux does not say."""
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        return frozenset()
    return frozenset()


def runtime_profile(runtime: str) -> Optional[str]:
    """The profile of `runtime` on this machine; None where nothing is known about it."""
    if runtime == "tflite_runtime":
        return "tflite_runtime_2.14"
    form = {"litert": "tflite", "onnxruntime": "onnx"}.get(runtime)
    return this_machine(form) if form else None


def check(profile: str, facts: Facts) -> List[Dict[str, str]]:
    """What is known to go wrong with such a file there: [{status: refused | slow, reason, remedy}], refusals first."""
    facts = {**facts, "profile": profile}
    if facts["format"] != PROFILES[profile].format:
        return []
    found = [{"status": rule.status, "reason": rule.reason, "remedy": rule.remedy} for rule in RULES if profile in rule.profiles and rule.when(facts)]
    return sorted(found, key=lambda finding: finding["status"] != "refused")


def verdict(runtime: str, facts: Facts) -> Tuple[str, Optional[str]]:
    """("ok" | "marked" | "refused", reason) before a file is run in `runtime` on this machine."""
    profile = runtime_profile(runtime)
    findings = check(profile, facts) if profile else []
    if not findings:
        return "ok", None
    return "refused" if findings[0]["status"] == "refused" else "marked", findings[0]["reason"]


# What reading a damaged graph raises, in our code and in the libraries': of 3,000 mutated files nine got past every check of ours (benchmarks/fuzz_models.py).
_DAMAGE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


def file_facts(path: Path) -> Dict[str, Any]:
    """What the rules need to know of a .tflite or .onnx file: operators with versions, scheme, which operators are integer, hybrid or float.

    Raises:
        ModelError: unreadable or damaged.
    """
    try:
        if path.suffix.lower() == ".onnx":
            from edgepress.profile_onnx import onnx_facts

            return onnx_facts(path)
        from edgepress.profile_tflite import tflite_facts

        return tflite_facts(path)
    except _DAMAGE as error:
        raise ModelError(f"{path} is damaged: what it says about itself does not fit together ({type(error).__name__}: {str(error)[:200]})", "make it or copy it again") from error
