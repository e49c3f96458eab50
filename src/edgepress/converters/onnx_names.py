"""Give an ONNX graph names and an order that depend on the graph alone: tf2onnx counts through hash sets, so its own change from run to run."""
from __future__ import annotations

import re
from typing import Any, Dict, List, Set

_COUNTER = re.compile(r"(__\d+)+(:\d+)?$")
ROLES = {"Conv": ("", "weight", "bias"), "MatMul": ("weight", "weight"), "Gemm": ("", "weight", "bias"), "Clip": ("", "min", "max")}


def canonical(model: Any) -> Any:
    """A copy of `model`, same computation: nodes in depth-first order from the outputs, constants in order of use, names after what uses them.

    A graph with subgraphs (loops) is returned as it is: names inside would have to follow.
    """
    if any(attribute.HasField("g") or attribute.graphs for node in model.graph.node for attribute in node.attribute):
        return model
    nodes = _ordered(model.graph)
    names = _renamed(model.graph, nodes)
    made = type(model)()
    made.CopyFrom(model)
    for field in ("node", "initializer", "value_info"):
        del getattr(made.graph, field)[:]
    made.graph.node.extend(_rename_node(node, names) for node in nodes)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in dict.fromkeys(i for node in nodes for i in node.input if i in constants):
        made.graph.initializer.add().CopyFrom(constants[name])
        made.graph.initializer[-1].name = names[name]
    return made


def _ordered(graph: Any) -> List[Any]:
    """Nodes that the outputs need, each after its inputs (iterative: graphs are deeper than Python's stack)."""
    maker = {name: node for node in graph.node for name in node.output}
    ordered: List[Any] = []
    placed: Set[int] = set()
    stack = [maker[value.name] for value in reversed(graph.output) if value.name in maker]
    while stack:
        node = stack[-1]
        missing = [maker[i] for i in node.input if i in maker and id(maker[i]) not in placed]
        if missing:
            stack.append(missing[0])
            continue
        stack.pop()
        if id(node) not in placed:
            placed.add(id(node))
            ordered.append(node)
    return ordered


def _renamed(graph: Any, nodes: List[Any]) -> Dict[str, str]:
    """New name of every value; graph inputs and outputs keep theirs."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    used = set(names.values()) | {""}
    constants = {tensor.name for tensor in graph.initializer}
    for node in nodes:
        for name in node.output:
            names.setdefault(name, _fresh(_stem(node, name), used) if name else "")
        for position, name in enumerate(node.input):
            if name in constants and name not in names:
                roles = ROLES.get(node.op_type, ())
                role = roles[position] if position < len(roles) and roles[position] else f"const{position}"
                names[name] = _fresh(f"{names[node.output[0]]}/{role}", used)
    return names


def _stem(node: Any, name: str) -> str:
    """A readable stem: TFLite joins the names of fused layers with ';', tf2onnx appends counters."""
    return _COUNTER.sub("", name.split(";")[0]) or node.op_type


def _fresh(stem: str, used: Set[str]) -> str:
    name, count = stem, 1
    while name in used:
        name, count = f"{stem}_{count}", count + 1
    used.add(name)
    return name


def _rename_node(node: Any, names: Dict[str, str]) -> Any:
    made = type(node)()
    made.CopyFrom(node)
    for field in ("input", "output"):
        values = [names.get(name, name) for name in getattr(node, field)]
        del getattr(made, field)[:]
        getattr(made, field).extend(values)
    made.name = f"{node.op_type}:{made.output[0]}"
    return made
