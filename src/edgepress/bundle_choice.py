"""Which file of a run goes into its bundle, and the error where none may."""
from __future__ import annotations

from typing import Any, Mapping, Sequence, Tuple

import numpy as np

from edgepress import report_choice
from edgepress.errors import GateError, RecipeError, UnsupportedError, nearest
from edgepress.report_text import points

Row = Mapping[str, Any]
CANDIDATES = 3  # named in the error where nothing may ship


def choose(rows: Sequence[Row], name: str) -> Tuple[Row, str]:
    """The row of the file that ships, and why.

    Args:
        rows: see `report_data.comparison_rows`.
        name: auto (the report's own choice), a variant, or variant@runtime.
    """
    if name != "auto":
        return named(rows, name)
    if not any(row.get("certified") is True for row in rows):
        raise _nothing_certified(rows)
    verdict = report_choice.headline(rows, next((row["images"] for row in rows if row.get("images")), None))
    return next(row for row in rows if row["key"] == verdict["key"]), verdict["why"]


def named(rows: Sequence[Row], name: str, *, option: str = "choose", more: Sequence[str] = ("auto",)) -> Tuple[Row, str]:
    """The row of a variant (its best runtime), or of variant@runtime, and the sentence about it.

    Raises:
        RecipeError: no such file in the run; `option` and the `more` words that it takes stand in the message.
        UnsupportedError: no runtime runs it.
    """
    found = [row for row in rows if name in (row["variant"], row["key"])]
    if not found:
        raise RecipeError(f"bundle {option} is {name!r}; {nearest(name, {*more, *(row['variant'] for row in rows)})}")
    fit = [row for row in found if row["status"] == "ok"]
    if not fit:
        raise UnsupportedError(f"{found[0]['key']} cannot ship: {found[0]['reason']}", "choose another file of the report")
    best = min(fit, key=lambda row: (row.get("certified") is not True, report_choice.cost(row, "latency") or float("inf")))
    verdict = "is the float reference" if best["is_reference"] else {True: "certified", False: "NOT certified"}.get(best.get("certified"), "not certified: unresolved")
    return best, f"Asked for by name; {verdict}."


def _nothing_certified(rows: Sequence[Row]) -> GateError:
    """The error that names the files which came nearest, and each way on."""
    fit = [row for row in rows if row["status"] == "ok" and not row["is_reference"] and row.get("drop_at_most") is not None]
    near = sorted(fit, key=lambda row: row["drop_at_most"])[:CANDIDATES]
    reference = next((row for row in rows if row["is_reference"] and row["status"] == "ok"), None)
    listed = "; ".join(f"{row['key']} lost {points(row['drop']).lstrip('+')} points on {row['images']} test images and at most {row['drop_at_most']:.2f} are sure" for row in near)
    message = "no file of this run is certified, so none ships" + (f"; accepted: at most {near[0]['max_drop']:g} points. Nearest: {listed}" if near else ": none was compared with the float reference")
    ways = [f"--choose {near[0]['variant']} to ship it on your own judgement", f"run again with a budget of --max-drop {np.ceil(near[0]['drop_at_most'] * 10) / 10:g} or with more test images"] if near else []
    ways += [f"--choose {reference['variant']} for the float reference"] if reference else []
    return GateError(message, "; or ".join(ways) or "see the report for the reasons")
