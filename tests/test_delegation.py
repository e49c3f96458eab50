"""Which operators a delegate took, from the lists that the Interpreter gives."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import pytest

from edgepress.runtimes.interpreter import delegation

DATA = Path(__file__).resolve().parent / "data"


def op(index: int, name: str, inputs: List[int], outputs: List[int]) -> Dict[str, Any]:
    return {"index": index, "op_name": name, "inputs": inputs, "outputs": outputs}


CHAIN = [op(0, "CAST", [0], [1]), op(1, "CONV_2D", [1, 10], [2]), op(2, "HARD_SWISH", [2], [3]), op(3, "CONV_2D", [3, 11], [4]), op(4, "SOFTMAX", [4], [5])]


def test_two_partitions_around_an_operator_nobody_took() -> None:
    facts = delegation([*CHAIN, op(5, "DELEGATE", [1, 10], [2]), op(6, "DELEGATE", [3, 11], [5])])
    assert facts["partitions"] == 2 and facts["delegate"] == "XNNPACK"
    assert facts["operators"] == {"CAST": 1, "CONV_2D": 2, "HARD_SWISH": 1, "SOFTMAX": 1}
    assert facts["not_delegated"] == {"CAST": 1, "HARD_SWISH": 1}


def test_no_delegate() -> None:
    facts = delegation(CHAIN)
    assert facts["delegate"] is None and facts["partitions"] == 0 and facts["not_delegated"] == facts["operators"]


def test_of_a_real_file() -> None:
    pytest.importorskip("ai_edge_litert")
    from edgepress.runtimes.litert import open_model

    details = open_model(str(DATA / "tiny_float.tflite"), threads=1).details
    assert details["delegate"] == "XNNPACK" and details["not_delegated"] == {"CAST": 1}
