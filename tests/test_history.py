"""Figures over time: found wherever results lie, ordered, split by machine, on one page that needs no network."""
from __future__ import annotations

import dataclasses
import json
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from report_run import make_run
from test_compare import a_measurement

from edgepress.cli import cli
from edgepress.errors import ArtifactError
from edgepress.history import history, read_history
from edgepress.history_page import render
from edgepress.measurement import FILE, dump


def keep(folder: Path, *, ms: float, day: int, name: str = FILE, **facts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = dataclasses.replace(a_measurement(ms=ms, seed=day), started=f"2026-11-{day:02}T10:00:00+00:00", **facts)
    (folder / name).write_text(dump([record]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keep(tmp_path / "c-first", ms=2.0, day=1)
    keep(tmp_path / "nested" / "b-second", ms=2.0, day=2)
    keep(tmp_path, ms=2.5, day=3, name="third.json")
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_in_the_order_of_time_wherever_it_lies(folder: Path) -> None:
    assert [label for _, label, _ in read_history(folder)] == ["c-first", "nested/b-second", "third.json"]
    latency = next(s for s in history(read_history(folder)) if s.metric == "latency")
    assert [round(p.value, 1) for p in latency.points] == [2.0, 2.0, 2.5] and latency.ratio is not None and latency.ratio.verdict == "slower"
    assert all(p.low < p.value < p.high for p in latency.points)


def test_runs_have_accuracies(tmp_path: Path) -> None:
    make_run(tmp_path / "one"), make_run(tmp_path / "two", seed=1)
    series = history(read_history(tmp_path))
    accuracy = next(s for s in series if s.metric == "accuracy" and s.key.name == "float32.tflite")
    assert len(accuracy.points) == 2 and all(p.low <= p.value <= p.high for p in accuracy.points)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href", "data") and value]


def test_page(folder: Path) -> None:
    keep(folder / "pi", ms=9.0, day=4, host={"cpu": "x", "board": "Pi <4>", "cpus": 4})
    entries = read_history(folder)
    page = render(history(entries), title="a <title>", runs=len(entries))
    links = Links()
    links.feed(page)
    assert not links.found and "a &lt;title&gt;" in page and "<svg" in page and "Pi &lt;4&gt;" in page and "measured once" in page and "4 results, 2 machines" in page


def test_command(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", "--history", str(folder), "--json"])
    assert done.exit_code == 0 and {s["metric"] for s in json.loads(done.stdout)} == {"latency", "size", "memory"} and (folder / "history.html").stat().st_size > 3000
    assert CliRunner().invoke(cli, ["report", "--history", str(folder), "-o", str(tmp_path / "x" / "page.html")]).stdout.strip().endswith("page.html")
    assert "--history DIR" in CliRunner().invoke(cli, ["report"]).output


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no results"):
        read_history(tmp_path)
    with pytest.raises(ArtifactError, match="is no folder"):
        read_history(tmp_path / "none")


@pytest.mark.slow
def test_a_thousand_measurements(tmp_path: Path) -> None:
    """The bar is 2 s on a quiet machine; four times that here, where others may be at work."""
    one = a_measurement()
    for number in range(10):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / FILE).write_text(dump([dataclasses.replace(one, file=f"{i}/m.tflite") for i in range(100)]))
    started = time.process_time()
    entries = read_history(tmp_path)
    render(history(entries), title="x", runs=len(entries))
    assert time.process_time() - started < 8
