"""`edgepress limits`: parse, call one function, print."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Optional, Tuple

import click

from edgepress.progress import drawn_progress

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="threads of the runtime, and of the machine's peaks")
@click.option("--runtime", default=None, help="runtime that executes the files  [default: the preferred installed one]")
@click.option("--measurements", type=FILE, default=None, help="results of `edgepress benchmark` to use instead of measuring")
@click.option("--ops", is_flag=True, help="list the operators with the longest bounds")
@click.option("--again", is_flag=True, help="measure this machine's peaks again; the best of all measurements counts")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def limits(files: Tuple[Path, ...], threads: int, runtime: Optional[str], measurements: Optional[Path], ops: bool, again: bool, as_json: bool) -> None:
    """How far model files are from what this machine allows: multiply-accumulates, bounds, measured time, where the rest goes, and how small they could be."""
    from edgepress.limits import check_runtime, find_limits
    from edgepress.limits_text import as_json as plain
    from edgepress.limits_text import format_limits
    from edgepress.measurement import read_measurements

    records = read_measurements(measurements) if measurements else ()
    with drawn_progress():
        found = find_limits(files, threads=threads, runtime=runtime, measurements=records, again=again)
    click.echo(json.dumps(plain(found), indent=2, ensure_ascii=False) if as_json else format_limits(found, ops=ops))
    check_runtime(found)
