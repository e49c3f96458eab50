"""What the allow-list lets through, from configs alone; TensorFlow is not needed."""
from __future__ import annotations

import pytest

from edgepress.errors import UnsafeModelError
from edgepress.keras_safety import check_config


def model(*layers: dict) -> dict:
    return {"class_name": "Functional", "config": {"name": "m", "layers": [{"class_name": "InputLayer", "config": {"name": "in", "batch_input_shape": [None, 4]}}, *layers]}}


def layer(kind: str, **entries: object) -> dict:
    return {"class_name": kind, "config": {"name": "suspect", **entries.pop("config", {})}, **entries}  # type: ignore[dict-item]


SAFE = {
    "plain": layer("Dense", module="keras.layers", registered_name=None, config={"units": 3, "activation": "relu"}),
    "initialiser": layer("Dense", config={"kernel_initializer": {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": None}, "registered_name": None}}),
    "known function": layer("Dense", config={"activation": {"module": "builtins", "class_name": "function", "config": "relu6", "registered_name": "function"}}),
    "wrapped": layer("TimeDistributed", config={"layer": layer("Conv2D")}),
    "tensor arithmetic": layer("TFOpLambda", config={"function": "__operators__.add"}, inbound_nodes=[["in", 0, 0, {"y": 2.0}]]),
    "nested": model(layer("ReLU")),
}
UNSAFE = {
    "Lambda": layer("Lambda", config={"function": ["4wEAAAA=", None, None], "function_type": "lambda"}),
    "Lambda of Keras 3": layer("Lambda", module="keras.layers", config={"function": {"class_name": "__lambda__", "config": {"code": "4wEA"}}}),
    "lambda as activation": layer("Dense", config={"activation": {"class_name": "__lambda__", "config": {"value": "4wEA"}}}),
    "foreign module": layer("Dense", module="os"),
    "module that only looks like Keras": layer("Dense", module="keras_evil.layers"),
    "module below Keras that opens files": layer("Dense", module="keras.utils"),
    "foreign function": layer("Dense", config={"activation": {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}}),
    "download as activation": layer("Dense", config={"activation": {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}}),
    "own class": layer("MyLayer", module="my_package", registered_name="MyLayer"),
    "registered elsewhere": layer("Dense", registered_name="evil>Dense"),
    "SavedModel inside": layer("TFSMLayer", config={"filepath": "/tmp/x"}),
    "any operator": layer("TensorFlowOpLayer", config={"node_def": "WriteFile"}),
    "file function": layer("TFOpLambda", config={"function": "io.write_file"}),
    "plug-in": layer("TFOpLambda", config={"function": "load_op_library"}),
    "vocabulary from a file": layer("TextVectorization", config={"vocabulary": "/etc/passwd"}),
    "hidden in a nested model": model(layer("Lambda")),
    "hidden in a wrapper": layer("TimeDistributed", config={"layer": layer("Lambda")}),
    "hidden in a call": layer("Add", inbound_nodes=[{"args": [{"class_name": "Lambda", "config": {}}], "kwargs": {}}]),
    "class name that is no name": {"class_name": ["Dense"], "config": {"name": "suspect"}},
}


@pytest.mark.parametrize("name", SAFE)
def test_plain_layers_pass(name: str) -> None:
    check_config(model(SAFE[name]), source="file")


@pytest.mark.parametrize("name", UNSAFE)
def test_anything_else_is_refused(name: str) -> None:
    with pytest.raises(UnsafeModelError, match="file: .*"):
        check_config(model(UNSAFE[name]), source="file")


def test_message_names_the_layer() -> None:
    with pytest.raises(UnsafeModelError, match="layer 'suspect' is a Lambda layer"):
        check_config(model(UNSAFE["Lambda"]), source="file")


def test_endless_nesting_is_refused() -> None:
    config: dict = layer("Dense")
    for _ in range(500):
        config = layer("TimeDistributed", config={"layer": config})
    with pytest.raises(UnsafeModelError, match="nested"):
        check_config(config, source="file")
