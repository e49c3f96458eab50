"""What dataset.json says about a divided set of photos: counts, copies, imbalance, and what its test split can resolve."""
from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from edgepress import statistics
from edgepress.splits import SIDES

SCHEMA = 1
CONFIDENCE = 0.95


def describe(*, labels: Sequence[str], names: Sequence[str], digests: Sequence[str], targets: np.ndarray, groups: np.ndarray, sides: Sequence[str],
             kept: Sequence[int], sizes: Sequence[Tuple[int, int]]) -> Dict[str, Any]:
    """The facts of a dataset; positions are those of all photos read, `kept` the ones that are used."""
    counts = {side: {label: 0 for label in labels} for side in SIDES}
    for i in kept:
        counts[sides[i]][labels[targets[i]]] += 1
    copies = _copies(labels, names, digests, targets, groups)
    test = sum(counts["test"].values())
    resolution = _resolution(test)
    per_class = {label: sum(counts[side][label] for side in SIDES) for label in labels}
    return {"splits": {side: sum(counts[side].values()) for side in SIDES}, "counts": counts, "imbalance": _imbalance(per_class),
            "duplicates": sum(len(c["paths"]) - 1 for c in copies if c["kind"] == "exact"), "near_duplicates": sum(len(c["paths"]) - 1 for c in copies if c["kind"] == "near"),
            "leaked": len(names) - len(kept), "resolvable_drop_points": resolution["smallest_resolvable_drop_points"] if resolution else None, "resolution": resolution,
            "sizes": _sizes([sizes[i] for i in kept]), "warnings": _warnings(counts, per_class, copies, len(names) - len(kept), test), "duplicate_groups": copies}


def _copies(labels: Sequence[str], names: Sequence[str], digests: Sequence[str], targets: np.ndarray, groups: np.ndarray) -> List[Dict[str, Any]]:
    """Groups of two photos or more; `kind` is exact where all bytes are equal."""
    members: Dict[int, List[int]] = defaultdict(list)
    for i, group in enumerate(groups.tolist()):
        members[group].append(i)
    return [{"kind": "exact" if len({digests[i] for i in group}) == 1 else "near", "classes": sorted({labels[targets[i]] for i in group}), "paths": [names[i] for i in group]}
            for group in members.values() if len(group) > 1]


def _imbalance(per_class: Dict[str, int]) -> Dict[str, Any]:
    largest, smallest = max(per_class, key=lambda label: per_class[label]), min(per_class, key=lambda label: per_class[label])
    return {"ratio": round(per_class[largest] / max(1, per_class[smallest]), 2), "largest": {"label": largest, "images": per_class[largest]},
            "smallest": {"label": smallest, "images": per_class[smallest]}}


def _resolution(test: int) -> Optional[Dict[str, Any]]:
    """What a paired comparison of two models on `test` photos can tell."""
    if not test:
        return None
    smallest = 100 * statistics.smallest_resolvable_drop(test, confidence=CONFIDENCE)
    flips = next(n for n in range(1, 100) if 0.5 ** n <= 1 - CONFIDENCE)
    return {
        "test_images": test, "confidence": CONFIDENCE, "smallest_resolvable_drop_points": round(smallest, 3),
        "smallest_provable_drop_points": round(100 * min(flips, test) / test, 3), "images_for_one_point": statistics.images_to_resolve(0.01, confidence=CONFIDENCE),
        "explanation": f"Two models are compared on the same {test} photos. If not one photo flips from right to wrong, a drop of {smallest:.2f} points or more is ruled out with "
                       f"{CONFIDENCE:.0%} confidence, because it would leave no trace in only {1 - CONFIDENCE:.0%} of such test sets; smaller drops cannot be ruled out. "
                       f"To show that there is a drop (one-sided exact McNemar test), at least {flips} photos must flip to wrong and none back: {100 * flips / test:.2f} points."}


def _sizes(sizes: Sequence[Tuple[int, int]]) -> Dict[str, Any]:
    values = np.array(sizes)
    spread = {name: {"min": int(column.min()), "median": int(np.median(column)), "max": int(column.max())} for name, column in zip(("width", "height"), values.T)}
    common = Counter(sizes).most_common(1)[0]
    return {**spread, "most_common": {"width": common[0][0], "height": common[0][1], "images": common[1]}}


def _warnings(counts: Dict[str, Dict[str, int]], per_class: Dict[str, int], copies: Sequence[Dict[str, Any]], leaked: int, test: int) -> List[str]:
    notes = []
    for side in ("validation", "test"):
        empty = [label for label, count in counts[side].items() if not count]
        if empty:
            notes.append(f"no {side} photos of {', '.join(empty[:8])}" + (", …" if len(empty) > 8 else ""))
    if leaked:
        notes.append(f"{leaked} photos lie in more than one split folder (as they are or nearly); the copies on the training side are left out, see skipped")
    mixed = [copy for copy in copies if len(copy["classes"]) > 1]
    if mixed:
        notes.append(f"{len(mixed)} photos lie in several classes, for example {' and '.join(mixed[0]['paths'][:2])}: one label must be wrong")
    ratio = _imbalance(per_class)["ratio"]
    if ratio >= 5:
        notes.append(f"the largest class has {ratio:g} times the photos of the smallest")
    needed = statistics.images_to_resolve(0.01, confidence=CONFIDENCE)
    if 0 < test < needed:
        notes.append(f"{test} test photos cannot show that a file loses at most 1 point: that takes {needed}")
    return notes
