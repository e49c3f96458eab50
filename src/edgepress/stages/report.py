"""Write one HTML page, JSON and Markdown about a run."""
from __future__ import annotations

from pathlib import Path

from edgepress.artifact import write_atomic, write_json
from edgepress.errors import ArtifactError
from edgepress.progress import report_progress
from edgepress.recipe import ReportConfig
from edgepress.report_data import gather, read_run
from edgepress.report_page import render
from edgepress.report_text import markdown_report


def report(out: Path, *, run: Path, config: ReportConfig) -> None:
    """Write report.html (self-contained, no network), report.json and report.md.

    Args:
        run: folder of a run: run.json and the artifacts it names.

    Raises:
        ArtifactError: not a run folder, a damaged file in it, or a run without any evaluated file.
    """
    read = read_run(run)
    facts = gather(read, title=config.title)
    if not facts["rows"]:
        raise ArtifactError(f"{run} has no evaluated file to report on", "look at the reasons in its run.json, mend them and run `edgepress run` again")
    report_progress("writing the report")
    write_atomic(out / "report.html", render(facts, read, thumbnails=config.thumbnails).encode())
    write_json(out / "report.json", facts)
    write_atomic(out / "report.md", markdown_report(facts).encode())
