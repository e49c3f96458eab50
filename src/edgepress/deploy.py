"""Bring a bundle to a device as a release: pushed, proven there, compared with this machine, made current in one rename, or not at all."""
from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from edgepress import bundle_files, parity
from edgepress.artifact import digest_file
from edgepress.bundle_archive import opened_bundle, write_zip
from edgepress.bundle_texts import slug_of
from edgepress.errors import ArtifactError, DeviceError, EdgepressError, GateError, JobError, UnsupportedError
from edgepress.jobs import run_job
from edgepress.progress import report_progress
from edgepress.releases import check_name
from edgepress.runtimes import RUNTIMES, load_runtime
from edgepress.targets.base import Connection
from edgepress.verify import SIGNATURE

TIMEOUT_SECONDS = 1200


@dataclass(frozen=True)
class Deployed:
    """What is current on a device now, and how it was proven. `unchecked`: models beside the main one that nothing there could run → why."""

    name: str
    target: str
    measured_on: str
    release: str
    previous: Optional[str]
    launcher: str
    runtime: Mapping[str, Any]
    signed: Optional[str]
    parity: Mapping[str, Any]
    unchecked: Mapping[str, str]


def deploy(bundle: Path, connection: Connection, name: Optional[str] = None, *, target: Optional[str] = None, key: Optional[Path] = None, keep: int = 3) -> Deployed:
    """Make a bundle the current release of an app on a device.

    The bundle is checked here, sent under its own hash, unpacked by our extractor there, compared with its manifest byte by byte, its signature verified
    there, self-tested and compared with this machine before `current` points to it; it is then run once as users will. Where anything fails, `current` is what it was.

    Args:
        name: of the app; default: the bundle's own name.
        key: public key; the bundle must be signed with its private half.
        keep: releases that stay on the device.

    Raises:
        ArtifactError: no bundle, a damaged one, or its signature is missing or wrong.
        GateError: its model answers otherwise there, or does not run there.
        UnsupportedError: no runtime of the bundle is on the device.
    """
    place = target or connection.address
    with opened_bundle(bundle) as folder, tempfile.TemporaryDirectory(prefix="edgepress-deploy-") as temporary:
        manifest = bundle_files.read_manifest(folder)
        name = check_name(name or slug_of(str(manifest.get("name") or "app")))
        _verify(folder, key)
        runtime = _runtime(manifest, connection, place)
        work, release = Path(temporary), digest_file(folder / bundle_files.MANIFEST)
        write_zip(folder, work / f"{name}.zip")
        report_progress(f"{place}: sending {name} ({(work / f'{name}.zip').stat().st_size / 1e6:.1f} MB), unpacking and testing it there")
        job = {"runtime": runtime, "name": name, "release": release}
        staged = act({**job, "action": "stage", "archive": f"{name}.zip", **({"key": str(key.resolve())} if key else {})}, connection, work=work)
        report = _compare(folder, manifest, connection, place, {**job, "action": "discard"}, work=work)
        report_progress(f"{place}: making release {release[:12]} current")
        active = act({**job, "action": "activate", "keep": keep}, connection, work=work)
    return Deployed(name=name, target=place, measured_on=connection.measured_on, release=release, previous=active["previous"], launcher=active["launcher"],
                    runtime=staged["runtime"], signed=staged["signed"], parity=report.to_json(), unchecked=staged["unchecked"])


def rollback(connection: Connection, name: Optional[str] = None, *, target: Optional[str] = None) -> Dict[str, Any]:
    """Make the release current that was so before this one.

    Args:
        name: of the app; default: the only one that is deployed there.

    Raises:
        ArtifactError: no such app, or no release before this one.
    """
    with tempfile.TemporaryDirectory(prefix="edgepress-deploy-") as temporary:
        job = {"action": "rollback", "name": check_name(name or only_app(connection, target or connection.address)), "runtime": any_runtime(connection, target or connection.address)}
        result = act(job, connection, work=Path(temporary))
    return {"name": job["name"], **{key: result[key] for key in ("release", "previous", "launcher")}}


def act(job: Mapping[str, Any], connection: Connection, *, work: Path) -> Dict[str, Any]:
    """The result of one release action on the device.

    Raises:
        GateError, ArtifactError: what the device refused, in its own words.
    """
    result = run_job({"job": "release", "apps": apps_folder(connection), **job}, work=work, target=connection, timeout_seconds=TIMEOUT_SECONDS)
    if result["status"] != "ok":
        raise UnsupportedError(f"{connection.address}: {result['reason']}")
    return result


def apps_folder(connection: Connection) -> str:
    """Where apps live on a target."""
    home = getattr(connection, "home", None)
    if home is None:
        raise UnsupportedError(f"{connection.address} keeps no apps", "deploy to local, or to an ssh or adb device")
    return f"{home() if callable(home) else home}/apps"


def any_runtime(connection: Connection, place: str) -> str:
    """The name of a runtime that is on the device, whose Python then does the work.

    Raises:
        UnsupportedError: none is.
    """
    return _first_runtime([name for name in RUNTIMES if load_runtime(name).PORTABLE], connection, place)


def _runtime(manifest: Mapping[str, Any], connection: Connection, place: str) -> str:
    """The first of the bundle's runtimes that is on the device."""
    return _first_runtime(manifest["runtimes"], connection, place)


def _first_runtime(names: List[str], connection: Connection, place: str) -> str:
    reasons = []
    for name in names:
        try:
            connection.interpreter(name)
            return name
        except DeviceError:
            raise
        except EdgepressError as error:
            reasons.append(error.message)
    raise UnsupportedError(f"{place} has none of {', '.join(names)} ({'; '.join(reasons)})", f"edgepress device check {place} tells how to install one there")


def only_app(connection: Connection, place: str) -> str:
    """The name of the only app that is deployed on a device.

    Raises:
        ArtifactError: none is, or several are.
    """
    done = connection.run(["ls", "-1", apps_folder(connection)], environment={}, timeout_seconds=60)
    names = sorted(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.exit_code == 0 else []
    if len(names) != 1:
        raise ArtifactError(f"{place} has {len(names)} apps{': ' if names else ''}{', '.join(names)}; one must be meant", "name it with --app" if names else "deploy one: edgepress deploy bundle/ --target " + place)
    return check_name(names[0])


def _verify(folder: Path, key: Optional[Path]) -> None:
    if key is None:
        if (folder / SIGNATURE).is_file():
            report_progress("the bundle is signed, but nobody checks that here: give its maker's public key with --key")
        return
    if not key.is_file():
        raise ArtifactError(f"{key} does not exist; accepted: a public key, PEM", "give the .pub.pem that `edgepress keygen` wrote")
    from edgepress.signing import verify_folder

    verify_folder(folder, key)


def _compare(folder: Path, manifest: Mapping[str, Any], connection: Connection, place: str, undo: Mapping[str, Any], *, work: Path) -> parity.ParityReport:
    """The comparison with this machine; a release that fails it is removed.

    Raises:
        GateError: it answers otherwise there.
    """
    try:
        report = parity.check_parity(folder / manifest["model"], connection, target=place, runtime=str(undo["runtime"]))
        if report.passed:
            return report
        raise GateError(f"{manifest['model']} answers otherwise on {place} than here, so the old release stays current: {report.problems[0]}",
                        f"edgepress device parity {place} BUNDLE shows each photo")
    except EdgepressError:
        with contextlib.suppress(EdgepressError):  # where the connection is gone, the next deploy finds it staged and never current
            act(undo, connection, work=work)
        raise


def predict_there(photos: Tuple[Path, ...], connection: Connection, *, name: Optional[str] = None, target: Optional[str] = None, top: int = 3, runtime: Optional[str] = None) -> List[Dict[str, Any]]:
    """What the app that is deployed on a device says about photos of this machine.

    Raises:
        ArtifactError: no such app there.
        JobError: it failed; with its own words.
    """
    app = check_name(name or only_app(connection, target or connection.address))
    for photo in photos:
        if not photo.is_file():
            raise ArtifactError(f"{photo} does not exist or is not a file", "give image files")
    launcher = f"{apps_folder(connection)}/{app}/run"
    command = ["sh", launcher, *(connection.push(photo) for photo in photos), "--json", "--top", str(top), *(["--runtime", runtime] if runtime else [])]
    done = connection.run(command, environment={}, timeout_seconds=600)
    if done.exit_code != 0:
        raise JobError(f"{app} did not answer on {target or connection.address}", command=command, exit_code=done.exit_code, stdout=done.stdout, stderr=done.stderr,
                       hint=f"edgepress deploy BUNDLE --target {target or connection.address}")
    try:
        answers = json.loads(done.stdout)
        return [{**answer, "photo": str(photo), "top": list(answer["top"]), "label": str(answer["label"])} for photo, answer in zip(photos, answers)]
    except (ValueError, TypeError, KeyError) as error:
        raise DeviceError(f"the answer of {app} is not what its program prints ({error}): {done.stdout.strip()[:200]!r}", "deploy the bundle again") from error


def format_deployed(done: Deployed) -> str:
    """What was deployed, for people, and what to type next."""
    place = done.target + (" (an emulated device)" if done.measured_on == "emulated" else "")
    before = f" (before: {done.previous[:12]}; `edgepress device rollback {done.target} {done.name}` goes back)" if done.previous else ""
    return "\n".join([f"{done.name} on {place}: release {done.release[:12]} is current{before}",
                      f"self-test and comparison with this machine passed in {done.runtime['name']} {done.runtime.get('version') or ''} ({len(done.parity['cases'])} photos, largest difference {done.parity['largest_difference']:.2g})"
                      + (f"; signature verified there, key {done.signed[:12]}" if done.signed else ""),
                      *(f"not tested there: {model}: {reason}" for model, reason in done.unchecked.items()),
                      f"there:  {done.launcher} PHOTO", f"here:   edgepress predict PHOTO --target {done.target} --app {done.name}"])
