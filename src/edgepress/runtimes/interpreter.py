"""Run a TFLite file through the Interpreter class, which litert and tflite_runtime share."""
from __future__ import annotations

import base64
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Set

from edgepress.errors import UnsupportedError
from edgepress.runtimes.base import TensorInfo, refused

if TYPE_CHECKING:
    import numpy as np

# A model that adds a number to itself: importing a broken runtime can succeed, opening a file then fails (tflite-runtime 2.14 with NumPy 2).
_PROBE = (
    "eNplUU1LAlEUPaOTDTiYoISEkAvXQ5r9AFEDwQ+woU2BBc5iFo5gUxSEy35AqxYtW/YzXET0E1r2O5rOe3NHprpwmDvnvXvuPfdVAbjHg8MyaqiigjKKsMlZ"
    "MJmDXIyQqBtAi+hmgCziYIoWYRKfURSZkpeIznh02puc9Mej6bDntrttt01dW2tbiDWSu3M/mC6vg9Cfe9Mbb3nlLwJskX8lXohn4l7uP0qfC6Ioc1gobHQV"
    "V9dsTnM5qVNhbzya2ue6eba3etgvZcWLqauAptNsOAf/NZR2wzmKjyTW31H0RnwQO/wfDvqTWmcR0EfozRxwZXqX4IxJd6VZEF7t91z8zKTP/NIPVEW6tqz7"
    "28hLrXjP25IPuBdDajKp+YwUkjdzpc87a9RRUTTUWYV4Iq922Z95fJTwDr80drUPiJM4tsnG7RItQ75fMtftn1ksPYOp5/gBnJFKBw==")


class InterpreterSession:
    """An open TFLite file; `interpreter` is allocated."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self.inputs = [_tensor_info(d) for d in interpreter.get_input_details()]
        self.outputs = [_tensor_info(d) for d in interpreter.get_output_details()]
        self._input_indices = [d["index"] for d in interpreter.get_input_details()]
        self._output_indices = [d["index"] for d in interpreter.get_output_details()]
        self._shapes = [tuple(int(n) for n in d["shape"]) for d in interpreter.get_input_details()]

    @property
    def details(self) -> Dict[str, Any]:
        """Operators by name, delegate partitions, and the operators that no delegate took."""
        return delegation(self._interpreter._get_ops_details())

    def run(self, arrays: Sequence[np.ndarray]) -> List[np.ndarray]:
        """One inference; sizes of open dimensions may change from run to run."""
        interpreter = self._interpreter
        if [a.shape for a in arrays] != self._shapes:
            self._resize(arrays)
        for index, array in zip(self._input_indices, arrays):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._output_indices]

    def close(self) -> None:
        """Give the memory back."""
        self._interpreter = None

    def _resize(self, arrays: Sequence[np.ndarray]) -> None:
        for info, index, array in zip(self.inputs, self._input_indices, arrays):
            if len(array.shape) != len(info.shape) or any(w not in (-1, n) for w, n in zip(info.shape, array.shape)):
                raise ValueError(f"input {info.name} is of shape {array.shape}; accepted: {info.shape}")
            self._interpreter.resize_tensor_input(index, array.shape)
        self._interpreter.allocate_tensors()
        self._shapes = [a.shape for a in arrays]


def open_interpreter(make: Callable[..., Any], path: str, *, runtime: str, threads: int, accelerator: Optional[str]) -> InterpreterSession:
    """Open a file with the Interpreter class `make`; XNNPACK is applied by default, as an application would get it."""
    if accelerator is not None:
        raise UnsupportedError(f"{runtime} has no accelerator {accelerator!r} here; accepted: none (the CPU)", "leave the accelerator out")
    try:
        interpreter = make(model_path=path, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, OSError) as error:
        raise refused(path, runtime, error) from error
    return InterpreterSession(interpreter)


def check_interpreter(make: Callable[..., Any]) -> Optional[str]:
    """None if the Interpreter class `make` opens and runs a file, or the reason why not."""
    import numpy as np

    try:
        interpreter = make(model_content=zlib.decompress(base64.b64decode(_PROBE)), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.float32([21.0]))
        interpreter.invoke()
        answer = float(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    except Exception as error:  # a broken library may raise anything, SystemError included
        return f"{type(error).__name__}: {error}"
    return None if answer == 42.0 else f"21 + 21 is {answer} here"


def _tensor_info(detail: Dict[str, Any]) -> TensorInfo:
    scales = detail["quantization_parameters"]["scales"]
    return TensorInfo(name=detail["name"], shape=tuple(int(n) for n in detail["shape_signature"]), dtype=detail["dtype"].__name__,
                      scale=float(scales[0]) if len(scales) == 1 else None,
                      zero_point=int(detail["quantization_parameters"]["zero_points"][0]) if len(scales) == 1 else None)


def delegation(operators: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """What delegates took, from `Interpreter._get_ops_details()`: it lists the file's operators, then one DELEGATE per partition.

    A partition's operators are not listed, but they are those met on the way back from its outputs to its inputs.
    """
    plain = [op for op in operators if op["op_name"] != "DELEGATE"]
    partitions = [op for op in operators if op["op_name"] == "DELEGATE"]
    maker = {int(tensor): op for op in plain for tensor in op["outputs"]}
    taken: Set[int] = set()
    for partition in partitions:
        edge = {int(tensor) for tensor in partition["inputs"]}
        todo = [int(tensor) for tensor in partition["outputs"]]
        while todo:
            op = maker.get(todo.pop())
            if op is not None and op["index"] not in taken:
                taken.add(op["index"])
                todo += [int(tensor) for tensor in op["inputs"] if int(tensor) not in edge]
    return {"operators": dict(sorted(Counter(op["op_name"] for op in plain).items())), "delegate": "XNNPACK" if partitions else None,
            "partitions": len(partitions), "not_delegated": dict(sorted(Counter(op["op_name"] for op in plain if op["index"] not in taken).items()))}
