"""Splits depend on content alone, hold together what belongs together, and leave no class without a side it can have."""
from __future__ import annotations

from collections import Counter
from hashlib import sha256

import pytest

from edgepress.splits import split_by_content


def digests(count: int, seed: str = "") -> list:
    return [sha256(f"{seed}{i}".encode()).hexdigest() for i in range(count)]


def test_shares_are_about_right() -> None:
    sides = Counter(split_by_content(digests(10_000), range(10_000), [0] * 10_000, validation=0.15, test=0.2))
    assert sides["test"] == pytest.approx(2000, abs=150) and sides["validation"] == pytest.approx(1500, abs=150)


def test_order_and_company_do_not_matter() -> None:
    every = digests(600)
    alone = dict(zip(every[:200], split_by_content(every[:200], range(200), [i % 4 for i in range(200)], validation=0.15, test=0.2)))
    order = list(range(599, -1, -1))
    together = dict(zip([every[i] for i in order], split_by_content([every[i] for i in order], order, [i % 4 for i in order], validation=0.15, test=0.2)))
    assert {d: together[d] for d in alone} == alone


def test_groups_stay_together() -> None:
    groups = [i // 7 for i in range(700)]
    sides = split_by_content(digests(700), groups, [0] * 700, validation=0.3, test=0.3)
    assert all(len({side for side, g in zip(sides, groups) if g == group}) == 1 for group in set(groups))
    assert len(set(sides)) == 3


@pytest.mark.parametrize("count, sides", [(1, {"train"}), (2, {"train", "test"}), (3, {"train", "test", "validation"}), (5, {"train", "test", "validation"})])
def test_small_classes_get_the_sides_they_can_have(count: int, sides: set) -> None:
    for seed in range(200):
        assert set(split_by_content(digests(count, f"{seed}-"), range(count), [0] * count, validation=0.15, test=0.2)) == sides


@pytest.mark.parametrize("validation, test, sides", [(0.0, 0.5, {"train", "test"}), (0.5, 0.0, {"train", "validation"}), (0.0, 0.0, {"train"})])
def test_a_share_of_zero_is_no_side(validation: float, test: float, sides: set) -> None:
    for seed in range(50):
        assert set(split_by_content(digests(4, f"{seed}-"), range(4), [0] * 4, validation=validation, test=test)) == sides
