"""The sections of the report about files: latencies, classes, photos, confusion matrices."""
from __future__ import annotations

from html import escape
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from edgepress import report_photos, report_plots as plots
from edgepress.report_choice import cost
from edgepress.report_data import Run
from edgepress.report_text import points

CLASS_ROWS = 20  # classes drawn one by one; of more, those that lost most
BESIDE_CLASSES = 6  # a table of drops fits beside the plot up to here
TABLE_CLASSES = 12  # confusion matrix with numbers up to here
HEAT_CLASSES = 100  # and as a picture up to here
OPEN_PHOTOS = 14  # two rows on a wide screen


def latencies(report: Mapping[str, Any], run: Run, css_class: Callable[[Mapping[str, Any]], str]) -> str:
    """Raw latencies by thread count."""
    rows = {(row["sha256"], row["runtime"]): row for row in report["rows"]}
    by_threads: Dict[int, List[plots.Strip]] = {}
    for m, _ in run.measurements:
        row = rows.get((m.sha256, m.runtime))
        if m.status == "ok" and row:
            by_threads.setdefault(m.threads, []).append(plots.Strip(f"{row['variant']} · {m.engine}", m.latencies_ms, css_class(row)))
    figures = "".join(f"<figure>{_strips(strips, threads)}</figure>" for threads, strips in sorted(by_threads.items()))
    note = "Every dot is one run in a fresh process (batch 1: inputs handed over, inference, outputs read); the box holds the middle half, the thick line is the median, written at the right with the 90th percentile. Fastest first."
    return f'<h2>Latency, run by run</h2><p class="note">{note}</p><div class="grid">{figures}</div>' if figures else ""


def _strips(strips: Sequence[plots.Strip], threads: int) -> str:
    fastest_first = sorted(strips, key=lambda strip: sorted(strip.values)[len(strip.values) // 2])
    return plots.strips(fastest_first, x_label=f"latency, ms, {threads} thread{'s' if threads > 1 else ''}")


def certificates(report: Mapping[str, Any], run: Run) -> Iterator[Tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(row, certificate) of every certified file, in the table's order."""
    documents = {f"{step['artifact']}/certificate.json": docs["certificate.json"] for step, docs in run.of("certify") if "certificate.json" in docs}
    for row in report["rows"]:
        document = documents.get(row["sources"].get("certificate", ""))
        if document:
            yield row, document


def classes(report: Mapping[str, Any], run: Run) -> str:
    """Which classes paid: the chosen file with intervals, and every file as a table of drops."""
    found = list(certificates(report, run))
    if not found:
        return ""
    row, document = min(found, key=lambda pair: _interest(pair[0]))
    ranked = sorted(document["per_class"], key=lambda c: -c["drop"])
    css = {"float32": "k0", "static_wi8_ai8": "k4"}.get(row["scheme"], "k1")
    left_out = f" The {CLASS_ROWS} of {len(ranked)} classes that lost most." if len(ranked) > CLASS_ROWS else ""
    note = f"{row['variant']} in {row['runtime']} against the float reference, intervals widened so that all of them hold at once (Bonferroni); dotted: the budget of {document['max_drop']:g} points.{left_out}"
    figure = f'<figure>{plots.drops(ranked[:CLASS_ROWS], limit=document["max_drop"], css=css)}<figcaption>{escape(note)}</figcaption></figure>'
    table = _drop_table(found, [c["label"] for c in ranked[:CLASS_ROWS]])
    beside = len(ranked) <= BESIDE_CLASSES or len(ranked) > TABLE_CLASSES
    return f'<h2>What each class lost</h2><div class="grid">{figure}<div>{table}</div></div>' if beside else f'<h2>What each class lost</h2>{table}<div class="grid">{figure}</div>'


def _interest(row: Mapping[str, Any]) -> Tuple[bool, bool, bool, float]:
    """Sorts the file whose classes are worth a look first: the chosen one unless it is float, else the fastest that is not over the budget."""
    return not (row["chosen"] and row["scheme"] != "float32"), row["scheme"] == "float32", row["certified"] is False, cost(row, "latency") or float("inf")


def _drop_table(found: Sequence[Tuple[Mapping[str, Any], Mapping[str, Any]]], labels: Sequence[str]) -> str:
    """Drops in points, one row per file and one column per class where that fits, otherwise the worst class of each file."""
    if len(labels) > TABLE_CLASSES:
        lines = "".join(f'<tr><td class="left">{_file(row)}</td><td>{escape(d["worst_class"]["label"])}</td><td>{points(d["worst_class"]["drop"])}</td></tr>' for row, d in found)
        return f'<div class="scroll"><table><thead><tr><th>File</th><th>Worst class</th><th>Drop, points</th></tr></thead><tbody>{lines}</tbody></table></div>'
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = ""
    for row, document in found:
        drops = {c["label"]: c["drop"] for c in document["per_class"]}
        body += f'<tr><th scope="row">{_file(row)}</th>' + "".join(_drop_cell(drops.get(label)) for label in labels) + "</tr>"
    return f'<div class="scroll"><table class="losses"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div><p class="note">Percentage points of recall; + is lost, − is won.</p>'


def _drop_cell(drop: Optional[float]) -> str:
    if not drop:
        return f'<td class="zero">{"–" if drop is None else "0"}</td>'
    return f'<td class="{"miss" if drop > 0 else "won"}" style="--v:{min(1.0, abs(drop) / 10):.2f}">{points(drop)}</td>'


def _file(row: Mapping[str, Any]) -> str:
    return f'{escape(row["variant"])}<br><span class="note">{escape(row["runtime"])}</span>'


def photos(report: Mapping[str, Any], run: Run, *, limit: int) -> str:
    """Photos whose answer changed, and photos the reference gets wrong."""
    flipped = report_photos.flipped(list(certificates(report, run)), run, limit=limit)
    wrong = report_photos.misclassified(next((row for row in report["rows"] if row["is_reference"] and row["status"] == "ok"), None), run, limit=limit)
    parts = []
    if flipped.cards:
        parts.append(f'<h2>Photos whose answer changed</h2><p class="note">Right in the float reference and wrong in a file, or the other way round; {flipped.note}</p>{_cards(flipped)}')
    if wrong.cards:
        parts.append(f'<h{3 if parts else 2}>Photos the float reference gets wrong</h{3 if parts else 2}><p class="note">The surest mistakes first; {wrong.note}</p>{_cards(wrong)}')
    return "".join(parts)


def _cards(gallery: report_photos.Gallery) -> str:
    """The first photos open, the others folded."""
    cards = [f'<figure>{_image(c)}<b>{escape(c.title)}</b>{"".join(f"<br>{_said(line)}" for line in c.lines)}</figure>' for c in gallery.cards]
    more = cards[OPEN_PHOTOS:]
    folded = f'<details><summary>{len(more)} more</summary><div class="photos">{"".join(more)}</div></details>' if more else ""
    return f'<div class="photos">{"".join(cards[:OPEN_PHOTOS])}</div>{folded}'


def _said(line: report_photos.Line) -> str:
    return f'<span title="{escape(line.detail, quote=True)}">{escape(line.text)}</span>'


def _image(card: report_photos.Card) -> str:
    return f'<img loading="lazy" alt="{escape(card.alt, quote=True)}" src="{card.data}">' if card.data else '<span class="none"></span>'


def mistakes(report: Mapping[str, Any], run: Run) -> str:
    """Confusion matrices: the reference and the chosen file open, the others folded."""
    documents = {f"{step['artifact']}/evaluation.json": docs["evaluation.json"] for step, docs in run.of("evaluate") if "evaluation.json" in docs}
    rows = [(row, documents[row["sources"]["evaluation"]]) for row in report["rows"] if row["status"] == "ok" and row["sources"]["evaluation"] in documents]
    first = [pair for pair in rows if pair[0]["is_reference"] or pair[0]["chosen"]]
    if not first:
        return ""
    shown = "".join(f"<div><h3>{escape(row['variant'])} · {escape(row['runtime'])}</h3>{confusion(d)}</div>" for row, d in first)
    rest = "".join(f'<details><summary>{escape(row["variant"])} · {escape(row["runtime"])}</summary>{confusion(d)}</details>' for row, d in rows if (row, d) not in first and len(d["labels"]) <= TABLE_CLASSES)
    return f'<h2>Confusion</h2><p class="note">Rows are the true classes, columns what the file said.</p><div class="grid">{shown}</div>{rest}'


def confusion(document: Mapping[str, Any]) -> str:
    """A table with numbers for few classes, a picture for more, and always the commonest confusions in words."""
    labels, matrix = document["labels"], document["confusion"]
    if len(labels) > TABLE_CLASSES:
        return (f"<figure>{plots.heat(matrix, labels)}</figure>" if len(labels) <= HEAT_CLASSES else "") + _commonest(labels, matrix)
    head = "".join(f'<th scope="col">{escape(label)}</th>' for label in labels)
    body = ""
    for index, (label, values) in enumerate(zip(labels, matrix)):
        total = max(1, sum(values))
        cells = "".join(f'<td class="{"zero" if not v else "hit" if i == index else "miss"}" style="--v:{v / total:.2f}">{v or "·"}</td>' for i, v in enumerate(values))
        body += f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    return f'<div class="scroll"><table class="confusion"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _commonest(labels: Sequence[str], matrix: Sequence[Sequence[int]], *, count: int = 10) -> str:
    pairs = sorted(((v, labels[r], labels[c]) for r, values in enumerate(matrix) for c, v in enumerate(values) if v and r != c), reverse=True)[:count]
    return "<ul>" + "".join(f"<li>{escape(a)} taken for {escape(b)}: {v}</li>" for v, a, b in pairs) + "</ul>" if pairs else '<p class="note">No mistakes.</p>'
