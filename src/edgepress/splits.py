"""Divide photos into train, validation and test by the hash of their content, so that adding photos does not move the others."""
from __future__ import annotations

from collections import defaultdict
from typing import Dict, List, Sequence, Tuple

SIDES = ("train", "validation", "test")


def split_by_content(digests: Sequence[str], groups: Sequence[int], targets: Sequence[int], *, validation: float, test: float) -> List[str]:
    """The split of each photo.

    A group of copies goes by its smallest digest, read as a fraction 0–1: below `test` it is a test photo, below `test + validation` a
    validation photo. A class that this leaves without a side gives the group nearest to the threshold, as long as it has groups to give
    (train first, then test, then validation); only in such a class can a new photo move another one.

    Args:
        groups: equal for photos that must stay together.
        targets: class index of each photo.
    """
    first: Dict[int, int] = {}
    for i, group in enumerate(groups):
        if group not in first or digests[i] < digests[first[group]]:
            first[group] = i
    classes: Dict[int, List[int]] = defaultdict(list)
    for group, i in sorted(first.items(), key=lambda item: digests[item[1]]):
        classes[targets[i]].append(group)
    side_of: Dict[int, str] = {}
    for members in classes.values():
        sides = [_side(digests[first[group]], validation, test) for group in members]
        side_of.update(zip(members, _no_side_empty(sides, wanted=(("train", 1.0), ("test", test), ("validation", validation)))))
    return [side_of[group] for group in groups]


def _side(digest: str, validation: float, test: float) -> str:
    fraction = int(digest[:13], 16) / 16 ** 13  # 52 bits: exact in a double
    return "test" if fraction < test else "validation" if fraction < test + validation else "train"


def _no_side_empty(sides: List[str], *, wanted: Sequence[Tuple[str, float]]) -> List[str]:
    """`sides` of the groups of one class, ordered by fraction (test, validation, train), after empty sides got one group."""
    sides = list(sides)
    for side, share in wanted:
        if share <= 0 or side in sides or len(sides) < 1 + [name for name, s in wanted if s > 0].index(side):
            continue
        if side == "train":
            sides[-1] = "train"
        elif side == "test":
            sides[0] = "test"
        else:  # the first train group if train keeps one, else the last test group
            sides[sides.index("train") if sides.count("train") > 1 else sides.index("train") - 1] = "validation"
    return sides
