"""`edgepress device …`: register, look at, prepare and measure the devices that files ship to. Parse, call one function, print."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional, Tuple

import click

from edgepress.errors import GateError
from edgepress.options import CommaList
from edgepress.progress import drawn_progress

FILE = click.Path(path_type=Path)


@click.group()
def device() -> None:
    """Devices: a Raspberry Pi over ssh, a phone over adb, an emulated one, any phone's browser.

    \b
    edgepress device add ssh://pi@raspberrypi.local --name pi
    edgepress device check pi
    """


@device.command()
@click.argument("target")
@click.argument("model", type=FILE)
@click.option("--runtime", help="runtime that executes the file there; default: the first one that the device has")
@click.option("--images", type=FILE, multiple=True, help="photos to compare instead of the bundle's golden ones; may be given several times")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="threads of the runtime")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def parity(target: str, model: Path, images: Tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Compare what a device makes of photos with what this machine makes of them: decoding, resizing, answers.

    TARGET is a device by name or address, or several separated by commas; MODEL a bundle or a model file. Photos that devices get wrong (turned by EXIF, grey, transparent,
    16-bit, CMYK, large) are always among those compared. Exit code 4 where one differs.
    """
    from edgepress.device_use import hold, on_each, split_targets
    from edgepress.parity import ParityReport, check_parity, format_report

    def check(name: str) -> ParityReport:
        with hold(name) as connection:
            return check_parity(model, connection, target=name, images=images, **options)

    with drawn_progress():
        reports = list(on_each(split_targets(target), check).values())
    documents = [report.to_json() for report in reports]
    click.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=2, ensure_ascii=False) if as_json else "\n\n".join(map(format_report, reports)))
    failed = [report for report in reports if not report.passed]
    if failed:
        raise GateError(f"{model} answers otherwise on {', '.join(report.target for report in failed)} than here: {failed[0].problems[0]}",
                        "figures of such a device say nothing about this file; the same versions of the runtime, Pillow and NumPy on both sides are the first thing to try")


@device.command()
@click.argument("target")
@click.argument("model", type=FILE)
@click.option("--runtime", help="runtime that executes the file there; default: the first one that the device has")
@click.option("--threads", type=CommaList(int), default=None, help="thread counts; default: 1 and all cores of the device")
@click.option("--min-seconds", type=click.FloatRange(0.0), default=1.0, show_default=True, help="shortest timed period of a round")
@click.option("--sustained", "sustained_minutes", type=click.FloatRange(0.0), default=0.0, help="minutes of inference without a pause, to see it get hot")
@click.option("--energy", "energy_seconds", type=click.FloatRange(0.0), default=0.0, help="seconds at rest and at work in which power is read (Raspberry Pi 5)")
@click.option("--cool-down", "cool_down_seconds", type=click.FloatRange(0.0), default=60.0, show_default=True, help="pause in seconds before a round that was throttled is repeated")
@click.option("-o", "--out", type=FILE, help="file for the JSON document; raw latencies of --sustained go beside it")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def bench(target: str, model: Path, out: Optional[Path], as_json: bool, runtime: Optional[str], threads: Optional[Tuple[int, ...]], **options: Any) -> None:
    """Measure one file on one device, after its answers have proved to be this machine's: threads, photo to answer, minutes without a pause, energy.

    Rounds during which the firmware throttled or the clock fell are marked, and repeated after a pause. An emulated device is not measured.
    """
    from edgepress.artifact import write_json
    from edgepress.device_bench import Plan, format_bench, measure_device
    from edgepress.device_use import hold

    with drawn_progress(), hold(target) as connection:
        raw = out.with_suffix(".npy") if out and options["sustained_minutes"] else None
        document = measure_device(model, connection, Plan(threads=threads or (), **options), target=target, runtime=runtime, raw=raw)
    if out:
        write_json(out, document)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else format_bench(document))


@device.command()
@click.argument("target")
@click.argument("app", required=False)
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def rollback(target: str, app: Optional[str], as_json: bool) -> None:
    """Make the release current that was so before the last deploy.

    APP is what `edgepress deploy` called it; it may be left out where the device has only one.
    """
    from edgepress.deploy import rollback as roll_back
    from edgepress.device_use import hold

    with drawn_progress(), hold(target) as connection:
        result = roll_back(connection, app, target=target)
    click.echo(json.dumps(result, indent=2) if as_json else f"{result['name']} on {target}: release {result['release'][:12]} is current again (was {result['previous'][:12]})")


@device.command("app")
@click.argument("platform", type=click.Choice(["android", "ios"]))
@click.argument("bundle", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="new folder to make")
def starter_app(platform: str, bundle: Path, out: Path) -> None:
    """Write a starter app in Kotlin or Swift, filled from a bundle: model, sizes, labels, preprocessing, golden photos as its test.

    It is not built here: its README says what was checked and what was not.
    """
    from edgepress.app_templates import make_app

    make_app(bundle, platform, out)
    click.echo(f"{out}: read its README.md first; nothing of it was built here")
