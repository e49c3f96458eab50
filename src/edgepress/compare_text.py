"""A comparison as plain text, as Markdown for a pull request, and as JUnit XML for a build server."""
from __future__ import annotations

from typing import Dict, List, Sequence, Tuple
from xml.etree import ElementTree

from edgepress.compare import Check, Comparison, Figure, Row

SIGNS = {"met": "ok", "failed": "FAILED", "unresolved": "can't tell"}
COLUMNS = ("what", "metric", "old", "new", "change", "95 % interval", "verdict")
TELLING = ("latency", "accuracy", "size")  # always shown; the others where they are known to differ or a gate asks for them


def plain(comparison: Comparison) -> str:
    """Table, gates and warnings for a terminal."""
    cells = [COLUMNS, *_cells(comparison)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = [f"old: {comparison.old}", f"new: {comparison.new}"]
    lines += ["  ".join(text.ljust(w) if i in (0, 1, 6) else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths))).rstrip() for line in cells]
    lines += [f"{row.key}: {row.note}" for row in comparison.rows if row.note]
    lines += [f"gate {check.gate.text}: {SIGNS[check.outcome]}: {check.key}: {check.text}" for check in comparison.checks]
    return "\n".join(lines + [f"warning: {w}" for w in comparison.warnings])


def markdown(comparison: Comparison) -> str:
    """The same for a pull request: the verdict first, details below."""
    lines = [f"### edgepress compare: {_summary(comparison)}", "", f"old: `{comparison.old}`, new: `{comparison.new}`", ""]
    if comparison.checks:
        lines += ["| gate | what | outcome | |", "|---|---|---|---|"]
        lines += [f"| `{_escape(c.gate.text)}` | {_escape(str(c.key))} | {'**' + SIGNS[c.outcome] + '**' if c.outcome == 'failed' else SIGNS[c.outcome]} | {_escape(c.text)} |" for c in comparison.checks] + [""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---|---|---:|---:|---:|---|---|"]
    lines += ["| " + " | ".join(map(_escape, line)) + " |" for line in _cells(comparison)]
    notes = [f"- {_escape(str(row.key))}: {_escape(row.note)}" for row in comparison.rows if row.note] + [f"- warning: {_escape(w)}" for w in comparison.warnings]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def junit(comparison: Comparison) -> bytes:
    """One test case per gate and key; without gates one per key that never fails. An outcome nobody can tell is skipped, with the interval."""
    cases = [_case(check) for check in comparison.checks] or [_quiet_case(row) for row in comparison.rows]
    counts = {name: sum(case.find(tag) is not None for case in cases) for name, tag in (("failures", "failure"), ("skipped", "skipped"))}
    suite = ElementTree.Element("testsuite", name="edgepress compare", tests=str(len(cases)), errors="0", **{k: str(v) for k, v in counts.items()})
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _case(check: Check) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=f"edgepress.{check.gate.metric}", name=_xml(f"{check.gate.text}: {check.key}"))
    if check.outcome == "failed":
        ElementTree.SubElement(case, "failure", message=_xml(check.text)).text = _xml(f"{check.key}: {check.text}")
    elif check.outcome == "unresolved":
        ElementTree.SubElement(case, "skipped", message=_xml(check.text))
    return case


def _quiet_case(row: Row) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname="edgepress.compare", name=_xml(str(row.key)))
    ElementTree.SubElement(case, "system-out").text = _xml(row.note or "; ".join(f"{f.metric} {' '.join(_figure(f)[2:])}" for f in row.figures.values()))
    return case


def _summary(comparison: Comparison) -> str:
    outcomes: Dict[str, int] = {}
    for check in comparison.checks:
        outcomes[check.outcome] = outcomes.get(check.outcome, 0) + 1
    if outcomes.get("failed"):
        return f"{outcomes['failed']} of {len(comparison.checks)} checks failed"
    if comparison.checks:
        return "all gates met" if set(outcomes) == {"met"} else f"no gate failed; {outcomes['unresolved']} of {len(comparison.checks)} checks can't tell"
    verdicts = [row.figures["latency"].verdict for row in comparison.rows if "latency" in row.figures]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in ("faster", "slower", "can't tell") if v in verdicts) or "no latencies on both sides"


def _cells(comparison: Comparison) -> List[Tuple[str, ...]]:
    asked = {check.gate.metric for check in comparison.checks}
    return [(str(row.key), *_figure(figure)) for row in comparison.rows for figure in row.figures.values() if _is_shown(figure, asked)]


def _is_shown(figure: Figure, asked: Sequence[str]) -> bool:
    return figure.metric in asked or (figure.metric in TELLING and not (figure.metric == "size" and figure.verdict == "same")) or figure.verdict not in ("can't tell", "same")


def _figure(f: Figure) -> Tuple[str, ...]:
    unit = {"accuracy": " %", "size": " kB", "memory": " MB"}.get(f.metric, " ms")
    old, new = (f"{v:.4g}{unit}" if v < 1000 else f"{v:.0f}{unit}" for v in (f.old, f.new))
    if f.metric == "accuracy":
        return f.metric, old, new, f"{f.value:+.2f} points", f"[{f.low:+.2f}, {f.high:+.2f}]", f.verdict
    change, low, high = (f"{100 * (v - 1):+.1f} %" for v in (f.value, f.low, f.high))
    return f.metric, old, new, change, "" if f.low == f.high else f"[{low}, {high}]", f.verdict


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _xml(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(c for c in text if c >= " " or c in "\t\n")
