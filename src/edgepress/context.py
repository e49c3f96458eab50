"""What a stage's result depends on besides its inputs and config: weights files, label files, the machine. Part of its key."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from edgepress.artifact import digest_file


def _weights(config: Any) -> Optional[str]:
    from edgepress.backbones import weights_file

    file = weights_file(config.backbone, config.weights)
    return file and digest_file(file)


def _labels(config: Any) -> Optional[str]:
    return digest_file(Path(config.labels)) if config.labels and Path(config.labels).is_file() else None


def _instruction_set(config: Any) -> Any:
    from edgepress.profiles import this_machine

    return None if config.profile else [this_machine("tflite"), this_machine("onnx")]


def _machine(config: Any) -> Any:
    from edgepress.host import host_facts

    facts = host_facts()
    return [{key: facts[key] for key in ("machine", "cpu", "cpus", "memory_bytes", "board")}, _runtimes(config)]


def _runtimes(config: Any) -> Any:
    """Where none is named, the stage takes what is installed."""
    from edgepress.jobs import available_runtimes

    named = getattr(config, "runtimes", None) or getattr(config, "runtime", None)
    return None if named else [available_runtimes(form) for form in ("tflite", "onnx")]


def _programs(config: Any) -> str:
    """A bundle holds the programs, texts and locks of this very version."""
    import hashlib

    from edgepress import locks, verify
    from edgepress.worker_pack import worker_bytes

    texts = [Path(verify.__file__), *sorted((Path(__file__).parent / "bundle_templates").iterdir()), *sorted(locks.LOCKS.glob("*.txt"))]
    return hashlib.sha256(worker_bytes() + b"".join(path.read_bytes() for path in texts)).hexdigest()


_CONTEXTS: Mapping[str, Callable[[Any], Any]] = {"finetune": _weights, "convert": _labels, "quantize": _instruction_set, "benchmark": _machine, "evaluate": _runtimes, "certify": _runtimes, "bundle": _programs}


def _specs(inputs: Mapping[str, Any]) -> Any:
    """Digests of what may stand beside a user's model file and say how it wants its pixels."""
    found = []
    for role in ("model", "reference"):
        file = inputs.get(role)
        if isinstance(file, Path) and file.is_file():
            beside = (file.with_name(file.name + ".model.json"), file.with_suffix(".json"), file.with_name("model.json"))
            found += [digest_file(path) for path in beside if path.is_file()]
    return found or None


def stage_context(stage: str, config: Any, inputs: Mapping[str, Any] = {}) -> Any:
    """A JSON value that changes when something outside the inputs and config of `stage` would change its result; None where nothing does.

    Raises:
        RecipeError, ModelError: a backbone or weights file that does not exist.
    """
    outside = _CONTEXTS[stage](config) if stage in _CONTEXTS else None
    specs = _specs(inputs) if stage in ("quantize", "evaluate", "certify") else None
    return [outside, specs] if specs else outside
