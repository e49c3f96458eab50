"""What a finished stage says to people: a few lines about its JSON, for stdout."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence


LABELS = {"report": "report"}


def summarize(stage: str, document: Any, path: Path) -> str:
    """Lines for people about the result of `stage`: its JSON document and the folder or file that was made."""
    lines = SUMMARIES[stage](document) if stage in SUMMARIES else []
    shown = f"{LABELS[stage]}: {path}" if stage in LABELS else str(path)
    return "\n".join([*lines, shown])


def _dataset(d: Mapping[str, Any]) -> List[str]:
    rows = [{"class": label, **{split: counts.get(label, 0) for split, counts in d["counts"].items()}} for label in d["labels"]]
    resolvable = d.get("resolvable_drop_points")
    lines = [format_rows(rows, limit=30), f"{d['images']} images used, {len(d['skipped'])} skipped"]
    lines += [f"  skipped {s['path']}: {s['reason']}" for s in d["skipped"][:10]]
    if resolvable is not None:
        lines.append(f"the smallest accuracy drop that this test split can resolve: {resolvable:.2g} points")
    return lines


ACCURACIES = (("head alone", "probe", "accuracy"), ("fine-tuned", "finetune", "accuracy"), ("before pruning", "before", "validation_accuracy"), ("after pruning", "after", "validation_accuracy"))


def _training(d: Mapping[str, Any]) -> List[str]:
    keys = [k for k in ("kept", "why", "method", "sparsity", "note") if d.get(k) is not None]
    measured = [(name, (d.get(part) or {}).get(key)) for name, part, key in ACCURACIES]
    return [f"{key}: {d[key]}" for key in keys] + [f"{name}: {accuracy:.2%} right on validation images" for name, accuracy in measured if accuracy is not None]


def _evaluate(d: Mapping[str, Any]) -> List[str]:
    runtime = f"{d['runtime']['name']} {d['runtime'].get('version') or ''}".strip()
    if d.get("accuracy") is None:
        return [f"{d['file']} in {runtime}: {d['status']}: {d['reason']}"]
    low, high = d["accuracy_interval"]
    worst = min((r for r in d["per_class"] if r["recall"] is not None), key=lambda r: r["recall"])
    place = "" if d.get("target", "local") == "local" else f" on {d['target']}" + (" (an emulated device)" if d.get("measured_on") == "emulated" else "")
    return [f"{d['file']} in {runtime}{place}, {d['images']} images",
            f"accuracy {d['accuracy']:.2%} (95 % interval {low:.1%} to {high:.1%}), top-5 {d['top5']:.2%}, calibration error {d['ece']:.3f}",
            f"weakest class {worst['label']}: recall {worst['recall']:.1%} of {worst['images']} images"]


def _certify(d: Mapping[str, Any]) -> List[str]:
    verdict = {True: "certified", False: "NOT certified", "unresolved": "unresolved"}[d["certified"]]
    lines = [f"{d['file']}: {verdict} against {d['reference']['file']} (budget {d['max_drop']:g} points)", d["reason"],
             f"agreement {d['agreement']:.2%}, McNemar p {d['mcnemar_p']:.3g}, KL mean {d['kl']['mean']:.2g} p99 {d['kl']['p99']:.2g}"]
    if d.get("worst_class"):
        w = d["worst_class"]
        lines.append(f"worst class {w['label']}: {w['drop']:+.1f} points of recall over {w['images']} images")
    return lines + [f"warning: {w}" for w in d.get("warnings", ())]


def _benchmark(d: Any) -> List[str]:
    from edgepress import measurement
    from edgepress.measurement_table import table

    return [table(measurement.load_records(d))]


def _report(d: Mapping[str, Any]) -> List[str]:
    from edgepress.report_text import plain_table, summary_lines

    return [plain_table(d), *summary_lines(d)]


SUMMARIES: Mapping[str, Callable[[Any], List[str]]] = {
    "dataset": _dataset, "finetune": _training, "prune": _training, "evaluate": _evaluate, "certify": _certify, "benchmark": _benchmark, "report": _report,
}


def format_rows(rows: Sequence[Mapping[str, Any]], *, limit: int = 200) -> str:
    """Dicts with the same keys as a table in plain text."""
    if not rows:
        return "(nothing)"
    shown = list(rows)[:limit]
    names = list(shown[0])
    cells = [[_cell(row.get(name)) for name in names] for row in shown]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    lines = ["  ".join(f"{text:{width}}" for text, width in zip(line, widths)).rstrip() for line in [names, *cells]]
    return "\n".join(lines + ([f"… and {len(rows) - limit} more"] if len(rows) > limit else []))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def backbone_rows() -> List[Dict[str, Any]]:
    """The backbone table: one row per family; a name is family[_width]_size."""
    from edgepress.backbones import BACKBONES

    return [{"family": family, "widths": sorted(row.widths) or None, "sizes": sorted(row.sizes), "million parameters": row.mparams, "million MACs": row.mmac,
             "normalization": row.normalization + (" bgr" if row.bgr else ""), "comes with edgepress": "yes" if row.embedded else None, "license of the weights": row.license}
            for family, row in BACKBONES.items()]
