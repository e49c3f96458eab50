"""Both pruning methods against the same expectations: sparsity, pattern, untouched source, nothing else pruned."""
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from edgepress.errors import ModelError, UnsupportedError
from edgepress.pruning import METHODS, choose_method, kernels, patterns, training
from edgepress.pruning.plan import PrunePlan, make_schedule
from edgepress.recipe import PruneConfig
from edgepress.tf import import_tensorflow

import tiny_networks as tiny

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.tiny_model()


def make_plan(model: Any, config: PruneConfig, images: int = 48) -> PrunePlan:
    chosen, skipped = kernels.choose_kernels(model, pattern=config.pattern)
    return PrunePlan(chosen, skipped, config.pattern, config.sparsity, make_schedule(config, steps=training.count_steps(images, config)))


def run(model: Any, config: PruneConfig) -> training.Result:
    plan, images = make_plan(model, config), tiny.tiny_images()
    method, _ = choose_method(model, plan, method=config.method)
    result = training.fine_tune(model, plan, method=method, train=images, validation=images, spec=tiny.tiny_spec(), config=config)
    kernels.check_sparsity(result.model, plan)
    return result


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("pattern", "sparsity", "schedule"), [("unstructured", 0.75, "polynomial"), ("unstructured", 0.3, "constant"), ("2:4", 0.5, "constant")])
def test_every_chosen_kernel_reaches_its_sparsity_and_no_other(model: Any, method: str, pattern: str, sparsity: float, schedule: str) -> None:
    before = [w.copy() for w in model.get_weights()]
    result = run(model, PruneConfig(method=method, pattern=pattern, sparsity=sparsity, schedule=schedule, epochs=2, batch_size=16, learning_rate=0.01))
    shares = {layer.name: kernels.zero_share(layer.kernel.numpy()) for layer in result.model.layers if hasattr(layer, "kernel")}
    assert shares["pointwise"] == pytest.approx(sparsity, abs=0.01) and shares["logits"] == pytest.approx(sparsity, abs=0.01)
    assert shares["stem"] == 0 and kernels.zero_share(result.model.get_layer("depthwise").depthwise_kernel.numpy()) == 0
    assert patterns.follows(result.model.get_layer("pointwise").kernel.numpy(), pattern=pattern)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))  # TFMOT wraps a clone, never the model itself
    assert [layer.name for layer in result.model.layers] == [layer.name for layer in model.layers]


@pytest.mark.parametrize("method", METHODS)
def test_batch_normalisation_keeps_its_statistics_while_the_rest_learns(model: Any, method: str) -> None:
    trained = run(model, PruneConfig(method=method, epochs=1, batch_size=16, learning_rate=0.01)).model
    for index in (2, 3):  # moving mean and variance
        assert np.array_equal(trained.get_layer("stem_bn").get_weights()[index], model.get_layer("stem_bn").get_weights()[index])
    assert not np.array_equal(trained.get_layer("stem").get_weights()[0], model.get_layer("stem").get_weights()[0])


def test_statistics_are_the_means_over_whole_batches_of_what_the_layers_now_see() -> None:
    _, keras = import_tensorflow()
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization(name="first", trainable=False)(keras.layers.Dropout(0.9)(inputs))
    x = keras.layers.BatchNormalization(name="second", momentum=0.9, trainable=False)(keras.layers.ReLU()(x))
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3), dtype=np.uint8)
    spec, chosen = tiny.tiny_spec(), np.random.default_rng(1).permutation(150)
    training.estimate_statistics(network, pixels, chosen[:63], spec)
    assert all((layer.moving_mean.numpy() == 0).all() for layer in network.layers if hasattr(layer, "moving_mean"))  # too few images to know
    training.estimate_statistics(network, pixels, chosen, spec)
    seen = training.normalize(pixels[chosen[:128]], spec)  # two batches of 64; dropout is off
    first, second = network.get_layer("first"), network.get_layer("second")
    assert np.allclose(first.moving_mean.numpy(), seen.mean((0, 1, 2)), atol=1e-4) and np.allclose(first.moving_variance.numpy(), seen.var((0, 1, 2)), rtol=0.01)
    scaled = np.concatenate([np.maximum((half - half.mean((0, 1, 2))) / np.sqrt(half.var((0, 1, 2)) + 1e-3), 0) for half in (seen[:64], seen[64:])])
    assert np.allclose(second.moving_mean.numpy(), scaled.mean((0, 1, 2)), atol=1e-3)
    assert not first.trainable and second.momentum == 0.9 and network.layers[1].rate == 0.9


def test_both_methods_choose_the_same_weights_where_nothing_is_learned(model: Any) -> None:
    config = PruneConfig(schedule="constant", sparsity=0.6, epochs=1, batch_size=48, learning_rate=0.0)
    weights = [run(model, dataclasses.replace(config, method=method)).model.get_weights() for method in METHODS]
    assert all(np.array_equal(a, b) for a, b in zip(*weights))


def test_pruned_model_still_learns_its_task(model: Any) -> None:
    result = run(model, PruneConfig(sparsity=0.5, epochs=12, batch_size=16, learning_rate=0.02))
    assert result.epochs[-1]["validation_accuracy"] > 0.9


def test_an_epoch_before_the_final_sparsity_is_never_kept(model: Any) -> None:
    result = run(model, PruneConfig(sparsity=0.9, epochs=6, batch_size=48, learning_rate=0.01))
    flags = {record["epoch"]: record["at_final_sparsity"] for record in result.epochs}
    assert flags[result.kept_epoch] and not flags[1]


def test_block_on_convolutions_goes_to_the_mask_pruner_and_says_why(model: Any) -> None:
    config = PruneConfig(pattern="block")
    method, why = choose_method(model, make_plan(model, config), method="auto")
    assert method.NAME == "mask" and "pointwise" in why
    with pytest.raises(UnsupportedError, match="--method mask"):
        choose_method(model, make_plan(model, config), method="tfmot")
    result = run(model, dataclasses.replace(config, epochs=1, batch_size=16))
    assert kernels.zero_share(result.model.get_layer("pointwise").kernel.numpy()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_block_on_dense_layers(method: str) -> None:
    dense, _ = tiny.dense_model()
    weights = run(dense, PruneConfig(method=method, pattern="block", epochs=1, batch_size=16)).model.get_layer("hidden").kernel.numpy()
    assert patterns.follows(weights, pattern="block") and kernels.zero_share(weights) == pytest.approx(0.5, abs=0.01)


def test_same_seed_same_weights(model: Any) -> None:
    config = PruneConfig(epochs=1, batch_size=16, learning_rate=0.01)
    first, second = (run(model, config).model.get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_divergence_is_one_clear_error(model: Any) -> None:
    with pytest.raises(ModelError, match="learning-rate"):
        run(model, PruneConfig(method="mask", epochs=1, batch_size=16, learning_rate=float("inf")))


def test_a_kernel_that_missed_its_sparsity_is_an_error(model: Any) -> None:
    with pytest.raises(ModelError, match="pointwise has 0.0% zeros .* 50.0%"):
        kernels.check_sparsity(model, make_plan(model, PruneConfig()))


def test_nested_models_are_pruned_inside_by_masks(model: Any) -> None:
    from edgepress.tf import import_tensorflow

    _, keras = import_tensorflow()
    image = keras.layers.Input((tiny.SIDE, tiny.SIDE, 3))
    nested = keras.Model(image, model(image, training=False))
    plan = make_plan(nested, PruneConfig())
    assert [kernel.layer for kernel in plan.kernels] == [f"{model.name}/pointwise", f"{model.name}/logits"]
    assert choose_method(nested, plan, method="auto")[0].NAME == "mask"
    run(nested, PruneConfig(epochs=1, batch_size=16))  # checks the sparsity reached


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "expected"), [("MobileNetV2", {"alpha": 0.35}, "tfmot"), ("MobileNetV3Small", {"include_preprocessing": False}, "mask"), ("EfficientNetB0", {}, "mask")])
def test_backbones_of_keras(name: str, options: dict, expected: str) -> None:
    from edgepress.tf import import_tensorflow

    _, keras = import_tensorflow()
    backbone = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), include_top=False, pooling="avg", **options)
    network = keras.Model(backbone.input, keras.layers.Softmax(name="probabilities")(keras.layers.Dense(3, name="logits")(backbone.output)))
    config = PruneConfig(epochs=1, batch_size=4, sparsity=0.75)
    plan = make_plan(network, config, images=4)
    method, why = choose_method(network, plan, method="auto")
    assert method.NAME == expected, why
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    images = training.Images(pixels, np.array([0, 1, 2, 0]))
    spec = dataclasses.replace(tiny.tiny_spec(), input_height=32, input_width=32)
    result = training.fine_tune(network, plan, method=method, train=images, validation=images, spec=spec, config=config)
    records = kernels.check_sparsity(result.model, plan)
    assert len(records) > 20 and all(record["sparsity"] == pytest.approx(0.75, abs=0.01) for record in records)
