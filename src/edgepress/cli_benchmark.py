"""Commands around measuring: `compare`, and what `benchmark` and `report` can do besides their stage."""
from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import click

from edgepress.errors import GateError, RecipeError, UnsupportedError
from edgepress.options import config_from, config_options, given
from edgepress.progress import drawn_progress
from edgepress.recipe import BenchmarkConfig

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="OLD NEW")
@click.option("--fail-on", "gates", multiple=True, metavar="GATE", help='gate that ends with exit code 4, such as "latency>+5%", "accuracy<-0.5" (points), "size>+10%", "latency>20ms"; may be given several times')
@click.option("--strict", is_flag=True, help="fail, too, where a gate cannot be told from noise")
@click.option("--across-machines", is_flag=True, help="compare results of different machines all the same")
@click.option("--markdown", "markdown_file", type=FILE, help="write the comparison as Markdown")
@click.option("--junit", "junit_file", type=FILE, help="write the gates as JUnit XML")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
@config_options(BenchmarkConfig, only=("effort", "runtimes", "threads", "target"))
def compare(words: Tuple[str, ...], gates: Tuple[str, ...], strict: bool, across_machines: bool, markdown_file: Optional[Path], junit_file: Optional[Path], as_json: bool, **values: Any) -> None:
    """Say what is faster, slower, better or worse, as far as noise allows to tell.

    OLD and NEW are results (a run, a benchmark, a suite, an evaluation), or two model files, which are then measured by turns here and now: the surest way.
    """
    from edgepress import comparing
    from edgepress.compare import to_json
    from edgepress.compare_text import plain
    from edgepress.gates import split_gates

    paths, more = split_gates(words)
    with drawn_progress():
        comparison = comparing.compare_paths([Path(p) for p in paths], gates=(*gates, *more), config=config_from(BenchmarkConfig, values, command="compare"), across_machines=across_machines)
    comparing.write_outputs(comparison, markdown_file=markdown_file, junit_file=junit_file)
    click.echo(json.dumps(to_json(comparison), indent=2, ensure_ascii=False) if as_json else plain(comparison))
    comparing.require_met(comparison, strict=strict)


def extend_benchmark(command: click.Command) -> click.Command:
    """`benchmark` also checks itself and runs suites; the rest is the stage."""
    command.help = f"{command.help}\n\nA suite (a .toml of files, runtimes, threads and targets) is measured into -o, by default runs/NAME; what is there already is kept."
    command.params.append(click.Option(["--self-check"], is_flag=True, help="measure the first file against itself: exit code 4 where it seems faster or slower than itself"))
    command.params.append(click.Option(["--profile-ops"], is_flag=True, help="show where the time of each file goes, operator by operator, side by side, and what no delegate took"))
    command.callback = _dispatched(command.callback)
    return command


def _dispatched(stage: Optional[Callable[..., None]]) -> Callable[..., None]:
    assert stage is not None

    @functools.wraps(stage)
    def body(self_check: bool, profile_ops: bool, **values: Any) -> None:
        if self_check:
            _self_check(values)
        elif profile_ops:
            _profile_ops(values)
        elif any(path.suffix == ".toml" for path in values["model"]):
            _suite(values)
        else:
            stage(**values)
    return body


def _profile_ops(values: Any) -> None:
    from edgepress.op_profiles import profile_files, profile_text

    if values["out"] is not None:
        raise RecipeError("--profile-ops writes no results; accepted: without -o", "take --json and redirect it to keep it")
    with drawn_progress():
        profiles = profile_files(values["model"], config_from(BenchmarkConfig, values, command="benchmark"))
    click.echo(json.dumps(profiles, indent=2, ensure_ascii=False) if values["as_json"] else profile_text(profiles))
    if all(p["status"] != "ok" for p in profiles):
        raise UnsupportedError("nothing was profiled", "the reasons stand above")


def _suite(values: Any) -> None:
    from edgepress import suites
    from edgepress.artifact import write_atomic
    from edgepress.suite_text import matrix

    if len(values["model"]) != 1:
        raise RecipeError(f"benchmark got {len(values['model'])} paths, one of them a suite; accepted: one suite, or model files")
    suite = suites.with_options(suites.load_suite(values["model"][0]), given(BenchmarkConfig, values))
    out = values["out"] or Path("runs") / suite.name
    with drawn_progress():
        documents = suites.run_suite(suite, out, again=values["again"])
    write_atomic(out / "matrix.md", (matrix(documents, markdown=True) + "\n").encode())
    click.echo(json.dumps(documents, indent=2, ensure_ascii=False) if values["as_json"] else f"{matrix(documents)}\n{out}")
    suites.require_reached(documents)
    suites.require_expected(documents)


def _self_check(values: Any) -> None:
    from edgepress import comparing

    files = values["model"]
    if len(files) != 1:
        raise RecipeError(f"--self-check got {len(files)} files; accepted: one, which is measured against itself")
    with drawn_progress():
        one, other, ratio = comparing.self_check(files[0], config_from(BenchmarkConfig, values, command="benchmark"))
    document = {"file": one.file, "runtime": one.runtime, "threads": one.threads, **ratio.to_json(), "measurements": [one.summary(), other.summary()]}
    click.echo(json.dumps(document, indent=2) if values["as_json"] else comparing.self_check_text(one, other, ratio))
    if ratio.verdict != "can't tell":
        raise GateError(f"{one.file} seems {ratio.verdict} than itself on this machine now", "let the machine come to rest, close other programs, and check again; `--effort long` takes more rounds")


def extend_report(command: click.Command) -> click.Command:
    """`report` also shows a folder's history; the rest is the stage."""
    for parameter in command.params:
        if parameter.name == "run":
            parameter.required = False
    command.params.append(click.Option(["--history"], type=FILE, metavar="DIR", help="plot the figures of all results in a folder over time, into -o or DIR/history.html"))
    stage = command.callback
    assert stage is not None

    @functools.wraps(stage)
    def body(history: Optional[Path], run: Optional[Path], **values: Any) -> None:
        if (history is None) == (run is None):
            raise click.UsageError("report needs the folder of a run, or --history DIR")
        if history is not None:
            _history(history, values["out"], values.get("title"), values["as_json"])
        else:
            stage(run=run, **values)
    command.callback = body
    return command


def _history(folder: Path, out: Optional[Path], title: Optional[str], as_json: bool) -> None:
    from edgepress.artifact import write_atomic
    from edgepress.history import history, read_history, to_json
    from edgepress.history_page import render

    entries = read_history(folder)
    series = history(entries)
    page = (out / "history.html" if out.is_dir() or not out.suffix else out) if out else folder / "history.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, render(series, title=title or folder.resolve().name, runs=len(entries)).encode())
    click.echo(json.dumps(to_json(series), indent=2, ensure_ascii=False) if as_json else str(page))
