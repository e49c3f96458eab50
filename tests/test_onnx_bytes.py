"""ONNX files read without the onnx library, checked against it."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepress.errors import ModelError
from edgepress.onnx_bytes import external_tensors, operators

DATA = Path(__file__).resolve().parent / "data"


def model(onnx: Any, *, initializer: Any, attribute: Any) -> Any:
    h = onnx.helper
    nodes = [h.make_node("Constant", [], ["c"], value=attribute), h.make_node("Add", ["w", "c"], ["y"])]
    graph = h.make_graph(nodes, "g", [], [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])], initializer=[initializer])
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 15)], ir_version=8)
    onnx.helper.set_model_props(made, {"location": "a harmless word in the metadata"})
    return made


def tensor(onnx: Any, name: str, *, outside: bool) -> Any:
    made = onnx.numpy_helper.from_array(np.float32([1, 2]), name)
    if outside:
        made.ClearField("raw_data")
        made.data_location = onnx.TensorProto.EXTERNAL
        entry = made.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    return made


@pytest.mark.parametrize(("initializer", "attribute", "names"), [(False, False, []), (True, False, ["w"]), (False, True, ["c"]), (True, True, ["c", "w"])])
def test_tensors_outside_the_file_are_found_wherever_they_are(tmp_path: Path, initializer: bool, attribute: bool, names: list) -> None:
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "m.onnx"
    file.write_bytes(model(onnx, initializer=tensor(onnx, "w", outside=initializer), attribute=tensor(onnx, "c", outside=attribute)).SerializeToString())
    assert sorted(external_tensors(str(file))) == names
    assert operators(str(file)) == {"Add": 1, "Constant": 1}


def test_such_a_file_is_not_opened(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from edgepress.runtimes.onnxruntime import open_model

    file = tmp_path / "m.onnx"
    file.write_bytes(model(onnx, initializer=tensor(onnx, "w", outside=True), attribute=tensor(onnx, "c", outside=False)).SerializeToString())
    with pytest.raises(ModelError, match="keeps 1 tensors in other files"):
        open_model(str(file), threads=1)


def test_operators_of_a_real_file() -> None:
    found = operators(str(DATA / "tiny_float.onnx"))
    assert found["Conv"] == 1 and found["Softmax"] == 1 and external_tensors(str(DATA / "tiny_float.onnx")) == []


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x3a\xff\xff\xff\xff\x0f", b"\x0b"])
def test_what_is_no_protobuf(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        operators(str(tmp_path / "m.onnx"))
