"""`edgepress device …`: register, look at, prepare and measure the devices that files ship to. Parse, call one function, print."""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import click

from edgepress.errors import GateError, UnsupportedError
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
@click.argument("address")
@click.option("--name", help="how to call it from now on; default: made from the address")
@click.option("--accept-host-key", metavar="FINGERPRINT", help="the ssh host key to accept without a question: SHA256:…")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def add(address: str, name: Optional[str], accept_host_key: Optional[str], as_json: bool) -> None:
    """Register a device: ssh://[user@]host[:port] or adb://SERIAL. It is connected to once; an unknown ssh host key is shown, to be compared, and then pinned."""
    from dataclasses import asdict

    from edgepress.devices import add_device

    def ask(fingerprint: str) -> bool:
        if not sys.stdin.isatty():
            return False
        click.echo(f"{address} has the host key {fingerprint}\nOn the device, this prints it: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", err=True)
        return click.confirm("Is it the same?", err=True)

    added = add_device(address, name, ask=ask, accept_host_key=accept_host_key)
    click.echo(json.dumps(asdict(added), indent=2) if as_json else f"{added.name} is {added.address} ({added.measured_on}); next: edgepress device check {added.name}")


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def list_registered(as_json: bool) -> None:
    """List the registered devices. Looks at none of them."""
    from dataclasses import asdict

    from edgepress.devices import list_devices

    known = list_devices()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in known], indent=2))
        return
    width = max([len(one.name) for one in known], default=0)
    for one in known:
        click.echo(f"{one.name:{width}}  {one.address}  {one.measured_on}  added {one.added}" + (f"  {one.host_key}" if one.host_key else ""))
    if not known:
        click.echo("no device is registered; register one with: edgepress device add ssh://pi@raspberrypi.local", err=True)


@device.command()
@click.argument("target")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE...")
def push(target: str, files: Tuple[Path, ...]) -> None:
    """Bring files to a device, each under its sha256; prints where they are there. What is there already, byte for byte, is not sent again."""
    from edgepress.device_use import hold

    with hold(target) as connection:
        for file in files:
            click.echo(connection.push(file))


@device.command()
@click.argument("target")
def forget(target: str) -> None:
    """Remove a device from the list, by name or address, and the ssh host key that was pinned for it. Nothing changes on the device."""
    from edgepress.devices import forget_device

    forgotten = forget_device(target)
    click.echo(f"{forgotten.name} ({forgotten.address}) is forgotten")


def _profile_options(command: Any) -> Any:
    """What says which device is meant where it is not at hand."""
    for name, kind, text in (("--bits", int, "of its system, with --profile: 32 or 64"),
                             ("--python", str, "version of its Python, with --profile"), ("--profile", str, "a kind of device instead of one: rpi3, rpi4, rpi5, zero2w, android")):
        command = click.option(name, type=kind, help=text)(command)
    return command


@device.command()
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def probe(target: str, as_json: bool) -> None:
    """Look at a device: processor, system, Pythons and what they have, clock, heat, power. Changes nothing there."""
    from edgepress.device_probe import probe as probe_device
    from edgepress.device_text import probe_text
    from edgepress.device_use import hold

    with hold(target) as connection:
        facts = probe_device(connection)
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else probe_text(facts, target=target))


@device.command()
@click.argument("target", required=False)
@_profile_options
@click.option("--numpy", help="NumPy version that the runtime will meet there; default: the locked one, or what is beside it")
@click.option("--model", type=FILE, help="the file or bundle that is to run there")
@click.option("--runtime", help="runtime that is to be used there; default: each that opens the model")
@click.option("--runtime-version", "version", help="its version; default: the installed or else the locked one")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def check(target: Optional[str], model: Optional[Path], runtime: Optional[str], version: Optional[str], numpy: Optional[str], as_json: bool, **profile: Any) -> None:
    """Say what will go wrong on a device before anything is sent there, and what can be installed with which commands.

    TARGET is a device by name or address; or give --profile for one that is not at hand. Exit code 4 where there is a problem.
    """
    from edgepress.device_check import as_json as to_json
    from edgepress.device_check import check as check_device
    from edgepress.device_check import read_model
    from edgepress.device_text import check_text, verdict

    meant = _meant(target, numpy=numpy, **profile)
    known = read_model(model) if model else None
    findings = check_device(meant.facts, runtime=runtime, version=version, model=known, numpy=numpy)
    problems = [finding for finding in findings if finding.level == "problem"]
    document = {"target": meant.name, "passed": not problems, "findings": to_json(findings), "facts": meant.facts}
    click.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else check_text(meant.facts, findings, target=meant.name, option=meant.option, address=meant.address))
    if problems:
        raise GateError(f"{verdict(findings)} of {meant.name}; the first: {problems[0].message}", problems[0].fix)


@device.command()
@click.argument("target", required=False)
@_profile_options
@click.option("--runtime", required=True, help="runtime to install there: litert, onnxruntime or tflite_runtime")
@click.option("-o", "--out", type=FILE, required=True, help="folder for the wheels and their requirements.txt")
def wheels(target: Optional[str], runtime: str, out: Path, **profile: Any) -> None:
    """Download the wheels of a runtime for a device through pip, each checked against its hash, to install them there without a network."""
    from edgepress.device_install import lock_for
    from edgepress.locks import write_wheelhouse

    lock = lock_for(_meant(target, **profile).facts, runtime)
    files = write_wheelhouse(runtime, lock.python, lock.machine, out)
    click.echo(f"{out}: {len(files)} wheels of {runtime} {lock.version} for Python {lock.python} on {lock.machine}, {sum(f.stat().st_size for f in files) / 1e6:.0f} MB, and requirements.txt")


def _meant(target: Optional[str], *, profile: Optional[str], **options: Any) -> Any:
    from edgepress.device_check import look_at

    return look_at(target, profile=profile, **options)


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
        found, failure = on_each(split_targets(target), check)
    reports = list(found.values())
    documents = [report.to_json() for report in reports]
    if documents:
        click.echo(json.dumps(documents if "," in target else documents[0], indent=2, ensure_ascii=False) if as_json else "\n\n".join(map(format_report, reports)))
    if failure is not None:
        raise failure
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
@click.option("--runner", type=FILE, help="measure with this program instead: Google's benchmark_model for the device (no Python is needed there)")
@click.option("--runner-sha256", help="with --runner: what the program must be")
@click.option("--cores", type=CommaList(str), default="all", show_default=True, help="with --runner: all, little, middle, big, by taskset")
@click.option("--accelerator", help="with --runner: gpu or nnapi  [default: the CPU]")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def bench(target: str, model: Path, out: Optional[Path], as_json: bool, runtime: Optional[str], threads: Optional[Tuple[int, ...]], runner: Optional[Path], runner_sha256: Optional[str],
          cores: Tuple[str, ...], accelerator: Optional[str], **options: Any) -> None:
    """Measure one file on one device, after its answers have proved to be this machine's: threads, photo to answer, minutes without a pause, energy.

    Rounds during which the firmware throttled or the clock fell are marked, and repeated after a pause. An emulated device is not measured.
    """
    from edgepress.anchors import bench_lines
    from edgepress.artifact import write_json
    from edgepress.device_bench import Plan, format_bench, measure_device
    from edgepress.device_use import hold

    if runner:
        _bench_with(runner, runner_sha256, target, model, out=out, as_json=as_json, plan={"threads": threads or (1,), "cores": cores, "accelerator": accelerator,
                                                                                        "min_seconds": options["min_seconds"], "cool_down_seconds": options["cool_down_seconds"]})
        return
    if accelerator:
        raise click.UsageError("--accelerator goes with --runner; `edgepress benchmark --accelerator` measures those of this machine")
    with drawn_progress(), hold(target) as connection:
        raw = out.with_suffix(".npy") if out and options["sustained_minutes"] else None
        document = measure_device(model, connection, Plan(threads=threads or (), **options), target=target, runtime=runtime, raw=raw)
    if out:
        write_json(out, document)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False) if as_json else "\n".join([format_bench(document), *bench_lines(document)]))


def _bench_with(runner: Path, sha256: Optional[str], target: str, model: Path, *, out: Optional[Path], as_json: bool, plan: Dict[str, Any]) -> None:
    from edgepress.android_benchmark import Plan, opened_model, run_benchmark_model
    from edgepress.artifact import write_atomic
    from edgepress.device_use import hold
    from edgepress.measurement import dump
    from edgepress.measurement_table import table

    with drawn_progress(), opened_model(model) as (file, bundle), hold(target) as connection:
        records = run_benchmark_model(connection, runner, file, plan=Plan(**plan), bundle=bundle, runner_sha256=sha256)
    text = dump(records)
    if out:
        write_atomic(out, text.encode())
    click.echo(text if as_json else table(records), nl=not as_json)
    if not any(record.status == "ok" for record in records):
        raise UnsupportedError("nothing was measured", "the reasons stand in the table")


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


@device.command()
@click.argument("source", metavar="[BUNDLE|RUN]", type=FILE, required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="address to serve at; 0.0.0.0 for phones on the same network")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="port; default: any that is free")
@click.option("--https", is_flag=True, help="with a certificate made for this once: phones then lend camera, threads and WebGPU, after a warning")
@click.option("-o", "--out", type=FILE, help="folder for measurements.json  [default: <source>-browser]")
@click.option("--once", is_flag=True, help="end after the first result")
@click.option("--install", is_flag=True, help="get the runtimes for browsers first, by npm")
@click.option("--json", "as_json", is_flag=True, help="print the measurements as JSON at the end")
def serve(source: Optional[Path], host: str, port: int, https: bool, out: Optional[Path], once: bool, install: bool, as_json: bool) -> None:
    """Measure on any phone, by a page in its browser: prints an address and a QR code, and collects what the page measures.

    The page checks the answers on golden photos, measures, shows the table and classifies what the camera sees. Ctrl-C ends it.
    """
    from edgepress.browser.packages import install_packages
    from edgepress.browser.terminal import serve_here

    with drawn_progress():
        if install:
            install_packages()
        if source is None:
            if not install:
                raise UnsupportedError("nothing to serve was given", "edgepress device serve BUNDLE")
            return
    found = serve_here(source, host=host, port=port, https=https, out=out, once=once)
    if as_json:
        from edgepress.measurement import dump

        click.echo(dump(found), nl=False)


@device.command()
@click.argument("source", metavar="BUNDLE|RUN", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="new folder to make")
def webapp(source: Path, out: Path) -> None:
    """Write the page as a folder for any web server: checks, measures and classifies in the browser; installable, and works offline."""
    from edgepress.browser.static import write_web_app

    with drawn_progress():
        made = write_web_app(source, out)
    click.echo(f"{out}: {made['files']} files, {made['size_bytes'] / 1e6:.1f} MB, with {', '.join(made['models'])}. Put it on a web server with https; to try it here: python -m http.server -d {out} --bind 127.0.0.1")


@device.command(context_settings={"ignore_unknown_options": True})
@click.argument("profile")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--rebuild", is_flag=True, help="fetch Debian and the runtimes anew first")
def emulate(profile: str, command: Tuple[str, ...], rebuild: bool) -> None:
    """Play a Raspberry Pi (rpi3, rpi4, rpi5) on this machine: real arm64 programs, with sshd and adbd, until Ctrl-C.

    With a COMMAND after "--" it lives as long as that, which reaches it at ssh://pi@emulated-pi and adb://127.0.0.1:25555. Needs no root; changes nothing on this machine.
    """
    from edgepress.emulator import build_root, introduce, start

    with drawn_progress():
        if rebuild:
            build_root(rebuild=True)
        running = start(profile)
    with running:
        if command:
            raise SystemExit(running.serve(command))
        click.echo(introduce(running))
        running.wait()


@device.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--profile", default="rpi4", show_default=True, help="whose processor counts: rpi3, rpi4, rpi5")
@click.option("-o", "--out", type=FILE, help="file for the JSON document")
@click.option("--json", "as_json", is_flag=True, help="print one JSON document")
def instructions(files: Tuple[Path, ...], profile: str, out: Optional[Path], as_json: bool) -> None:
    """Count the instructions of one inference on a Raspberry Pi's processor, without one: the same number each time, but no time.

    FILEs are .tflite or .onnx files, or artifacts. Shows where int8 or pruning changes what is executed, and catches regressions. Takes about half a minute a file.
    """
    from edgepress.artifact import write_json
    from edgepress.emulator.instructions import count_instructions, format_counts

    with drawn_progress():
        records = count_instructions(files, profile=profile)
    if out:
        write_json(out, records)
    click.echo(json.dumps(records, indent=2, ensure_ascii=False) if as_json else format_counts(records))
    if not any(record["status"] == "ok" for record in records):
        raise UnsupportedError("nothing was counted", "the reasons stand in the table")
