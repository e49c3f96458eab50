"""Decide what stands around a network in the converted file: the model contract for pictures, the network's own shapes for anything else."""
from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

from edgepress.converters.tflite import Graph
from edgepress.errors import ModelError, RecipeError
from edgepress.keras_files import Network, flatten_model, of_model
from edgepress.modelspec import NORMALIZATIONS, ModelSpec
from edgepress.own_spec import read_labels
from edgepress.recipe import ConvertConfig
from edgepress.tf import import_tensorflow

_CHOICES = ", ".join(NORMALIZATIONS)


@dataclass(frozen=True)
class Plan:
    """A network, what goes around it, and what the file will say of itself."""

    network: Network
    graph: Graph
    answer: Callable[[Any], Any]  # what parity trusts: the network as it was loaded, for normalised RGB
    spec: Optional[ModelSpec]  # None: not a picture classifier, or nobody said how its pictures were normalised
    notes: Tuple[str, ...]


def make_plan(network: Network, config: ConvertConfig, *, given: Optional[ModelSpec], name: str) -> Plan:
    """The plan for a network from `edgepress finetune` (its `given` spec says all) or the user's own (`config` does).

    Raises:
        RecipeError: an option that the network needs or cannot have.
        ModelError: shapes or labels that do not fit.
    """
    if None in network.input_shape:
        raise ModelError(f"{network.source} leaves its input size open ({_shape(network.input_shape)})", "save it with a fixed input size")
    if network.model is not None and getattr(network.model, "_is_graph_network", False):
        network = of_model(flatten_model(network.model), source=network.source)
    spec, notes = (_checked(given, network, config), []) if given else _own_spec(network, config, name)
    if spec is None:
        return _plain_plan(network, config, notes)
    return _picture_plan(network, config, spec, notes, gray=network.input_shape[2] == 1)


def _shape(shape: Tuple[Optional[int], ...]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)


def _checked(given: ModelSpec, network: Network, config: ConvertConfig) -> ModelSpec:
    for key in ("normalization", "labels"):
        if getattr(config, key) is not None:
            raise RecipeError(f"[convert] {key} is {getattr(config, key)!r}, but {network.source} has a model.json that says it already", f"leave {key} out")
    if network.input_shape != (*given.size, 3):
        raise ModelError(f"{network.source} takes {_shape(network.input_shape)}, its model.json says {given.input_height}x{given.input_width}x3", "keep the two files of one run together")
    if network.output_shape != (len(given.labels),):
        raise ModelError(f"{network.source} answers {_shape(network.output_shape)} numbers, its model.json lists {len(given.labels)} labels", "keep the two files of one run together")
    return given


def unsaid(source: str) -> RecipeError:
    """Nobody said how a model of the user's own wants its pictures."""
    return RecipeError(f"nobody said what pictures {source} was trained on; accepted for --normalization: {_CHOICES}",
                       "0..255 if the model normalises them itself; or pass --input-type float32 to convert it as it is")


def _own_spec(network: Network, config: ConvertConfig, name: str) -> Tuple[Optional[ModelSpec], List[str]]:
    picture = len(network.input_shape) == 3 and network.input_shape[2] in (1, 3) and len(network.output_shape) == 1
    if not picture and config.input_type == "uint8":
        raise RecipeError(f"{network.source} takes {_shape(network.input_shape)} and answers {_shape(network.output_shape)}: no picture classifier, which input type uint8 is for",
                          "pass --input-type float32: it is then converted as it is")
    if config.normalization is None or not picture:
        if config.input_type == "uint8":
            raise unsaid(network.source)
        return None, ["no ModelSpec: " + ("nobody said how its pictures are normalised, if it takes pictures (--normalization)" if picture else "not a picture classifier")]
    labels, notes = _labels(network, config)
    scale, offset = NORMALIZATIONS[config.normalization]
    if network.input_shape[2] == 1 and len(set(scale) | set(offset)) > 2:
        raise RecipeError(f"{network.source} takes grey pictures, normalization {config.normalization!r} is for colour", "accepted: 0..255, 0..1, -1..1")
    height, width = network.input_shape[:2]
    return ModelSpec(labels=labels, input_height=int(height or 0), input_width=int(width or 0), resize=config.resize, channel_order=config.channel_order,
                     scale=scale, offset=offset, name=name), notes


def _labels(network: Network, config: ConvertConfig) -> Tuple[Tuple[str, ...], List[str]]:
    classes = max(2, int(network.output_shape[0] or 0))  # one output is a yes or no
    if config.labels is None:
        return tuple(str(i) for i in range(classes)), [f"no labels file: classes are called 0 to {classes - 1} (--labels)"]
    labels = read_labels(Path(config.labels))
    if len(labels) != classes:
        raise ModelError(f"{config.labels} lists {len(labels)} labels, {network.source} answers {classes} classes", "one label per line, in the order of the outputs")
    return labels, []


def _plain_plan(network: Network, config: ConvertConfig, notes: List[str]) -> Plan:
    """No contract around it: float32 in and out, shapes as they are."""
    softmax = ending_of(network) == "softmax"
    if config.output == "logits" and softmax:
        network, softmax = without_softmax(network), False
    pictures = len(network.input_shape) == 3 and network.input_shape[2] == 3
    graph = Graph(shape=_sizes(network), batch=config.batch, input_type="float32", input_name="image" if pictures else "input",
                  output_name="probabilities" if softmax else "output", allow_flex=config.allow_flex)
    return Plan(network, graph, network.call, None, tuple(notes))


def _sizes(network: Network) -> Tuple[int, ...]:
    return tuple(int(size or 0) for size in network.input_shape)


def _picture_plan(network: Network, config: ConvertConfig, spec: ModelSpec, notes: List[str], *, gray: bool) -> Plan:
    inside = config.input_type == "uint8"
    if gray and not inside:
        raise RecipeError(f"{network.source} takes grey pictures; input type float32 would leave the conversion from RGB to the caller", "use input type uint8, or leave out --normalization")
    network, ending = _ending(network, config, notes)
    reverse, answer = spec.channel_order == "bgr", network.call
    if reverse:
        loaded = network.call
        answer = lambda x: loaded(x[..., ::-1])  # noqa: E731
        flipped = with_rgb_input(network)
        reverse, network = flipped is None, flipped or network
        notes.append("trained on BGR: " + ("channels are reversed in the graph" if reverse else "the kernel of the first convolution is turned to RGB"))
    if gray:
        notes.append("grey network: the file takes RGB and computes 0.299 R + 0.587 G + 0.114 B itself")
    graph = Graph(shape=(*spec.size, 3), batch=config.batch, input_type=config.input_type, scale=spec.scale, offset=spec.offset, gray=gray,
                  reverse_channels=reverse, ending=ending, output_name=config.output, allow_flex=config.allow_flex)
    spec = replace(spec, channel_order="rgb", normalization_inside=inside, input_type=config.input_type, layout="nhwc", output=config.output)
    return Plan(network, graph, answer, spec, tuple(notes))


def _ending(network: Network, config: ConvertConfig, notes: List[str]) -> Tuple[Network, str]:
    """(network, ending of the graph) such that the file answers what `config.output` says."""
    kind, classes = ending_of(network), network.output_shape[0]
    if classes == 1:
        if config.output == "logits":
            raise RecipeError(f"{network.source} has one output; two-class logits cannot be made of it", "leave out --output logits")
        notes.append("one output p became the probabilities [1 - p, p]")
        return network, "binary" if kind == "sigmoid" else "binary_logit"
    if kind == "sigmoid":
        notes.append("the outputs are sigmoids, each for itself: probabilities do not add up to 1")
        if config.output == "logits":
            raise RecipeError(f"{network.source} ends with sigmoids", "leave out --output logits")
        return network, "none"
    if config.output == "logits":
        return (without_softmax(network) if kind == "softmax" else network), "none"
    if kind == "softmax":
        return network, "none"
    notes.append("the network answers logits: a softmax was added")
    return network, "softmax"


def ending_of(network: Network) -> str:
    """`softmax`, `sigmoid` or `linear`: by the last layer, and where that does not say, by what comes out for some noise."""
    if network.model is not None and getattr(network.model, "_is_graph_network", False):
        layer = network.model.outputs[0]._keras_history.layer
        activation = getattr(getattr(layer, "activation", None), "__name__", None)
        if layer.__class__.__name__ == "Softmax" or activation == "softmax":
            return "softmax"
        if activation == "sigmoid":
            return "sigmoid"
    return _ending_by_numbers(network)


def _ending_by_numbers(network: Network) -> str:
    import numpy as np

    noise = np.random.default_rng(0).normal(0, 1, (4, *_sizes(network))).astype(np.float32)
    answers = np.asarray(network.call(noise))
    inside = answers.ndim == 2 and bool((answers >= 0).all() and (answers <= 1).all())
    if inside and answers.shape[1] > 1 and np.allclose(answers.sum(axis=1), 1, atol=1e-3):
        return "softmax"
    return "sigmoid" if inside and answers.shape[1] == 1 and network.model is None else "linear"


def without_softmax(network: Network) -> Network:
    """The network up to its softmax.

    Raises:
        ModelError: the softmax is not its last layer.
    """
    model = network.model
    layer = model.outputs[0]._keras_history.layer if model is not None else None
    if layer is None or (layer.__class__.__name__ != "Softmax" and getattr(getattr(layer, "activation", None), "__name__", None) != "softmax"):
        raise ModelError(f"{network.source} answers probabilities, but its softmax is no Keras layer at its end that could be left out", "leave out --output logits")
    _, keras = import_tensorflow()

    def clone(each: Any) -> Any:
        if each is not layer:
            return each.__class__.from_config(each.get_config())
        if each.__class__.__name__ == "Softmax":
            return keras.layers.Activation("linear", name=each.name)
        return each.__class__.from_config({**each.get_config(), "activation": "linear"})
    return of_model(_cloned(keras, model, clone), source=network.source)


def _cloned(keras: Any, model: Any, clone: Optional[Callable[[Any], Any]] = None) -> Any:
    made = keras.models.clone_model(model, clone_function=clone)
    made.set_weights(model.get_weights())
    return made


def with_rgb_input(network: Network) -> Optional[Network]:
    """A network that was trained on BGR, for RGB input: the kernel of its first convolution turned round. None if that is not its first layer."""
    if network.model is None or not getattr(network.model, "_is_graph_network", False):
        return None
    _, keras = import_tensorflow()
    model = _cloned(keras, network.model)
    nodes = model.inputs[0]._keras_history.layer.outbound_nodes
    while len(nodes) == 1 and nodes[0].layer.__class__.__name__ == "ZeroPadding2D":
        nodes = nodes[0].layer.outbound_nodes
    if len(nodes) != 1 or nodes[0].layer.__class__.__name__ != "Conv2D" or nodes[0].layer.groups != 1:
        return None
    kernel, *rest = nodes[0].layer.get_weights()
    nodes[0].layer.set_weights([kernel[:, :, ::-1, :], *rest])
    return of_model(model, source=network.source)
