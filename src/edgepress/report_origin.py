"""The sections of the report about where the files come from: training, pruning, dataset, what was skipped, machine, recipe, sources."""
from __future__ import annotations

import json
from html import escape
from typing import Any, Mapping, Optional, Sequence, Tuple

from edgepress import report_plots as plots
from edgepress.report_text import percent, size

MOST_JSON = 40_000  # characters of a document shown on the page; the whole is in the artifact


def warning_list(report: Mapping[str, Any]) -> str:
    """What the stages wrote down against themselves."""
    items = "".join(f'<li>{escape(w["text"])} <span class="note">({escape(w["source"])})</span></li>' for w in report["warnings"])
    return f"<h2>Warnings</h2><ul>{items}</ul>" if items else ""


def skipped_list(report: Mapping[str, Any]) -> str:
    """What has no result, and why."""
    items = "".join(f'<li><b>{escape(s["name"])}</b> <span class="pill plain">{escape(s["status"])}</span> {escape(s["reason"])}</li>' for s in report["skipped"])
    return f"<h2>Skipped, and why</h2><ul>{items}</ul>" if items else ""


def training(report: Mapping[str, Any]) -> str:
    """How the model learned: the head on frozen features (probe) against the fine-tuned network, and the curves."""
    facts = report["training"]
    if not facts:
        return ""
    probe, tuned = facts.get("probe") or {}, facts.get("finetune") or {}
    rows = [("backbone", facts.get("backbone")), ("weights", facts.get("weights")), ("licence of the weights", facts.get("weights_license")),
            ("images", ", ".join(f"{count} {split}" for split, count in (facts.get("images") or {}).items())),
            ("head on frozen features", probe and f"{percent(probe.get('accuracy'))} on validation, loss {probe.get('loss', 0):.4f}"),
            ("fine-tuned", f"{percent(tuned.get('accuracy'))} on validation, loss {tuned.get('loss', 0):.4f}, epoch {tuned.get('epoch')}" if tuned else "not asked for" if probe else None),
            ("kept", facts.get("kept")), ("why", facts.get("why")), ("notes", "; ".join(facts.get("notes") or [])),
            ("time", f"{sum(facts['seconds'].values()):.0f} s" if isinstance(facts.get("seconds"), dict) else None)]
    return f"<h2>Training</h2>{_facts(rows)}{_curves(tuned.get('history') or [], probe)}{_json('all of training.json', facts)}"


def _curves(history: Sequence[Mapping[str, Any]], probe: Mapping[str, Any]) -> str:
    if len(history) < 2:
        return ""
    series = {key: [epoch.get(key) for epoch in history] for key in ("loss", "validation_loss", "validation_accuracy")}
    accuracy = plots.lines({"validation accuracy": ("k4", [v and 100 * v for v in series["validation_accuracy"]])}, y_label="validation accuracy, %",
                           level=("head alone", 100 * probe["accuracy"]) if probe.get("accuracy") is not None else None)
    loss = plots.lines({"training loss": ("k0", series["loss"]), "validation loss": ("k4", series["validation_loss"])}, y_label="loss",
                       level=("head alone", probe["loss"]) if probe.get("loss") is not None else None)
    legend = plots.legend([("k4", "circle", "validation"), ("k0", "circle", "training (with augmentation)")])
    return f'<div class="grid"><figure>{accuracy}</figure><figure>{loss}</figure></div>{legend}'


def pruning(report: Mapping[str, Any]) -> str:
    """What was set to zero, and that this does not make the inference faster."""
    facts = report["pruning"]
    if not facts:
        return ""
    rows = [(key.replace("_", " "), facts.get(key)) for key in ("method", "why", "pattern", "sparsity", "note")]
    layers = "".join(f'<tr>{"".join(f"<td>{escape(str(v))}</td>" for v in layer.values() if not isinstance(v, (list, dict)))}</tr>' for layer in facts.get("layers") or [] if isinstance(layer, dict))
    table = f'<details><summary>zeros in each layer</summary><div class="scroll"><table><tbody>{layers}</tbody></table></div></details>' if layers else ""
    return f"<h2>Pruning</h2>{_facts(rows)}{table}{_json('all of training.json of the prune stage', facts)}"


def dataset(report: Mapping[str, Any]) -> str:
    """Images per class and split, what was left out and why."""
    facts = report["dataset"]
    if not facts:
        return ""
    rows = [(key.replace("_", " "), value) for key, value in facts.items() if key != "schema" and isinstance(value, (str, int, float)) and value != ""]
    rows.append(("what it can show", (facts.get("resolution") or {}).get("explanation")))
    skipped = [f"{s.get('path')}: {s.get('reason')}" for s in facts.get("skipped") or [] if isinstance(s, dict)]
    items = "".join(f"<li>{escape(text)}</li>" for text in skipped[:50])
    left_out = f"<details><summary>{len(skipped)} images were left out</summary><ul>{items}</ul></details>" if skipped else ""
    return f"<h2>Dataset</h2>{_counts(facts)}{_facts(rows)}{left_out}{_json('all of dataset.json', facts)}"


def _counts(facts: Mapping[str, Any]) -> str:
    """Images per class (rows) and split (columns), where the document has them as split → class → count."""
    counts = facts.get("counts") or {}
    labels = list(facts.get("labels") or [])
    if not counts or not labels or len(labels) > 60 or not all(isinstance(v, dict) for v in counts.values()):
        return ""
    head = "".join(f"<th>{escape(split)}</th>" for split in counts)
    body = "".join(f'<tr><td class="left">{escape(label)}</td>{"".join(f"<td>{c.get(label, 0)}</td>" for c in counts.values())}</tr>' for label in labels)
    total = f'<tr><td class="left dim">all</td>{"".join(f"<td class=dim>{sum(c.values())}</td>" for c in counts.values())}</tr>'
    return f'<div class="scroll"><table class="narrow"><thead><tr><th>Class</th>{head}</tr></thead><tbody>{body}{total}</tbody></table></div>'


def _facts(rows: Sequence[Tuple[str, Any]]) -> str:
    """Names and values; those without a value are left out."""
    shown = [(name, f"{value:.6g}" if isinstance(value, float) else str(value)) for name, value in rows if value not in (None, "", {}, [])]
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown) + "</dl>" if shown else ""


def _json(title: str, value: Any) -> str:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    shown = text if len(text) <= MOST_JSON else text[:MOST_JSON] + "\n… (shortened here; the whole is in the artifact)"
    return f"<details><summary>{escape(title)}</summary><pre>{escape(shown)}</pre></details>"


def provenance(report: Mapping[str, Any]) -> str:
    """Machine, versions, recipe, steps, and where every number of the table stands."""
    host = report["environment"]["host"] or {}
    versions = ", ".join(f"{name} {version}" for name, version in report["environment"]["versions"].items())
    facts = [("processor", host.get("cpu")), ("cores", host.get("cpus")), ("memory", size(host["memory_bytes"]) if host.get("memory_bytes") else None),
             ("system", f"{host.get('system', '')} {host.get('release') or ''} {host.get('machine', '')}".strip()), ("extensions", ", ".join(host.get("cpu_flags") or [])),
             ("Python", host.get("python")), ("governor", host.get("governor")), ("versions", versions),
             ("parity with Keras", _parity(report["conversion"]))]
    steps = [(f"{s['stage']} {s.get('variant') or ''} {s.get('runtime') or ''}", s["status"], f"{s['seconds']:.1f} s", s["artifact"] or "–") for s in report["steps"]]
    sources = [(f"{r['variant']} in {r['runtime']}", (r["sha256"] or "–")[:16], ", ".join(r["sources"].values())) for r in report["rows"]]
    return (f"<h2>How it was made</h2>{_facts(facts)}{_json('the recipe', report['recipe'])}{_table('steps and their time', ('Step', 'Status', 'Time', 'Artifact'), steps)}"
            f"{_table('where every number stands', ('File', 'sha256 begins', 'Sources in the run folder'), sources)}<p class=\"src\">{escape(RULE)}</p>")


def _parity(conversion: Optional[Mapping[str, Any]]) -> str:
    """Largest difference of a probability between each float file and the Keras model, as convert measured it."""
    found = [(f["file"], f["parity"]) for f in (conversion or {}).get("files", []) if f.get("parity")]
    return "; ".join(f"{name} in {p['runtime']}: largest difference of a probability {p['max_abs_difference']:.1e} (limit {p['tolerance']:g})" for name, p in found)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f'<td class="left">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    names = "".join(f'<th class="left">{escape(name)}</th>' for name in head)
    return f'<details><summary>{escape(title)}</summary><div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div></details>'


RULE = ("Certified: with 95 % confidence (or the one in the recipe) the accuracy lost against the float reference, paired image by image, is within the budget (Tango’s score bound, one-sided, and never below what so "
        "many images can rule out). Unresolved: these images can neither promise nor rule it out. Agreement: share of test images with the same top answer. Nothing on this page was estimated or taken from elsewhere.")
