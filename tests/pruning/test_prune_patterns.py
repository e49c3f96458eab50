import numpy as np
import pytest

from edgepress.pruning import patterns

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 16, 8)).astype(np.float32)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("pattern", ["unstructured", "block"])
def test_mask_has_exactly_the_sparsity(pattern: str, sparsity: float) -> None:
    mask = patterns.mask_for(KERNEL, sparsity=sparsity, pattern=pattern)
    assert set(np.unique(mask)) == {0.0, 1.0} and mask.shape == KERNEL.shape
    assert abs((mask == 0).mean() - sparsity) <= 0.5 * patterns.GROUP / KERNEL.size


def test_unstructured_keeps_the_largest() -> None:
    mask = patterns.mask_for(KERNEL, sparsity=0.7, pattern="unstructured")
    assert np.abs(KERNEL[mask == 0]).max() <= np.abs(KERNEL[mask == 1]).min()


def test_equal_weights_still_reach_the_sparsity() -> None:
    assert (patterns.mask_for(np.ones((8, 8), np.float32), sparsity=0.5, pattern="unstructured") == 0).mean() == 0.5


def test_block_zeros_are_four_neighbours_along_the_input_channels() -> None:
    mask = patterns.mask_for(KERNEL, sparsity=0.5, pattern="block")
    for start in range(0, 16, 4):
        group = mask[:, :, start:start + 4, :]
        assert np.all(group.min(axis=2) == group.max(axis=2))


def test_two_of_four_keeps_the_two_largest_of_each_group() -> None:
    kernel = np.array([[1.0, -4.0, 3.0, 2.0, 0.1, 0.2, -0.4, 0.3]], np.float32).T
    assert patterns.mask_for(kernel, sparsity=0.5, pattern="2:4").ravel().tolist() == [0, 1, 1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("pattern", ["block", "2:4"])
def test_follows_tells_a_pattern_from_unstructured_zeros(pattern: str) -> None:
    assert patterns.follows(KERNEL * patterns.mask_for(KERNEL, sparsity=0.5, pattern=pattern), pattern=pattern)
    assert not patterns.follows(KERNEL * patterns.mask_for(KERNEL, sparsity=0.5, pattern="unstructured"), pattern=pattern)


@pytest.mark.parametrize(("shape", "pattern", "refused"), [((3, 3, 3, 8), "2:4", True), ((3, 3, 3, 8), "block", True), ((3, 3, 3, 8), "unstructured", False),
                                                         ((1, 1, 16, 5), "2:4", False), ((64, 5), "block", False)])
def test_groups_must_divide_the_input_channels(shape: tuple, pattern: str, refused: bool) -> None:
    assert (patterns.refusal(shape, pattern) is not None) is refused
