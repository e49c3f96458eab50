"""The report as one HTML page without network: frame, verdict, comparison table and trade-off plots."""
from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from edgepress import report_origin as origin
from edgepress import report_plots as plots
from edgepress import report_sections as sections
from edgepress.report_choice import cost
from edgepress.report_data import Run
from edgepress.report_text import at_most, certified, factor, milliseconds, percent, points, size

# Colors by scheme (classes of report.css, distinguishable with the common color-vision deficiencies), shapes by runtime: never color alone.
SCHEME_CLASS = {"float32": "k0", "float16": "k1", "dynamic_wi8_afp32": "k2", "weight_only_wi8_afp32": "k3", "static_wi8_ai8": "k4", "static_wi8_ai16": "k5"}
RUNTIME_SHAPE = {"litert": "circle", "onnxruntime": "square", "tflite_runtime": "triangle", "keras": "diamond"}
SORT_SCRIPT = """document.querySelectorAll('table.sortable').forEach(t=>t.querySelectorAll('th[data-sort]').forEach(h=>{h.tabIndex=0;
const go=()=>{const i=h.cellIndex,up=h.getAttribute('aria-sort')!=='ascending',b=t.tBodies[0];t.querySelectorAll('th').forEach(o=>o.removeAttribute('aria-sort'));
h.setAttribute('aria-sort',up?'ascending':'descending');const v=r=>{const x=r.cells[i]&&r.cells[i].dataset.v;return x===undefined||x===''?null:isNaN(x)?x:+x};
[...b.rows].sort((p,q)=>{const a=v(p),c=v(q);return a===null?1:c===null?-1:(a>c?1:a<c?-1:0)*(up?1:-1)}).forEach(r=>b.append(r))};
h.onclick=go;h.onkeydown=e=>{if(e.key==='Enter'||e.key===' '){e.preventDefault();go()}}}))"""


def css_class(row: Mapping[str, Any]) -> str:
    """Color class of a row's scheme."""
    return SCHEME_CLASS.get(row["scheme"], "k6")


def shape(row: Mapping[str, Any]) -> str:
    """Marker of a row's runtime."""
    return RUNTIME_SHAPE.get(row["runtime"], "diamond")


def render(report: Mapping[str, Any], run: Run, *, thumbnails: int) -> str:
    """The whole page.

    Args:
        report: what `report_data.gather` made.
        run: the run, for raw values, confusion matrices and photos.
        thumbnails: most photos shown per gallery.
    """
    parts = [("verdict", "Verdict", verdict(report)), ("files", "Files", comparison(report)), ("warnings", "Warnings", origin.warning_list(report)),
             ("trade-offs", "Trade-offs", trade_offs(report)), ("latency", "Latency", sections.latencies(report, run, css_class)),
             ("classes", "Classes", sections.classes(report, run)), ("photos", "Photos", sections.photos(report, run, limit=thumbnails)),
             ("mistakes", "Mistakes", sections.mistakes(report, run)), ("training", "Training", origin.training(report)),
             ("pruning", "Pruning", origin.pruning(report)),
             ("dataset", "Dataset", origin.dataset(report)), ("skipped", "Skipped", origin.skipped_list(report)), ("how", "How it was made", origin.provenance(report))]
    shown = [(anchor, name, html) for anchor, name, html in parts if html]
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in shown[1:])
    style = (Path(__file__).parent / "data" / "report.css").read_text(encoding="utf-8")
    body = "".join(f'<section id="{anchor}"{_hero(report) if anchor == "verdict" else ""}>{html}</section>' for anchor, _, html in shown)
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<meta name="color-scheme" content="light dark"><title>{escape(report["title"])} – edgepress report</title><style>{style}</style></head><body><main>'
            f'<header><p>edgepress report</p><h1>{escape(report["title"])}</h1><p>{escape(_subtitle(report))}</p><nav aria-label="sections">{links}</nav></header>{body}'
            f'</main><script>{SORT_SCRIPT}</script></body></html>\n')


def _subtitle(report: Mapping[str, Any]) -> str:
    images = next((row["images"] for row in report["rows"] if row.get("images")), None)
    files = len({row["sha256"] for row in report["rows"]})
    facts = [str((report["training"] or {}).get("backbone") or ""), f"{files} files" if files else "", f"{images} test images" if images else ""]
    return " · ".join(fact for fact in facts if fact)


def _chosen(report: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    return next((row for row in report["rows"] if row["chosen"]), None)


def _hero(report: Mapping[str, Any]) -> str:
    row = _chosen(report)
    return f' class="hero{" bad" if row is None else " open" if row["is_reference"] and report["headline"]["caveat"] else ""}"'


def verdict(report: Mapping[str, Any]) -> str:
    """The headline, what it costs and gains in four tiles, and what stands against it."""
    headline, row = report["headline"], _chosen(report)
    caveat = f'<p class="caveat">{escape(headline["caveat"])}</p>' if headline["caveat"] else ""
    return f'<h2>{escape(headline["text"])}</h2><p class="why">{escape(headline["why"])}</p>{tiles(row, report) if row else ""}{caveat}'


def tiles(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Accuracy, latency, size and memory of the chosen file, each with its comparison."""
    reference = next((r for r in report["rows"] if r["is_reference"]), row)
    one = row["latency"].get("1") or next(iter(row["latency"].values()), None)
    found = [(percent(row["accuracy"]), "right on test images" + (f"; drop against float {points(row['drop'])} points [{points(row['drop_interval'][0])}, {points(row['drop_interval'][1])}]" if row.get("drop") is not None else "; the float reference"))]
    if one:
        found.append((milliseconds(one["median_ms"]), "one thread" + (f", {factor(one['speedup'])} as fast as float" if one["speedup_claimed"] else ", as fast as float within the interval" if one["speedup"] else "")))
    found.append((size(row["size_bytes"]), (f"file, {percent(row['size_bytes'] / reference['size_bytes'], 0)} of float" if row is not reference else "file") + (f"; {size(row['gzip_bytes'])} gzipped" if row["gzip_bytes"] else "")))
    if row["peak_rss_bytes"]:
        found.append((size(row["peak_rss_bytes"]), "peak memory of the process, runtime included"))
    return '<div class="tiles">' + "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in found) + "</div>"


COLUMNS = ("File", "Accuracy", "Drop, points", "Certified", "Agreement", "Size", "1 thread", "Speed-up", "All threads", "Memory")


def comparison(report: Mapping[str, Any]) -> str:
    """The table; on a phone each row becomes a card."""
    if not report["rows"]:
        return ""
    most = next((row["most_threads"] for row in report["rows"] if row.get("most_threads") not in (None, "1")), None)
    head = "".join(f'<th scope="col" data-sort>{f"{most} threads" if name == "All threads" and most else name}</th>' for name in COLUMNS)
    body = "".join(_table_row(row, report) for row in report["rows"])
    note = ("Memory: peak of the process, runtime included. Accuracy is measured on the bytes of the file, in the runtime named, on test images that nothing else has seen; the drop is paired with the float reference on the same images. "
            "Speed-up: over the float file of the same format in the same runtime with the same threads; shown only where the 95 % interval of the ratio excludes 1.0 (otherwise “none shown”).")
    return f'<h2>Files compared</h2><div class="scroll"><table class="stack sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><p class="note">{note}</p>{_verdicts(report)}'


def _verdicts(report: Mapping[str, Any]) -> str:
    """Why each file is certified or not, in words: tooltips do not exist on a phone."""
    items = "".join(f'<li><b>{escape(row["variant"])}</b> in {escape(row["runtime"])}: {escape(row["verdict"])}.{escape(_distances(row))}</li>' for row in report["rows"] if row.get("verdict"))
    return f"<details><summary>the verdicts in words</summary><ul>{items}</ul></details>" if items else ""


def _distances(row: Mapping[str, Any]) -> str:
    """How far the answers moved, whether or not the top class changed."""
    flips, kl, parity = row["flips"] or {}, row["kl"] or {}, row["parity"] or {}
    if not (flips and kl and parity):
        return ""
    return (f" McNemar p {row['mcnemar_p']:.2g}; wrong before and after, but differently: {flips['wrong_both_ways']}; KL mean {kl['mean']:.1e}, p99 {kl['p99']:.1e} nats; "
            f"largest difference of a probability {parity['max_abs_difference']:.1e}.")


def _table_row(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    safe = row["chosen"] and row["is_reference"] and report["headline"]["caveat"]
    pill = f' <span class="pill {"open" if safe else "yes"}">{"safe choice" if safe else "ship this"}</span>' if row["chosen"] else ""
    name = f'<span class="name">{escape(row["variant"])}</span>{pill}<small>{escape(row["runtime"])} {escape(row["runtime_version"] or "")}</small>'
    cells: List[Tuple[str, Any, str]] = [(name, row["variant"], "")]
    if row["status"] != "ok":
        reason = f'<span class="pill no">{escape(row["status"])}</span> {escape(str(row["reason"]))}'
        return f'<tr>{_cell(cells[0], COLUMNS[0])}<td class="left reason" colspan="{len(COLUMNS) - 1}" data-l="no figures">{reason}</td></tr>'
    one, many = row["latency"].get("1"), row["latency"].get(row["most_threads"] or "")
    cells += [_accuracy_cell(row), _drop_cell(row), _verdict_cell(row), (percent(row.get("agreement")), row.get("agreement"), ""),
              (f'{size(row["size_bytes"])}<small>{size(row["gzip_bytes"])} gzip</small>' if row["gzip_bytes"] else size(row["size_bytes"]), row["size_bytes"], ""),
              _latency_cell(one), _speedup_cell(one), _latency_cell(many) if row["most_threads"] not in (None, "1") else ("–", None, "empty"),
              (size(row["peak_rss_bytes"]), row["peak_rss_bytes"], "")]
    return f'<tr{" class=chosen" if row["chosen"] else ""}>' + "".join(_cell(cell, label) for cell, label in zip(cells, COLUMNS)) + "</tr>"


def _cell(cell: Tuple[str, Any, str], label: str) -> str:
    html, value, css = cell
    css = css or ("empty" if html == "–" else "")
    return f'<td data-l="{escape(label, quote=True)}" data-v="{escape(str("" if value is None else value), quote=True)}"{f" class={css}" if css else ""}>{html}</td>'


def _accuracy_cell(row: Mapping[str, Any]) -> Tuple[str, Any, str]:
    low, high = row["accuracy_interval"]
    return f'{percent(row["accuracy"])}<small>{100 * low:.1f} … {100 * high:.1f}</small>', row["accuracy"], ""


def _drop_cell(row: Mapping[str, Any]) -> Tuple[str, Any, str]:
    if row.get("drop") is None:
        return "–", None, ""
    low, high = row["drop_interval"]
    return f"{points(row['drop'])}<small>{points(low)} … {points(high)}</small>", row["drop"], ""


def _verdict_cell(row: Mapping[str, Any]) -> Tuple[str, Any, str]:
    word = certified(row)
    css, sign = {"yes": ("yes", "✓ "), "no": ("no", "✗ "), "unresolved": ("open", "? ")}.get(word, ("plain", ""))
    detail = f"<small>at most {at_most(row['drop_at_most'], 2)} lost</small>" if row.get("drop_at_most") is not None else ""
    return f'<span class="pill {css}" title="{escape(row.get("verdict") or "", quote=True)}">{sign}{word}</span>{detail}', word, ""


def _latency_cell(entry: Optional[Mapping[str, Any]]) -> Tuple[str, Any, str]:
    if not entry:
        return "–", None, "empty"
    tail = f"p90 {milliseconds(entry['p90_ms'])}" if entry["p90_ms"] else f"{entry['runs']} runs"
    return f"{milliseconds(entry['median_ms'])}<small>{tail}</small>", entry["median_ms"], ""


def _speedup_cell(entry: Optional[Mapping[str, Any]]) -> Tuple[str, Any, str]:
    if not entry or entry["speedup"] is None:
        return "–", None, "empty"
    interval = f"<small>{entry['speedup_interval'][0]:.2f} … {entry['speedup_interval'][1]:.2f}</small>" if entry["speedup_interval"] else ""
    return (factor(entry["speedup"]) if entry["speedup_claimed"] else '<span class="dim">none shown</span>') + interval, entry["speedup"], ""


def trade_offs(report: Mapping[str, Any]) -> str:
    """Accuracy over latency and over size, with the front of files that no other beats in both."""
    rows = [row for row in report["rows"] if row["status"] == "ok"]
    figures = [_scatter(report, rows, kind) for kind in ("latency", "size")]
    if not any(figures):
        return ""
    schemes = {row["scheme"]: (css_class(row), "circle", row["scheme"]) for row in rows}
    runtimes = {row["runtime"]: ("k0", shape(row), row["runtime"]) for row in rows}
    return ('<h2>Accuracy against latency and size</h2><p class="note">Up and to the left is better. The line joins the files that no other file beats in both. Vertical bars: the float reference’s accuracy '
            'minus the 95 % interval of the paired drop. Dashed: the float reference.</p>'
            f'<div class="grid">{"".join(figures)}</div>{plots.legend([*schemes.values(), *(runtimes.values() if len(runtimes) > 1 else [])])}')


def _scatter(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    reference = next((row["accuracy"] for row in rows if row["is_reference"]), None)
    budget = next((row["max_drop"] for row in rows if row.get("max_drop") is not None), None)
    largest = max((row["size_bytes"] for row in rows), default=1)
    found = [_point(row, reference, kind, kind == "latency" and largest, row["key"] in report["pareto"][kind]) for row in rows if cost(row, kind) is not None]
    svg = plots.scatter(found, x_label="latency, ms, one thread" if kind == "latency" else "file size, MB", y_label="accuracy, %", reference=reference and 100 * reference,
                        budget=100 * reference - budget if reference is not None and budget is not None else None)
    return f'<figure>{svg}<figcaption>{"Accuracy over latency; a larger mark is a larger file." if kind == "latency" else "Accuracy over file size."}</figcaption></figure>' if svg else ""


def _point(row: Mapping[str, Any], reference: Optional[float], kind: str, largest: Any, front: bool) -> plots.Point:
    accuracy, low, high = 100 * row["accuracy"], 100 * row["accuracy"], 100 * row["accuracy"]
    if row.get("drop_interval") and reference is not None:
        low, high = 100 * reference - row["drop_interval"][1], 100 * reference - row["drop_interval"][0]
    value = cost(row, kind)
    shown = milliseconds(value) if kind == "latency" else size(value)
    radius = 3.5 + 6 * (row["size_bytes"] / largest) ** 0.5 if largest else 5.5
    return plots.Point(row["variant"], value if kind == "latency" else value / 1e6, accuracy, low, high, radius, css_class(row), shape(row),
                       f"{row['variant']} in {row['runtime']}: {percent(row['accuracy'])}, {shown}", front)
