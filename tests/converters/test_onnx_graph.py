"""What is done to graphs around tf2onnx: names that do not change, flattening spelled out."""
from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edgepress import flatbuffer
from edgepress.converters.onnx_preparation import prepare
from edgepress.converters.onnx_names import canonical

DATA = Path(__file__).parents[1] / "data"
onnx = pytest.importorskip("onnx")


def shuffled(model: "onnx.ModelProto", seed: int) -> "onnx.ModelProto":
    """The same computation with other counters in its names and its constants in another order, as tf2onnx gives it on another day."""
    dice = random.Random(seed)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    names: dict = {}

    def name(old: str) -> str:
        return old if old in fixed or not old else names.setdefault(old, f"{old.split('__')[0]}__{dice.randrange(1000)}{len(names)}")
    for node in made.graph.node:
        node.name = f"n__{dice.randrange(10 ** 6)}"
        for field in (node.input, node.output):
            field[:] = [name(value) for value in field]
    constants = list(made.graph.initializer)
    for tensor in constants:
        tensor.name = name(tensor.name)
    dice.shuffle(constants)
    del made.graph.initializer[:]
    made.graph.initializer.extend(constants)
    return made


def test_names_and_order_depend_on_the_graph_alone() -> None:
    model = onnx.load(str(DATA / "tiny_float.onnx"))
    made = [canonical(shuffled(model, seed)).SerializeToString(deterministic=True) for seed in (1, 2)]
    assert made[0] == made[1]
    result = onnx.load_from_string(made[0])
    onnx.checker.check_model(result, full_check=True)
    names = [tensor.name for tensor in result.graph.initializer]
    assert len(set(names)) == len(names) and any(name.endswith("/weight") for name in names)


def test_canonical_graph_computes_the_same() -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load(str(DATA / "tiny_float.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    answers = [runtime.InferenceSession(each.SerializeToString()).run(None, {"image": pixels})[0] for each in (model, canonical(shuffled(model, 3)))]
    assert np.array_equal(*answers)


def flattening_file(path: Path) -> None:
    """tiny_float.tflite with a MEAN that keeps its dimensions, so that FULLY_CONNECTED flattens [1, 1, 1, 8] in silence."""
    model = flatbuffer.load_model_t(DATA / "tiny_float.tflite")
    names = flatbuffer.operator_names(model)
    graph = model.subgraphs[0]
    mean = next(op for op in graph.operators if names[op.opcodeIndex] == "MEAN")
    mean.builtinOptions.keepDims = True
    graph.tensors[mean.outputs[0]].shape = np.array([1, 1, 1, 8], np.int32)
    flatbuffer.save_model_t(model, path)


def test_flattening_is_spelled_out_once_and_computes_the_same(tmp_path: Path) -> None:
    from edgepress.runtimes import load_runtime

    flattening_file(tmp_path / "before.tflite")
    model = prepare(flatbuffer.load_model_t(tmp_path / "before.tflite"))
    flatbuffer.save_model_t(model, tmp_path / "after.tflite")
    assert flatbuffer.count_operators(flatbuffer.load_model_t(tmp_path / "after.tflite"))["RESHAPE"] == 1
    again = prepare(flatbuffer.load_model_t(tmp_path / "after.tflite"))
    assert flatbuffer.count_operators(again)["RESHAPE"] == 1
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    answers = []
    for name in ("before", "after"):
        session = load_runtime("litert").open_model(str(tmp_path / f"{name}.tflite"), threads=1)
        answers.append(session.run([pixels])[0])
        session.close()
    assert np.array_equal(*answers)
