"""The backbones: one table of networks with everything that belongs to each, and how one is built with its weights."""
from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Mapping, Optional, Tuple

from edgepress.errors import ModelError, RecipeError, nearest
from edgepress.modelspec import NORMALIZATIONS
from edgepress.weightfiles import Entry, assign_weights, network_layers, read_weights

if TYPE_CHECKING:
    from types import ModuleType

Builder = Callable[..., Any]  # (keras, input tensor, width, weights=None) -> model that ends in pooled features
WEIGHTS_FOLDER = "EDGEPRESS_WEIGHTS"


@dataclass(frozen=True)
class Family:
    """One row: a network family with its preprocessing, sizes, freeze points and the licence of its weights.

    `freeze_points` are the last layers of the blocks from stem to top: a layer after the k-th point belongs to group k + 1.
    `mparams` (millions) and `mmac` (million multiply-accumulates per image) are of the default width and size, without a head.
    """

    build: Builder
    normalization: str
    sizes: Tuple[int, ...]  # sizes with weights of their own, the default first
    freeze_points: Tuple[str, ...]
    license: str
    mparams: float
    mmac: int
    files: Tuple[str, ...] = ()  # what the weights file is called: {width}, {size}, {alpha}
    widths: Tuple[float, ...] = ()  # the default first
    min_size: int = 32
    bgr: bool = False  # the weights were trained on BGR: the first kernel is flipped when they are loaded
    embedded: Optional[str] = None  # weights that come with edgepress


@dataclass(frozen=True)
class Backbone:
    """A name resolved: family, width (None where the family has one only) and input size in pixels."""

    name: str
    family: str
    width: Optional[float]
    size: int

    @property
    def row(self) -> Family:
        """The family's row of the table."""
        return BACKBONES[self.family]


@dataclass(frozen=True)
class Built:
    """A backbone with its weights: `model` maps normalized float32 RGB [N, size, size, 3] to features [N, D].

    Normalized means y = x·scale + offset per RGB channel on 0…255. `weights` says in words where the weights came from,
    `weights_sha256` is the digest of the arrays in the model.
    """

    model: Any
    backbone: Backbone
    scale: Tuple[float, ...]
    offset: Tuple[float, ...]
    weights: str
    weights_sha256: str
    weights_license: Optional[str]
    freeze_points: Tuple[str, ...]


def _application(name: str, **options: Any) -> Builder:
    def build(keras: "ModuleType", image: Any, width: Optional[float], weights: Optional[str] = None) -> Any:
        alpha = {} if width is None else {"alpha": width}
        return getattr(keras.applications, name)(input_tensor=image, weights=weights, include_top=False, pooling="avg", **alpha, **options)
    return build


def _stripped(name: str) -> Builder:
    """An application whose Rescaling and Normalization cannot be switched off: they are cut out of its config."""
    def build(keras: "ModuleType", image: Any, width: Optional[float], weights: Optional[str] = None) -> Any:
        model = _application(name)(keras, image, width, weights)
        if weights:  # only its arrays are wanted
            return model
        config, cut = model.get_config(), set()
        for layer in config["layers"]:
            if layer["class_name"] in ("Rescaling", "Normalization"):
                cut.add(layer["name"])
            else:
                layer["inbound_nodes"] = [[[image.name if source in cut else source, *rest] for source, *rest in node]
                                          for node in layer["inbound_nodes"]]
        config["layers"] = [layer for layer in config["layers"] if layer["name"] not in cut]
        return keras.Model.from_config(config)
    return build


def _squeezenet(keras: "ModuleType", image: Any, width: Optional[float], weights: Optional[str] = None) -> Any:
    """SqueezeNet 1.1 without its classifier (arXiv 1602.07360, forresti/SqueezeNet v1.1); layer names of rcmalli/keras-squeezenet."""
    layers = keras.layers

    def fire(x: Any, number: int, squeeze: int, expand: int) -> Any:
        def conv(inputs: Any, name: str, filters: int, kernel: int) -> Any:
            y = layers.Conv2D(filters, kernel, padding="same", name=f"fire{number}/{name}")(inputs)
            return layers.Activation("relu", name=f"fire{number}/relu_{name}")(y)
        x = conv(x, "squeeze1x1", squeeze, 1)
        left, right = conv(x, "expand1x1", expand, 1), conv(x, "expand3x3", expand, 3)
        return layers.Concatenate(name=f"fire{number}/concat")([left, right])

    x = layers.Conv2D(64, 3, strides=2, padding="valid", name="conv1")(image)
    x = layers.Activation("relu", name="relu_conv1")(x)
    for number, squeeze, expand in ((2, 16, 64), (3, 16, 64), (4, 32, 128), (5, 32, 128), (6, 48, 192), (7, 48, 192), (8, 64, 256), (9, 64, 256)):
        if number in (2, 4, 6):
            x = layers.MaxPooling2D(3, strides=2, name=f"pool{number - 1}")(x)
        x = fire(x, number, squeeze, expand)
    return keras.Model(image, layers.GlobalAveragePooling2D(name="avg_pool")(x), name="squeezenet")


GLYPH_BLOCKS = ((24, 1), (48, 2), (48, 1), (96, 2), (96, 1), (160, 2))  # filters, stride


def _glyphs(keras: "ModuleType", image: Any, width: Optional[float], weights: Optional[str] = None) -> Any:
    """Plain 3x3 convolutions with ReLU6, which quantize well; for characters and other small drawings."""
    layers, x = keras.layers, image
    for number, (filters, stride) in enumerate(GLYPH_BLOCKS, start=1):
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"conv{number}_bn")(x)
        x = layers.ReLU(6.0, name=f"conv{number}_relu")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D(name="avg_pool")(x), name="glyphs")


_SLIM, _KERNELS = "Apache-2.0 (TF-Slim / Keras Applications)", "_weights_tf_dim_ordering_tf_kernels_notop.h5"


def _mobilenet_v3(name: str, last: int, *, minimalistic: bool) -> Family:
    cuts = (0, 2, 7, last) if name == "Small" else (0, 2, 5, 11, last)
    joined = {"Small": {2, 5, 7, 10}, "Large": {0, 2, 5, 11, 14}}[name]
    points = tuple(f"expanded_conv{f'_{i}' if i else ''}/{'Add' if i in joined else 'project/BatchNorm'}" for i in cuts)
    mini = "_minimalistic" if minimalistic else ""
    mparams, mmac = {"Small": (0.93, 55), "Large": (3.0, 213)}[name] if not minimalistic else {"Small": (0.44, 51), "Large": (1.43, 205)}[name]
    return Family(_application(f"MobileNetV3{name}", include_preprocessing=False, minimalistic=minimalistic), "-1..1", (224,), points, _SLIM,
                  mparams, mmac, (f"weights_mobilenet_v3_{name.lower()}{mini}_224_{{width}}_float_no_top_v2.h5",),
                  widths=(1.0,) if minimalistic else (1.0, 0.75))


def _efficientnet(letter: str, size: int, repeats: str, mparams: float, mmac: int) -> Family:
    points = ("stem_activation",) + tuple(f"block{block}{last}_add" for block, last in zip((2, 3, 4, 5, 6), repeats))
    return Family(_stripped(f"EfficientNetB{letter}"), "imagenet", (size,), points, "Apache-2.0 (Keras Applications)", mparams, mmac,
                  (f"efficientnetb{letter}_notop.h5",))


def _resnet(name: str, normalization: str, *, mmac: int, file: str, bgr: bool = False) -> Family:
    points = ("pool1_pool", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out")
    return Family(_application(name), normalization, (224,), points, "MIT (Kaiming He / Keras Applications)", 23.6, mmac, (file + _KERNELS,), bgr=bgr)


def _vgg(name: str, mparams: float, mmac: int) -> Family:
    return Family(_application(name), "caffe", (224,), tuple(f"block{i}_pool" for i in (1, 2, 3, 4)), "CC BY 4.0 (VGG, Oxford)", mparams, mmac,
                  (name.lower() + _KERNELS,), bgr=True)


BACKBONES: Mapping[str, Family] = {
    "mobilenet_v1": Family(
        _application("MobileNet"), "-1..1", (224, 128, 160, 192), ("conv1_relu", "conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu"), _SLIM,
        3.2, 568, ("mobilenet_{alpha}_{size}_tf_no_top.h5",), widths=(1.0, 0.25, 0.5, 0.75)),
    "mobilenet_v2": Family(
        _application("MobileNetV2"), "-1..1", (224, 96, 128, 160, 192),
        ("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_9_add", "block_12_add", "block_15_add"), _SLIM, 2.3, 300,
        ("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{width}_{size}_no_top.h5",), widths=(1.0, 0.35, 0.5, 0.75, 1.3, 1.4)),
    "mobilenet_v3_small": _mobilenet_v3("Small", 10, minimalistic=False),
    "mobilenet_v3_large": _mobilenet_v3("Large", 14, minimalistic=False),
    "mobilenet_v3_small_minimalistic": _mobilenet_v3("Small", 10, minimalistic=True),
    "mobilenet_v3_large_minimalistic": _mobilenet_v3("Large", 14, minimalistic=True),
    "efficientnet_b0": _efficientnet("0", 224, "bbccd", 4.0, 385),
    "efficientnet_b1": _efficientnet("1", 240, "ccdde", 6.6, 685),
    "efficientnet_b2": _efficientnet("2", 260, "ccdde", 7.8, 992),
    "efficientnet_b3": _efficientnet("3", 300, "cceef", 10.8, 1825),
    "efficientnet_v2_b0": Family(
        _application("EfficientNetV2B0", include_preprocessing=False), "imagenet", (224,),
        ("stem_activation", "block2b_add", "block3b_add", "block4c_add", "block5e_add", "block6h_add"), "Apache-2.0 (Keras Applications)",
        5.9, 722, ("efficientnetv2-b0_notop.h5",)),
    "resnet50": _resnet("ResNet50", "caffe", mmac=3855, file="resnet50", bgr=True),
    "resnet50_v2": _resnet("ResNet50V2", "-1..1", mmac=3480, file="resnet50v2"),
    "vgg16": _vgg("VGG16", 14.7, 15347),
    "vgg19": _vgg("VGG19", 20.0, 19510),
    "inception_v3": Family(
        _application("InceptionV3"), "-1..1", (299,), ("mixed0", "mixed2", "mixed5", "mixed7", "mixed8"), "Apache-2.0 (Keras Applications)",
        21.8, 5711, ("inception_v3" + _KERNELS,), min_size=75),
    "densenet121": Family(
        _application("DenseNet121"), "imagenet", (224,), ("pool1", "pool2_pool", "pool3_pool", "pool4_pool"), "BSD-3-Clause (Zhuang Liu)",
        7.0, 2833, ("densenet121" + _KERNELS,)),
    "nasnet_mobile": Family(
        _application("NASNetMobile"), "-1..1", (224,),
        ("reduction_concat_stem_2", "normal_concat_3", "normal_concat_8"), _SLIM, 4.3, 563, ("nasnet_mobile_no_top.h5", "NASNet-mobile-no-top.h5")),
    "xception": Family(
        _application("Xception"), "-1..1", (299,), ("block1_conv2_act", "block4_pool", "block8_sepconv3_bn", "block13_pool"), "MIT (François Chollet)",
        20.9, 8360, ("xception" + _KERNELS,), min_size=71),
    "squeezenet_1.1": Family(
        _squeezenet, "caffe", (227,), ("relu_conv1", "fire3/concat", "fire5/concat", "fire7/concat"), "BSD-2-Clause (forresti/SqueezeNet)", 0.72, 266,
        ("squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5",), bgr=True),
    "glyphs": Family(
        _glyphs, "-1..1", (32,), ("conv1_relu", "conv3_relu", "conv5_relu"), "Apache-2.0 (edgepress, models/glyphs)", 0.30, 18, embedded="glyphs_32.npz"),
}


def backbone_names() -> List[str]:
    """Every name with weights of its own: family[_width]_size, in the order of the table."""
    return [_name(family, width, size) for family, row in BACKBONES.items() for width in sorted(row.widths) or [None] for size in sorted(row.sizes)]


def _name(family: str, width: Optional[float], size: int) -> str:
    return "_".join([family, *([str(width)] if width is not None else []), str(size)])


def parse_backbone(name: str) -> Backbone:
    """Resolve `family[_width]_size`; a width or size left out is the family's default.

    Raises:
        RecipeError: no such family or width, or a size the network cannot take.
    """
    family = max((f for f in BACKBONES if name == f or name.startswith(f + "_")), key=len, default=None)
    match = re.fullmatch(r"(?:_(\d\.\d+))?(?:_(\d+))?", name[len(family):]) if family else None
    if family is None or match is None:
        close = difflib.get_close_matches(name, [*BACKBONES, *backbone_names()], n=1, cutoff=0.5)
        suggestion = f" (did you mean {close[0]!r}?)" if close else ""
        raise RecipeError(f"backbone {name!r} does not exist; accepted: family[_width]_size with the families {', '.join(BACKBONES)}{suggestion}",
                          "`edgepress backbones` lists them")
    row = BACKBONES[family]
    width = float(match[1]) if match[1] else (row.widths[0] if row.widths else None)
    size = int(match[2]) if match[2] else row.sizes[0]
    if match[1] and width not in row.widths:
        raise RecipeError(f"backbone {name!r} has the width {match[1]}; {family} has {', '.join(map(str, sorted(row.widths))) or 'one width only'}",
                          f"for example {_name(family, row.widths[0] if row.widths else None, size)}")
    if not row.min_size <= size <= 1024:
        raise RecipeError(f"backbone {name!r} has the input size {size}; {family} takes {row.min_size} to 1024 pixels", f"for example {_name(family, width, row.sizes[0])}")
    return Backbone(_name(family, width, size), family, width, size)


def build_backbone(name: str, *, weights: str = "imagenet") -> Built:
    """Build a backbone with weights: flat, no preprocessing inside, RGB in, pooled features out.

    `weights` is `imagenet` (the family's published weights: a matching file in $EDGEPRESS_WEIGHTS, else what comes with edgepress,
    else Keras' own download with its checksum), `none` (random), a path, or a file name in $EDGEPRESS_WEIGHTS.

    Raises:
        RecipeError: the name does not exist, or a size the network cannot take.
        ModelError: weights that are missing, cannot be downloaded or do not fit.
    """
    from edgepress.tf import import_tensorflow

    backbone = parse_backbone(name)
    _, keras = import_tensorflow()
    keras.backend.reset_uids()  # automatic layer names start at 0, so the same recipe gives the same bytes
    model = backbone.row.build(keras, keras.Input((backbone.size, backbone.size, 3), name="image"), backbone.width)
    said = _load(model, backbone, weights)
    scale, offset = NORMALIZATIONS[backbone.row.normalization]
    return Built(model, backbone, scale, offset, said, weights_digest(model), _license(backbone.row, weights), backbone.row.freeze_points)


def _license(row: Family, weights: str) -> Optional[str]:
    if weights in ("none", "imagenet"):
        return row.license if weights == "imagenet" else None
    return f"not known: a file of your own (the published weights: {row.license})"


def weights_digest(model: Any) -> str:
    """sha256 over the layer names and arrays of a model."""
    digest = hashlib.sha256()
    for layer in model.layers:
        for value in layer.get_weights():
            digest.update(f"{layer.name}{value.shape}".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


def weights_file(name: str, weights: str) -> Optional[Path]:
    """The file that `build_backbone` would read; None for random initialization and what Keras downloads (and checks) itself.

    Raises:
        RecipeError: the name does not exist.
        ModelError: the file does not.
    """
    backbone = parse_backbone(name)
    return None if weights == "none" else _published_file(backbone)[0] if weights == "imagenet" else _named_file(weights)


def _load(model: Any, backbone: Backbone, weights: str) -> str:
    """Put the weights into `model`; returns what the record says about them."""
    if weights == "none":
        return "none (random initialization)"
    file, note = _published_file(backbone) if weights == "imagenet" else (_named_file(weights), "")
    entries, source = (read_weights(file), f"{file.name} sha256 {_digest(file)[:16]}") if file else _download(backbone)
    skipped = assign_weights(model, entries, source=str(file or source))
    if backbone.row.bgr:
        _flip_first_kernel(model)
    notes = [note, f"left out: {', '.join(skipped)}" if skipped else "", "first kernel flipped from BGR to RGB" if backbone.row.bgr else ""]
    return "; ".join([f"{weights}: {source}", *filter(None, notes)])


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _flip_first_kernel(model: Any) -> None:
    first = next(layer for layer in model.layers if layer.weights)
    kernel, *rest = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *rest])


def _other_size(backbone: Backbone, size: int) -> str:
    return "" if size == backbone.size else f"; pretrained at {size}, not {backbone.size}"


_ALPHA = {0.25: "2_5", 0.5: "5_0", 0.75: "7_5", 1.0: "1_0"}


def weight_file_names(backbone: Backbone, size: int) -> List[str]:
    """What the file with the weights of `backbone` pretrained at `size` may be called."""
    own = "_".join([backbone.family, *([str(backbone.width)] if backbone.width is not None else []), str(size)])
    return [f"{own}_imagenet_no_top.h5"] + [
        template.format(width=backbone.width, size=size, alpha=_ALPHA.get(backbone.width or 1.0)) for template in backbone.row.files]


def _published_file(backbone: Backbone) -> Tuple[Optional[Path], str]:
    """The file with the published weights that is already here (nearest size first), and what to say about it."""
    if backbone.row.embedded:
        return Path(__file__).with_name("data") / backbone.row.embedded, "comes with edgepress, not ImageNet" + _other_size(backbone, backbone.row.sizes[0])
    folder = os.environ.get(WEIGHTS_FOLDER)
    for size in sorted(backbone.row.sizes, key=lambda s: (abs(s - backbone.size), -s)) if folder else ():
        for name in weight_file_names(backbone, size):
            if (Path(folder) / name).is_file():
                return Path(folder) / name, f"found in ${WEIGHTS_FOLDER}" + _other_size(backbone, size)
    return None, ""


def _named_file(weights: str) -> Path:
    """A weights file given by path or by its name in $EDGEPRESS_WEIGHTS."""
    folder = os.environ.get(WEIGHTS_FOLDER)
    candidates = [Path(weights).expanduser()] + ([Path(folder) / weights] if folder else [])
    for path in candidates:
        if path.is_file():
            return path
    listed = sorted(p.name for p in Path(folder).glob("*") if p.suffix in (".h5", ".npz")) if folder and Path(folder).is_dir() else []
    looked = " nor in $EDGEPRESS_WEIGHTS" if folder else " and $EDGEPRESS_WEIGHTS is not set"
    raise ModelError(f"weights {weights!r} is not a file{looked}; " + nearest(weights, ["imagenet", "none", *listed]),
                     "give a path, or put the file into the folder $EDGEPRESS_WEIGHTS")


def _download(backbone: Backbone) -> Tuple[List[Entry], str]:
    """Let Keras download (or find in its cache) the published weights; returns the layers and what to say about them."""
    from edgepress.tf import import_tensorflow

    _, keras = import_tensorflow()
    size = min(backbone.row.sizes, key=lambda s: (abs(s - backbone.size), -s))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints the download to stdout, which is for results
            donor = backbone.row.build(keras, keras.Input((size, size, 3)), backbone.width, "imagenet")
    except Exception as error:  # Keras raises a bare Exception for every kind of failed download
        raise ModelError(f"the published weights of {backbone.name} are not here and Keras cannot download them ({str(error).splitlines()[0][:200]})",
                         f"put {weight_file_names(backbone, size)[-1]} into a folder and set ${WEIGHTS_FOLDER} to it, give a path as weights, "
                         'or start from random initialization with weights = "none"') from error
    return network_layers(donor), f"Keras Applications, checked by Keras' checksum{_other_size(backbone, size)}"
