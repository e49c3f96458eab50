"""The report of a run: figures are those of the artifacts, the page is whole, small, safe and needs no network."""
from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from report_run import make_run  # noqa: E402

from edgepress.errors import ArtifactError  # noqa: E402
from edgepress.recipe import ReportConfig  # noqa: E402
from edgepress.report_text import HEAD, at_most, markdown_table, plain_table, summary_lines, table_rows  # noqa: E402
from edgepress.stages.report import report  # noqa: E402

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps ids, links, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.addresses, self.text = [], set(), set(), [], []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                assert value not in self.ids
                self.ids.add(value)
            if key in ("src", "href", "xlink:href", "action", "data"):
                if (value or "").startswith("#"):
                    self.links.add(value[1:])
                else:
                    self.addresses.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(6):
        Image.new("RGB", (300, 200), (40 * i, 100, 200)).save(folder / f"{i}.jpg")
    Image.new("RGB", (28, 28), (9, 9, 9)).save(folder / "small.png")
    return sorted(folder.iterdir())


def write(run: Path, **config) -> Path:
    out = run / "report-1"
    out.mkdir()
    report(out, run=run, config=ReportConfig(**config))
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory, photos):
    out = write(make_run(tmp_path_factory.mktemp("run") / "r", photos=photos))
    return out, json.loads((out / "report.json").read_text()), (out / "report.html").read_text()


def row_of(facts, key):
    return next(row for row in facts["rows"] if row["key"] == key)


def test_figures_are_those_of_the_artifacts(made):
    out, facts, _ = made
    row = row_of(facts, "static_wi8_ai8.tflite@litert")
    evaluation = json.loads((out.parent / row["sources"]["evaluation"]).read_text())
    certificate = json.loads((out.parent / row["sources"]["certificate"]).read_text())
    assert row["accuracy"] == evaluation["accuracy"] and row["size_bytes"] == evaluation["size_bytes"]
    assert row["drop"] == certificate["drop"] and row["certified"] == certificate["certified"] and row["verdict"] == certificate["reason"]
    records = json.loads((out.parent / "benchmark-1" / "measurements.json").read_text())
    own = next(r for r in records if r["sha256"] == row["sha256"] and r["threads"] == 1)
    values = sorted(v for one in own["rounds"] for v in one["latencies_ms"])
    assert row["latency"]["1"]["median_ms"] == pytest.approx((values[119] + values[120]) / 2) and row["latency"]["1"]["runs"] == 240
    assert row["most_threads"] == "2" and row["gzip_bytes"] == own["gzip_bytes"]


def test_the_reference_comes_first_and_is_not_certified(made):
    _, facts, _ = made
    first = facts["rows"][0]
    assert first["key"] == "float32.tflite@litert" and first["is_reference"] and first.get("certified") is None
    assert sum(row["is_reference"] for row in facts["rows"]) == 1


def test_a_speedup_is_claimed_only_where_its_interval_excludes_one(made):
    _, facts, _ = made
    fast, same = (row_of(facts, f"{v}.tflite@litert")["latency"]["1"] for v in ("static_wi8_ai8", "float16"))
    assert fast["speedup_claimed"] and 2.7 < fast["speedup"] < 2.9 and fast["speedup_interval"][0] < fast["speedup"] < fast["speedup_interval"][1]
    assert not same["speedup_claimed"] and same["speedup_interval"][0] < 1 < same["speedup_interval"][1]
    slow = row_of(facts, "dynamic_wi8_afp32.tflite@litert")["latency"]["1"]
    assert slow["speedup_claimed"] and slow["speedup"] < 0.5  # slower is said as plainly
    assert row_of(facts, "float32.onnx@onnxruntime")["latency"]["1"]["speedup"] is None  # its own base


def test_the_fastest_certified_file_is_shipped_and_a_faster_unresolved_one_is_named(made):
    _, facts, html = made
    fit = [r for r in facts["rows"] if r["status"] == "ok" and (r["is_reference"] or r["certified"] is True)]
    assert facts["headline"]["key"] == min(fit, key=lambda r: r["latency"]["1"]["median_ms"])["key"]
    assert "static_wi8_ai8.tflite in litert" in facts["headline"]["caveat"] and "test images would settle it" in facts["headline"]["caveat"] and facts["headline"]["caveat"] in html.replace("&#x27;", "'")


@pytest.mark.parametrize(("images", "keep", "words"), [
    (120, None, "No compressed file is certified: 120 test images cannot show a loss of at most 1 point."),
    (400, ("float32.tflite", "static_wi8_ai16.tflite"), "No compressed file keeps to a loss of at most 1 point."),
    (400, ("float32.tflite",), "Ship float32.tflite, run by litert."),
])
def test_the_verdict_says_why_it_is_float(tmp_path, images, keep, words):
    run = make_run(tmp_path / "r", images=images)
    document = json.loads((run / "run.json").read_text())
    document["steps"] = [s for s in document["steps"] if s["variant"] is None or keep is None or s["variant"] in keep]
    (run / "run.json").write_text(json.dumps(document))
    headline = json.loads((write(run) / "report.json").read_text())["headline"]
    assert headline["text"] == words and headline["key"] == "float32.tflite@litert"


def test_pareto_front_is_not_beaten(made):
    _, facts, _ = made
    for key in facts["pareto"]["latency"]:
        row = row_of(facts, key)
        assert not any(r["status"] == "ok" and r["accuracy"] > row["accuracy"] and r["latency"]["1"]["median_ms"] < row["latency"]["1"]["median_ms"] for r in facts["rows"])
    assert "static_wi8_ai16.tflite@litert" not in facts["pareto"]["latency"] and len(facts["pareto"]["latency"]) >= 2


def test_nothing_skipped_is_silent(made):
    _, facts, html = made
    names = {s["name"]: s["reason"] for s in facts["skipped"]}
    assert "no ONNX kernels" in names["quantize:static_wi8_ai16.onnx"]
    assert "FULLY_CONNECTED version 12" in names["evaluate dynamic_wi8_afp32.tflite@tflite_runtime"]
    assert any(name.startswith("benchmark") for name in names)
    assert all(reason in html for reason in names.values())
    assert any("near duplicates" in w["text"] and w["source"] == "dataset-1/dataset.json" for w in facts["warnings"])


def test_the_page_is_whole_small_and_needs_no_network(made):
    _, _, html = made
    page = Page(html)
    assert len(html.encode()) < 2_000_000
    assert page.links <= page.ids and len(page.links) >= 9
    assert all(a.startswith("data:image/") for a in page.addresses) and page.addresses
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html) and "@import" not in html and "url(" not in html
    text = " ".join(page.text)
    for word in ("Ship float32.onnx", "What each class lost", "Photos whose answer changed", "Confusion", "Training", "Dataset", "Skipped, and why", "How it was made", "Example CPU <9000>"):
        assert word in text, word
    assert "viewport" in html and "prefers-color-scheme: dark" in html


def test_names_from_outside_cannot_become_markup(tmp_path):
    evil = ("<script>alert(1)</script>", "b\"onload=x", "c'&amp;", "日本", "e e")
    out = write(make_run(tmp_path / "r", labels=evil, images=60), title="<img src=x onerror=alert(1)>")
    html = (out / "report.html").read_text()
    Page(html)
    assert "<script>alert" not in html and "<img src=x" not in html and "日本" in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_photos_that_are_gone_leave_a_placeholder(tmp_path):
    html = (write(make_run(tmp_path / "r", images=120)) / "report.html").read_text()
    assert "<img" not in html and 'class="none"' in html


def test_small_photos_stay_sharp(made):
    assert "data:image/png;base64" in made[2] and "data:image/jpeg;base64" in made[2]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 30, 150])
def test_any_number_of_classes_fits(tmp_path, classes):
    out = write(make_run(tmp_path / "r", labels=[f"class {i}" for i in range(classes)], images=600, hardness=5.0))
    html = (out / "report.html").read_text()
    Page(html)
    assert len(html.encode()) < 2_000_000
    assert ("confusion matrix of 30 classes" in html) == (classes == 30) and ("taken for" in html) == (classes > 12)


def test_thumbnails_are_limited(tmp_path, photos):
    html = (write(make_run(tmp_path / "r", photos=photos), thumbnails=3) / "report.html").read_text()
    assert html.count("<img") == 6  # three flipped, three that the reference gets wrong


@pytest.mark.parametrize(("value", "digits", "text"), [(0.1498, 1, "0.2"), (0.1498, 2, "0.15"), (0.2, 1, "0.2"), (-0.34, 1, "−0.3"), (None, 1, "–")])
def test_an_upper_bound_is_rounded_up(value, digits, text):
    assert at_most(value, digits) == text


def test_plain_table_fits_a_terminal(made):
    _, facts, _ = made
    lines = plain_table(facts).splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) == 2 + len(facts["rows"])
    assert [line for line in lines if line.startswith("→ ")][0].split()[1] == "float32.onnx"
    assert "unresolved" in plain_table(facts) and "gzip" not in lines[0] and "gzip" in plain_table(facts, width=160)
    assert max(map(len, plain_table(facts, width=80).splitlines())) <= 80


def test_markdown_table_has_a_row_per_file(made):
    out, facts, _ = made
    lines = markdown_table(facts).splitlines()
    assert len(lines) == 2 + len(facts["rows"]) == 2 + len(table_rows(facts)) and all(line.count("|") == len(HEAD) + 1 for line in lines)
    text = (out / "report.md").read_text()
    assert lines[2] in text and facts["headline"]["text"] in text and "## Skipped" in text


def test_a_run_without_benchmarks_and_certificates_still_reports(tmp_path):
    run = make_run(tmp_path / "r", images=60)
    document = json.loads((run / "run.json").read_text())
    document["steps"] = [s for s in document["steps"] if s["stage"] in ("dataset", "evaluate")]
    (run / "run.json").write_text(json.dumps(document))
    out = write(run)
    facts = json.loads((out / "report.json").read_text())
    Page((out / "report.html").read_text())
    assert facts["headline"]["key"] == "float32.tflite@litert" and plain_table(facts) and markdown_table(facts)


def test_a_run_where_nothing_was_scored_is_an_error_that_says_so(tmp_path):
    run = make_run(tmp_path / "r", images=60)
    document = json.loads((run / "run.json").read_text())
    document["steps"] = [s for s in document["steps"] if s["stage"] == "dataset"]
    (run / "run.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="has no evaluated file to report on"):
        write(run)


def test_not_a_run_folder(tmp_path):
    (tmp_path / "report-1").mkdir()
    with pytest.raises(ArtifactError, match="is not the folder of a run"):
        report(tmp_path / "report-1", run=tmp_path, config=ReportConfig())


@pytest.mark.parametrize("claimed, first", [(True, "warning: timing"), (False, "warning: 0")])
def test_doubts_about_a_claimed_speedup_come_first_and_cuts_are_said(claimed, first):
    found = [{"text": str(i), "source": f"evaluate-{i}/evaluation.json"} for i in range(4)] + [{"text": "timing", "source": "benchmark-1/measurements.json"}]
    report_ = {"headline": {"text": "Ship it.", "why": "It is good."}, "warnings": found, "rows": [{"latency": {"1": {"speedup_claimed": claimed}}}]}
    lines = summary_lines(report_)
    assert lines[2] == first and len(lines) == 6 and lines[-1] == "… and 2 more in the report"
    assert summary_lines({**report_, "warnings": found[:3]})[-1] == "warning: 2"
