import pytest

from edgepress.pruning.plan import make_schedule
from edgepress.recipe import PruneConfig


@pytest.mark.parametrize("schedule", ["polynomial", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 48, 1000])
def test_the_last_update_is_at_the_final_sparsity_and_before_the_end(schedule: str, steps: int) -> None:
    plan = make_schedule(PruneConfig(schedule=schedule, sparsity=0.8), steps=steps)
    updates = [step for step in range(1, steps + 1) if plan.is_update(step)]
    assert updates and updates[-1] == plan.end_step <= steps
    assert plan.sparsity(updates[-1]) == pytest.approx(0.8)


def test_polynomial_grows_and_constant_does_not() -> None:
    grows = make_schedule(PruneConfig(schedule="polynomial", sparsity=0.8), steps=300)
    levels = [grows.sparsity(step) for step in range(1, 201)]
    assert levels == sorted(levels) and levels[0] < 0.05
    assert levels[99] == pytest.approx(0.8 * (1 - 0.5 ** 3))  # half-way of the cubic
    assert make_schedule(PruneConfig(schedule="constant", sparsity=0.8), steps=300).sparsity(1) == 0.8


def test_two_of_four_is_chosen_once() -> None:
    plan = make_schedule(PruneConfig(pattern="2:4"), steps=100)
    assert [step for step in range(1, 101) if plan.is_update(step)] == [1]
